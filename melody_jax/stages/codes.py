"""The codes stage: residual k-means of semantic features and residual VQ of MuLan embeddings."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from melody_jax import config as config_lib
from melody_jax import graph, storage
from melody_jax.bundle.part import load_part, read_info
from melody_jax.codes import kmeans, memory, rvq
from melody_jax.codes.config import CodesConfig
from melody_jax.errors import UserError
from melody_jax.geometry import Geometry
from melody_jax.mulan.config import MuLanConfig
from melody_jax.mulan.network import MuLan
from melody_jax.nn.measured import variables
from melody_jax.semantic.config import SemanticConfig
from melody_jax.semantic.network import SemanticEncoder
from melody_jax.storage import Path
from melody_jax.train.optim import OptimConfig
from melody_jax.train.stage import HostBatch, Metrics, Stage
from melody_jax.train.state import TrainState

PARENTS = graph.PARENTS["codes"]


@dataclasses.dataclass(frozen=True)
class CodesStage(Stage):
    """Clusters the outputs of two frozen encoders. No gradients: `opt_state` holds counts, sums and memories.

    Attributes:
      config: how the codebooks are learnt.
      geometry: their sizes.
      optim: unused (nothing is optimised by gradient); here because every stage has one.
      batch_size: B, clips per step, global.
      parents_dir: folder with the parts "mulan" and "semantic".
    """

    config: CodesConfig
    geometry: Geometry
    optim: OptimConfig
    batch_size: int
    parents_dir: str = ""
    name: ClassVar[str] = "codes"

    @property
    def mulan(self) -> MuLan:
        """The parent's network, of the config in its part."""
        return MuLan(config_lib.from_dict(MuLanConfig, self._info("mulan")["config"]), self.geometry)

    @property
    def semantic(self) -> SemanticEncoder:
        """The parent's network, of the config in its part."""
        return SemanticEncoder(config_lib.from_dict(SemanticConfig, self._info("semantic")["config"]), self.geometry)

    def check(self, total_steps: int) -> None:
        """Also refuses a training that would end before the codebooks are seeded."""
        super().check(total_steps)
        if self.config.seed_step >= total_steps:
            raise UserError(
                f"codes: codebooks are seeded at step {self.config.seed_step}, and the training ends after {total_steps}; "
                "use more --total_steps, or --set codes.CodesConfig.seed_step to a smaller one"
            )

    def init(self, key: jax.Array) -> TrainState:
        """Empty memories and codebooks of zeros. Of the parents only the configs are read."""
        cfg, geometry = self.config, self.geometry
        features, joint = self.semantic.config.feature_width, self.mulan.config.joint
        shapes = {
            "kmeans": (geometry.semantic_levels, geometry.semantic_codes, features),
            "rvq": (geometry.mulan_tokens, geometry.mulan_codes, joint),
        }
        axes = {"kmeans": ("layers", "codes", "embed"), "rvq": ("layers", "codes", "joint")}
        zeros = {name: jnp.zeros(shape, jnp.float32) for name, shape in shapes.items()}
        frames = memory.size(cfg.frame_memory, self._frames_per_step)
        clips = memory.size(cfg.clip_memory, self.batch_size)
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params={name: nn.LogicallyPartitioned(zeros[name], axes[name]) for name in shapes},
            opt_state={
                "kmeans": {"counts": jnp.zeros(shapes["kmeans"][:-1], jnp.float32), "sums": zeros["kmeans"]},
                "rvq": {"counts": jnp.zeros(shapes["rvq"][:-1], jnp.float32), "sums": zeros["rvq"]},
                "frames": jnp.zeros((frames, features), jnp.float32),
                "clips": jnp.zeros((clips, joint), jnp.float32),
            },
            ema=None,
            key=key,
            extra={},
            frozen={},
        )

    def load(self, state: TrainState) -> TrainState:
        """Puts in the parents' weights.

        Raises:
          UserError: a parent is missing or damaged.
        """
        return state.replace(frozen={name: load_part(self._folder(name)).params for name in PARENTS})

    def train_step(self, state: TrainState, batch: Mapping[str, jax.Array]) -> tuple[TrainState, Metrics]:
        """Encodes the batch into the memories; from `seed_step` on both codebooks learn from them."""
        draw_key, learn_key = jax.random.split(state.step_key)
        features, joint = self._encode(state.frozen, batch["audio"])
        # the same moments of every clip: no gather along a sharded axis
        moments = jax.random.permutation(draw_key, features.shape[1])[: self.config.frames_per_clip]
        rows = jnp.take(features, moments, axis=1).reshape(-1, features.shape[-1])
        memories = {
            "kmeans": memory.push(state.opt_state["frames"], rows, state.step),
            "rvq": memory.push(state.opt_state["clips"], joint, state.step),
        }
        added = {"kmeans": rows.shape[0], "rvq": joint.shape[0]}
        valid = {name: memory.filled(memories[name], added[name], state.step) for name in memories}
        books = {name: kmeans.KMeansState(state.params[name], **state.opt_state[name]) for name in memories}
        phase = jnp.sign(state.step - self.config.seed_step) + 1
        books, measured = jax.lax.switch(
            phase, [self._wait, self._seed, self._learn], books, memories, valid, learn_key
        )
        opt_state = {name: {"counts": book.counts, "sums": book.sums} for name, book in books.items()}
        opt_state |= {"frames": memories["kmeans"], "clips": memories["rvq"]}
        params = {name: book.centres for name, book in books.items()}
        return state.replace(step=state.step + 1, params=params, opt_state=opt_state), measured

    def eval_step(self, state: TrainState, batch: Mapping[str, jax.Array]) -> Metrics:
        """Errors after some levels relative to the batch's variance, and the share of the first level's centres in use."""
        features, joint = self._encode(state.frozen, batch["audio"])
        frames = features.reshape(-1, features.shape[-1])
        metrics = {}
        for name, points in (("kmeans", frames), ("rvq", joint)):
            books = state.params[name]
            codes = rvq.encode(books, points)
            spread = memory.variance(points, jnp.ones(points.shape[:1], bool))
            for count in sorted({1, (len(books) + 1) // 2, len(books)}):
                left = points - rvq.decode(books, codes[:, :count])
                metrics[f"{name}_error_{count}"] = jnp.mean(jnp.sum(jnp.square(left), axis=-1)) / spread
            if name == "kmeans":
                hits = jax.ops.segment_sum(jnp.ones_like(codes[:, 0]), codes[:, 0], books.shape[1])
                metrics["kmeans_used"] = jnp.mean((hits > 0).astype(jnp.float32))
        return metrics

    def batch_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Whole clips."""
        return {"audio": jax.ShapeDtypeStruct((self.batch_size, self.geometry.clip_samples), np.float32)}

    def finish(self, state: TrainState, batches: Iterator[HostBatch]) -> dict[str, Any]:
        """{"kmeans": [R, C, H], "rvq": [Q, C, E]}."""
        return dict(state.params)

    def part(self) -> tuple[CodesConfig, Geometry, dict[str, str]]:
        """Config, geometry and the ids of both encoders."""
        return self.config, self.geometry, {name: self._info(name)["id"] for name in PARENTS}

    @property
    def _frames_per_step(self) -> int:
        return self.batch_size * min(self.config.frames_per_clip, self.geometry.clip_tokens)

    def _encode(self, frozen: Mapping[str, Any], audio: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Semantic features [B, N, H] and MuLan embeddings [B, E] of clips."""
        features = self.semantic.apply(variables(frozen["semantic"]), audio, method="features")
        return features, self.mulan.apply(variables(frozen["mulan"]), audio, method="embed_music")

    def _wait(self, books: dict, memories: dict, valid: dict, key: jax.Array) -> tuple[dict, Metrics]:
        """The memories fill; without a codebook the error is the variance."""
        one, zero = jnp.ones((), jnp.float32), jnp.zeros((), jnp.float32)
        metrics = {}
        for name in books:
            metrics |= {f"{name}_error": one, f"{name}_error_1": one, f"{name}_used": zero, f"{name}_dead": zero}
        return books, metrics

    def _seed(self, books: dict, memories: dict, valid: dict, key: jax.Array) -> tuple[dict, Metrics]:
        """k-means++ for both, then as at every later step."""
        *seed_keys, learn_key = jax.random.split(key, 3)
        seeded = {}
        for (name, book), seed_key in zip(books.items(), seed_keys, strict=True):
            levels, entries = book.centres.shape[:2]
            centres = rvq.seed(seed_key, memories[name], levels, entries, valid[name])
            seeded[name] = kmeans.start(centres, jnp.sum(valid[name].astype(jnp.float32)))
        return self._learn(seeded, memories, valid, learn_key)

    def _learn(self, books: dict, memories: dict, valid: dict, key: jax.Array) -> tuple[dict, Metrics]:
        """`updates` steps of residual k-means over the memories; metrics of the last one."""
        settings = {"decay": self.config.decay, "dead_below": self.config.dead_below}

        def step(books: dict, key: jax.Array) -> tuple[dict, Metrics]:
            learnt, metrics = {}, {}
            for name, book in books.items():
                update = rvq.update(book, memories[name], key, valid=valid[name], **settings)
                spread = jnp.maximum(memory.variance(memories[name], valid[name]), 1e-12)
                metrics[f"{name}_error"] = update.error[-1] / spread
                metrics[f"{name}_error_1"] = update.error[0] / spread
                metrics[f"{name}_used"] = jnp.mean(update.used)
                metrics[f"{name}_dead"] = jnp.mean(update.dead)
                learnt[name] = update.state
            return learnt, metrics

        books, history = jax.lax.scan(step, books, jax.random.split(key, self.config.updates))
        return books, jax.tree.map(lambda values: values[-1], history)

    def _folder(self, name: str) -> Path:
        return storage.path(self.parents_dir) / name

    def _info(self, name: str) -> dict[str, Any]:
        return read_info(self._folder(name))
