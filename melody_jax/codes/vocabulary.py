"""The one place that lays out the language model's token ids.

    0 .. 3                          specials: pad, bos, eos, unknown
    A + q * mulan_codes + code      MuLan code at residual-VQ level q (A = 4 specials; every level has ids of its own)
    B + code                        semantic code of 0 .. R * semantic_codes - 1 (level r: r * semantic_codes onwards)
    C + sum(sizes before k) + code  code of control k, where the model has controls (codes/controls.py)

A sequence is [bos, Q MuLan tokens, controls, semantic tokens ...]: R semantic tokens for every moment, coarse to fine.
A dropped condition has `unknown` in the Q places and code 0, "not known", in those of the controls.
"""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
import numpy as np

from melody_jax.codes import controls as controls_lib
from melody_jax.geometry import Geometry
from melody_jax.shapes import Array, Bool, Float, Int

_TEMPO, _METRE, _PHASE = (controls_lib.SLOTS.index(name) for name in ("tempo", "metre", "phase"))
_TEMPI = np.array([0.0, *np.arange(controls_lib.SLOWEST, controls_lib.FASTEST + 1)], np.float32)
_BARS = np.array([0, *controls_lib.BEATS.values()], np.int32)


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """Ids of the language model.

    Attributes:
      mulan_tokens: Q, residual-VQ levels.
      mulan_codes: entries per level.
      semantic_codes: k-means centres of each semantic level.
      semantic_levels: R.
      controls: number of codes of each control; () for none.
      token_rate: moments a second.
    """

    mulan_tokens: int
    mulan_codes: int
    semantic_codes: int
    semantic_levels: int = 1
    controls: tuple[int, ...] = ()
    token_rate: float = 25.0

    pad: ClassVar[int] = 0
    bos: ClassVar[int] = 1
    eos: ClassVar[int] = 2
    unknown: ClassVar[int] = 3
    specials: ClassVar[int] = 4

    @classmethod
    def of(cls, geometry: Geometry, controls: bool = False) -> "Vocabulary":
        """The layout of a geometry, with or without controls (`LMConfig.controls`)."""
        sizes = tuple(controls_lib.SIZES) if controls else ()
        return cls(
            geometry.mulan_tokens,
            geometry.mulan_codes,
            geometry.semantic_codes,
            geometry.semantic_levels,
            sizes,
            geometry.token_rate,
        )

    @property
    def size(self) -> int:
        """V, number of ids; with controls filled up to a multiple of 8, which meshes can split."""
        ids = self.control_start + sum(self.controls)
        return ids + -ids % 8 if self.controls else ids

    @property
    def semantic_start(self) -> int:
        """Id of semantic code 0."""
        return self.specials + self.mulan_tokens * self.mulan_codes

    @property
    def control_start(self) -> int:
        """Id of code 0 of the first control."""
        return self.semantic_start + self.semantic_levels * self.semantic_codes

    @property
    def prefix(self) -> int:
        """Tokens before the first semantic one: bos, Q MuLan tokens, controls."""
        return 1 + self.mulan_tokens + len(self.controls)

    def mulan_ids(self, codes: Int[Array, "... Q"]) -> Int[Array, "... Q"]:
        """RVQ codes, level by level, as ids."""
        starts = self.specials + np.arange(self.mulan_tokens) * self.mulan_codes
        return codes + _along_last(starts, codes)

    def control_ids(self, codes: Int[Array, "... controls"]) -> Int[Array, "... controls"]:
        """Codes of the controls as ids."""
        return codes + _along_last(self._control_starts, codes)

    @property
    def _control_starts(self) -> np.ndarray:
        return self.control_start + np.cumsum((0, *self.controls))[:-1]

    def semantic_ids(self, codes: Int[Array, "..."]) -> Int[Array, "..."]:
        """Semantic codes as ids."""
        return codes + self.semantic_start

    def semantic_codes_of(self, ids: Int[Array, "..."]) -> Int[Array, "..."]:
        """The inverse of `semantic_ids`; -1 where an id is no semantic one."""
        return jnp.where((ids >= self.semantic_start) & (ids < self.control_start), ids - self.semantic_start, -1)

    def sequence(
        self,
        mulan: Int[Array, "B Q"],
        semantic: Int[Array, "B N"],
        keep: Bool[Array, " B"] | None = None,
        controls: Int[Array, "B controls"] | None = None,
    ) -> Int[Array, "B W"]:
        """[condition, semantic ids]; see `condition`."""
        prefix = self.condition(mulan, keep, controls)
        return jnp.concatenate([prefix, self.semantic_ids(semantic).astype(prefix.dtype)], axis=1)

    def condition(
        self,
        mulan: Int[Array, "B Q"],
        keep: Bool[Array, " B"] | None = None,
        controls: Int[Array, "B controls"] | None = None,
    ) -> Int[Array, "B prefix"]:
        """[bos, MuLan ids, control ids], [B, prefix]: what generation starts from.

        Args:
          mulan: RVQ codes.
          keep: False where the condition is dropped; all are kept if None.
          controls: codes of the controls; none of them is known if None. Not read by a vocabulary without controls.
        """
        ids = self.mulan_ids(mulan)
        if keep is not None:
            ids = jnp.where(keep[:, None], ids, self.unknown)
        columns = [jnp.full((ids.shape[0], 1), self.bos, ids.dtype), ids]
        if self.controls:
            codes = jnp.zeros((ids.shape[0], len(self.controls)), ids.dtype) if controls is None else controls
            if keep is not None:
                codes = jnp.where(keep[:, None], codes, 0)
            columns.append(self.control_ids(codes).astype(ids.dtype))
        return jnp.concatenate(columns, axis=1)

    def without_condition(self, condition: Int[Array, "B prefix"]) -> Int[Array, "B prefix"]:
        """The condition with everything in it dropped."""
        mulan = jnp.zeros((condition.shape[0], self.mulan_tokens), condition.dtype)
        return self.condition(mulan, jnp.zeros((condition.shape[0],), bool))

    @property
    def condition_size(self) -> int:
        """Number of ids that can stand in a condition: all but the semantic ones."""
        return self.semantic_start + sum(self.controls)

    def condition_rows(self, condition: Int[Array, "B prefix"]) -> Int[Array, "B prefix"]:
        """The ids of a condition, counted 0 .. condition_size - 1, with its phase not known: what holds for all of a piece.

        Args:
          condition: of this vocabulary, or of the same one without controls, which has fewer columns.
        """
        if condition.shape[1] == self.prefix and self.controls:
            condition = condition.at[:, self._phase_column].set(int(self._control_starts[_PHASE]))
        semantic = self.control_start - self.semantic_start
        return jnp.where(condition < self.control_start, condition, condition - semantic)

    @property
    def _phase_column(self) -> int:
        return 1 + self.mulan_tokens + _PHASE

    def beats(
        self, condition: Int[Array, "B prefix"], moments: Int[Array, "#B W"]
    ) -> tuple[Float[Array, "B W"], Int[Array, "B 1"], Bool[Array, "B 1"]]:
        """Where in the bar each moment stands, as far as tempo, metre and phase of the condition tell it.

        Args:
          condition: of a vocabulary with controls.
          moments: counted from the first one after the condition.

        Returns:
          (beats since the first beat of a bar, 0 where unknown; beats in a bar, 0 where unknown; whether beats are known).
        """
        codes = condition[:, 1 + self.mulan_tokens : self.prefix] - self._control_starts[None].astype(condition.dtype)
        tempo, bar, phase = (codes[:, slot, None] for slot in (_TEMPO, _METRE, _PHASE))
        known = (tempo > 0) & (phase > 0)
        speed = jnp.asarray(_TEMPI)[tempo] / (60 * self.token_rate)
        place = (phase - 1).astype(jnp.float32) / controls_lib.PHASE_STEPS
        beats = place + moments.astype(jnp.float32) * speed
        return jnp.where(known, beats, 0.0), jnp.where(known, jnp.asarray(_BARS)[bar], 0), known

    def later(
        self, condition: Int[Array, "B prefix"], moments: Int[Array, " B"] | Int[Array, ""] | int
    ) -> Int[Array, "B prefix"]:
        """The condition of the same pieces from some moments on: where its phase is known, it is that of the new start."""
        if not self.controls:
            return condition
        since = jnp.broadcast_to(jnp.asarray(moments, jnp.int32), condition.shape[:1])[:, None]
        beats, bar, known = self.beats(condition, since)
        steps = controls_lib.PHASE_STEPS
        place = jnp.round(beats * steps).astype(jnp.int32) % (jnp.maximum(bar, 1) * steps)
        ids = place[:, 0].astype(condition.dtype) + int(self._control_starts[_PHASE]) + 1
        column = self._phase_column
        return condition.at[:, column].set(jnp.where(known[:, 0], ids, condition[:, column]))

    def legal(self) -> Bool[np.ndarray, "R V"]:
        """Which ids may stand at the n-th semantic place, n modulo R: those of its level."""
        level = (np.arange(self.size) - self.semantic_start) // self.semantic_codes
        return level[None, :] == np.arange(self.semantic_levels)[:, None]


def _along_last(values: np.ndarray, like: Array) -> Array:
    return jnp.asarray(values.reshape((1,) * (like.ndim - 1) + (-1,)), like.dtype)
