"""The one place that lays out the language model's token ids.

    0 .. 3                          specials: pad, bos, eos, unknown
    S + q * mulan_codes + code      MuLan code at residual-VQ level q (S = 4 specials; every level has ids of its own)
    S + Q * mulan_codes + code      semantic code

A sequence is [bos, Q MuLan tokens, semantic tokens ...]; position 0 is bos, positions 1 .. Q hold the levels in order,
every later position holds a semantic token (or eos, then pad). A dropped condition has `unknown` in all Q places.
"""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
import numpy as np

from melody_jax.geometry import Geometry
from melody_jax.shapes import Array, Bool, Int


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """Ids of the language model.

    Attributes:
      mulan_tokens: Q, residual-VQ levels.
      mulan_codes: entries per level.
      semantic_codes: k-means centres.
    """

    mulan_tokens: int
    mulan_codes: int
    semantic_codes: int

    pad: ClassVar[int] = 0
    bos: ClassVar[int] = 1
    eos: ClassVar[int] = 2
    unknown: ClassVar[int] = 3
    specials: ClassVar[int] = 4

    @classmethod
    def from_geometry(cls, geometry: Geometry) -> "Vocabulary":
        """The layout that a geometry implies."""
        return cls(geometry.mulan_tokens, geometry.mulan_codes, geometry.semantic_codes)

    @property
    def size(self) -> int:
        """V, number of ids."""
        return self.semantic_start + self.semantic_codes

    @property
    def semantic_start(self) -> int:
        """Id of semantic code 0."""
        return self.specials + self.mulan_tokens * self.mulan_codes

    @property
    def prefix(self) -> int:
        """Tokens before the first semantic one: bos and Q MuLan tokens."""
        return 1 + self.mulan_tokens

    def mulan_ids(self, codes: Int[Array, "... Q"]) -> Int[Array, "... Q"]:
        """RVQ codes, level by level, as ids."""
        return codes + self._level_starts(codes.ndim, codes.dtype)

    def mulan_codes_of(self, ids: Int[Array, "... Q"]) -> Int[Array, "... Q"]:
        """The inverse of `mulan_ids`; -1 where an id is none of its level's."""
        codes = ids - self._level_starts(ids.ndim, ids.dtype)
        return jnp.where((codes >= 0) & (codes < self.mulan_codes), codes, -1)

    def semantic_ids(self, codes: Int[Array, "..."]) -> Int[Array, "..."]:
        """Semantic codes as ids."""
        return codes + self.semantic_start

    def semantic_codes_of(self, ids: Int[Array, "..."]) -> Int[Array, "..."]:
        """The inverse of `semantic_ids`; -1 where an id is no semantic one."""
        codes = ids - self.semantic_start
        return jnp.where((codes >= 0) & (codes < self.semantic_codes), codes, -1)

    def sequence(
        self,
        mulan: Int[Array, "B Q"],
        semantic: Int[Array, "B N"],
        keep: Bool[Array, " B"] | None = None,
    ) -> Int[Array, "B W"]:
        """[bos, MuLan ids, semantic ids] of width W = 1 + Q + N; `unknown` for MuLan where `keep` is False."""
        prefix = self.condition(mulan, keep)
        return jnp.concatenate([prefix, self.semantic_ids(semantic).astype(prefix.dtype)], axis=1)

    def condition(self, mulan: Int[Array, "B Q"], keep: Bool[Array, " B"] | None = None) -> Int[Array, "B P"]:
        """[bos, MuLan ids], P = 1 + Q: what generation starts from; `unknown` where `keep` is False."""
        ids = self.mulan_ids(mulan)
        if keep is not None:
            ids = jnp.where(keep[:, None], ids, self.unknown)
        return jnp.concatenate([jnp.full((ids.shape[0], 1), self.bos, ids.dtype), ids], axis=1)

    def legal(self, positions: Int[Array, "*p"]) -> Bool[Array, "*p V"]:
        """Which ids may stand at a position of a sequence: masks the logits of the token that goes there.

        bos at 0; the level's codes or `unknown` at 1 .. Q; from there semantic codes, eos or pad.
        """
        position = positions[..., None]
        ids = jnp.arange(self.size, dtype=positions.dtype).reshape((1,) * positions.ndim + (-1,))
        start = self.specials + (position - 1) * self.mulan_codes
        level = (ids >= start) & (ids < start + self.mulan_codes) | (ids == self.unknown)
        semantic = (ids >= self.semantic_start) | (ids == self.eos) | (ids == self.pad)
        after = jnp.where(position <= self.mulan_tokens, level, semantic)
        return jnp.where(position <= 0, ids == self.bos, after)

    def _level_starts(self, ndim: int, dtype) -> Array:
        starts = self.specials + np.arange(self.mulan_tokens) * self.mulan_codes
        return jnp.asarray(starts.reshape((1,) * (ndim - 1) + (-1,)), dtype)
