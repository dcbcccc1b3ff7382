"""The MuLan stage: pairs of clips and captions, symmetric contrastive loss over the global batch."""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from melody_jax.geometry import Geometry
from melody_jax.mulan import minilm
from melody_jax.mulan.augment import AugmentConfig, augment_audio, augment_spectrogram
from melody_jax.mulan.config import MuLanConfig
from melody_jax.mulan.loss import contrast
from melody_jax.mulan.network import MuLan
from melody_jax.nn.measured import MEASURED, joined
from melody_jax.parallel.batch import measure_batches
from melody_jax.train.optim import OptimConfig, apply_gradients, make_optimizer
from melody_jax.train.stage import HostBatch, Metrics, Stage
from melody_jax.train.state import TrainState

PyTree = Any


@dataclasses.dataclass(frozen=True)
class MuLanStage(Stage):
    """Trains music tower, projections, temperature and, where the config says so, the text tower.

    A text tower that is not trained lives in `TrainState.frozen`: it gets no gradient, is in no checkpoint and not in
    the part, whose config names the package, version and hash it comes from.

    Attributes:
      config: the model.
      geometry: sample rate and clip length.
      optim: the optimizer.
      batch_size: B, global; every other pair of the batch is a negative.
      augment: what is done to the music in training.
      calibration_batches: batches over which `finish` measures the modalities' means where `config.center`.
    """

    config: MuLanConfig
    geometry: Geometry
    optim: OptimConfig
    batch_size: int
    augment: AugmentConfig = AugmentConfig()
    calibration_batches: int = 16
    name: ClassVar[str] = "mulan"
    starts: ClassVar[Mapping[str, str]] = {"mulan": "", "bert": "text", "ast": "music"}
    positions: ClassVar[tuple[str, ...]] = ("music/positions", "text/position/embedding")

    @property
    def model(self) -> MuLan:
        """The linen module."""
        return MuLan(self.config, self.geometry)

    def init(self, key: jax.Array) -> TrainState:
        """Random weights; `load` puts the pretrained ones in their place."""
        init_key, run_key = jax.random.split(key)
        shapes = self.batch_shapes()
        audio = jnp.zeros((1, *shapes["audio"].shape[1:]), jnp.float32)
        tokens = jnp.ones((1, self.config.text_length), jnp.int32)
        variables = self.model.init(init_key, audio, tokens)
        params = dict(variables["params"])
        frozen = {} if self.config.train_text_tower else {"text": params.pop("text")}
        ema = self.optim.ema_decay > 0
        optimizer, measured = make_optimizer(self.optim), variables[MEASURED]
        return TrainState.create(run_key, params, optimizer, ema=ema, frozen=frozen, measured=measured)

    def load(self, state: TrainState) -> TrainState:
        """Puts in the pretrained text tower, if there is one.

        Raises:
          UserError: its package is missing or another one than the config's.
        """
        if not self.config.pretrained_text.package:
            return state
        text = minilm.load(self.config.pretrained_text, self.config.text)
        if not self.config.train_text_tower:
            return state.replace(frozen={"text": text})
        ema = None if state.ema is None else {**state.ema, "text": text}
        return state.replace(params={**state.params, "text": text}, ema=ema)

    def train_step(self, state: TrainState, batch: Mapping[str, jax.Array]) -> tuple[TrainState, Metrics]:
        """One step on the contrastive loss."""
        audio_key, spectrogram_key, dropout_key = jax.random.split(state.step_key, 3)
        audio = augment_audio(audio_key, batch["audio"], self.augment)

        def loss(params: PyTree) -> tuple[jax.Array, Metrics]:
            model = self.model.bind({"params": {**params, **state.frozen}}, rngs={"dropout": dropout_key})
            spectrogram = augment_spectrogram(spectrogram_key, model.spectrogram(audio), self.augment)
            music = model.embed_spectrogram(spectrogram, deterministic=False)
            text = model.embed_text_state(model.text_state(batch["text_tokens"]), deterministic=False)
            result = contrast(music, text, model.log_scale)
            metrics = {"loss": result.loss, "recall_1": result.text_to_music, "scale": jnp.exp(model.log_scale)}
            return result.loss, metrics

        gradients, metrics = jax.grad(loss, has_aux=True)(state.params)
        state, optim_metrics = apply_gradients(self.optim, state, gradients)
        return state, {**metrics, **optim_metrics}

    def eval_step(self, state: TrainState, batch: Mapping[str, jax.Array]) -> Metrics:
        """Loss and retrieval within the batch, cosine of the pairs, and how far apart the modalities lie."""
        variables = {"params": {**state.averaged, **state.frozen}}
        joint = self.model.apply(variables, batch["audio"], batch["text_tokens"])
        result = contrast(joint.music, joint.text, joint.log_scale)
        similarity = joint.text @ joint.music.T
        own = jnp.diagonal(similarity)
        rank = jnp.sum((similarity >= own[:, None]).astype(jnp.int32), axis=1)
        return {
            "loss": result.loss,
            "recall_1": jnp.mean((rank <= 1).astype(jnp.float32)),
            "recall_10": jnp.mean((rank <= 10).astype(jnp.float32)),
            "pair_cosine": jnp.mean(own),
            "modality_gap": jnp.linalg.norm(jnp.mean(joint.music, axis=0) - jnp.mean(joint.text, axis=0)),
        }

    def batch_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Clips and captions."""
        return {
            "audio": jax.ShapeDtypeStruct((self.batch_size, self.geometry.clip_samples), np.float32),
            "text_tokens": jax.ShapeDtypeStruct((self.batch_size, self.config.text_length), np.int32),
        }

    def finish(self, state: TrainState, batches: Iterator[HostBatch]) -> dict[str, Any]:
        """The averaged weights and the centres; with `config.center` these are the mean embedding of each modality."""
        if not self.config.center:
            return state.weights
        variables = {"params": {**state.averaged, **state.frozen}}
        taken = itertools.islice(batches, self.calibration_batches)
        found = measure_batches(self._mean_embeddings, variables, taken, state.step.sharding.mesh)
        return joined(state.averaged, jax.tree.map(lambda *parts: sum(parts) / len(parts), *found))

    def _mean_embeddings(self, variables: PyTree, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        joint = self.model.apply(variables, batch["audio"], batch["text_tokens"])
        return {"music_center": jnp.mean(joint.music, axis=0), "text_center": jnp.mean(joint.text, axis=0)}

    def part(self) -> tuple[MuLanConfig, Geometry, dict[str, str]]:
        """MuLan has no parents."""
        return self.config, self.geometry, {}
