"""The semantic stage: masked contrastive pre-training of the wav2vec2-Conformer, on audio alone."""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from melody_jax.geometry import Geometry
from melody_jax.nn.measured import MEASURED, joined, variables
from melody_jax.parallel.batch import measure_batches
from melody_jax.semantic.config import SemanticConfig
from melody_jax.semantic.feature_norm import calibrate, moments
from melody_jax.semantic.network import PretrainOutput, SemanticEncoder
from melody_jax.semantic.quantizer import temperature
from melody_jax.train.optim import OptimConfig, apply_gradients, make_optimizer
from melody_jax.train.stage import HostBatch, Metrics, Stage
from melody_jax.train.state import TrainState


@dataclasses.dataclass(frozen=True)
class SemanticStage(Stage):
    """Trains the encoder to tell a hidden frame's quantised content from other frames'.

    Attributes:
      config: the model, with masking and loss weights.
      geometry: sample rate, clip and token lengths.
      optim: the optimizer.
      batch_size: B, clips per step, global.
      crop_seconds: length of the piece of every clip that is trained on, at a random place; 0 takes whole clips.
      calibration_batches: batches over which `finish` measures the features' mean and variance.
    """

    config: SemanticConfig
    geometry: Geometry
    optim: OptimConfig
    batch_size: int
    crop_seconds: float = 0.0
    calibration_batches: int = 16
    name: ClassVar[str] = "semantic"
    starts: ClassVar[Mapping[str, str]] = {"semantic": "", "wav2vec2-conformer": ""}

    @property
    def model(self) -> SemanticEncoder:
        """The linen module."""
        return SemanticEncoder(self.config, self.geometry)

    @property
    def row_seconds(self) -> float:
        """Of a crop."""
        return self.crop_seconds or self.geometry.clip_seconds

    def init(self, key: jax.Array) -> TrainState:
        """Random parameters; the feature norm is measured by `finish`."""
        init_key, run_key = jax.random.split(key)
        audio = jnp.zeros((1, self.geometry.clip_samples), jnp.float32)

        def everything(module: SemanticEncoder) -> None:
            module.pretrain(audio, init_key)
            module.feature_norm(jnp.zeros((1, 1, self.config.width), jnp.float32))

        made = self.model.init({"params": init_key}, method=everything)
        optimizer, measured = make_optimizer(self.optim), made.get(MEASURED, {})
        return TrainState.create(run_key, made["params"], optimizer, ema=self.optim.ema_decay > 0, measured=measured)

    def train_step(self, state: TrainState, batch: Mapping[str, jax.Array]) -> tuple[TrainState, Metrics]:
        """One update on the contrastive and the diversity loss, and on that of the spectrum head, where there is one."""
        crop_key, pretrain_key, dropout_key = jax.random.split(state.step_key, 3)
        audio = self._crop(crop_key, batch["audio"])
        tau = temperature(self.config.quantizer, state.step)

        def loss(params: Any) -> tuple[jax.Array, tuple[PretrainOutput, dict]]:
            output, changed = self.model.apply(
                variables(params, state.measured), audio, pretrain_key, tau, True,
                method="pretrain", rngs={"dropout": dropout_key}, mutable=[MEASURED],
            )  # fmt: skip
            return output.loss, (output, changed.get(MEASURED, {}))

        gradients, (output, measured) = jax.grad(loss, has_aux=True)(state.params)
        after, metrics = apply_gradients(self.optim, state, gradients)
        if "conformer" in measured:  # batch norm's
            momentum = self.config.pretrain.batch_momentum
            moved = jax.tree.map(
                lambda old, new: momentum * old + (1.0 - momentum) * new,
                state.measured["conformer"],
                measured["conformer"],
            )
            after = after.replace(measured={**state.measured, "conformer": moved})
        return after, {**self._metrics(output), "temperature": tau, **metrics}

    def eval_step(self, state: TrainState, batch: Mapping[str, jax.Array]) -> Metrics:
        """The losses with the likeliest entries, without noise, under a mask that is the same at every evaluation."""
        output = self.model.apply(variables(state.weights), batch["audio"], state.key, method="pretrain")
        return self._metrics(output)

    def batch_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Whole clips."""
        return {"audio": jax.ShapeDtypeStruct((self.batch_size, self.geometry.clip_samples), np.float32)}

    def finish(self, state: TrainState, batches: Iterator[HostBatch]) -> dict[str, Any]:
        """The averaged parameters and what is measured: the feature norm is, on `calibration_batches`."""
        weights = state.weights
        if self.config.feature_norm not in ("standard", "whiten"):
            return weights

        def moments_of(weights: Any, batch: Mapping[str, jax.Array]) -> Any:
            return moments(self.model.apply(variables(weights), batch["audio"], method="hidden"))

        taken = itertools.islice(batches, self.calibration_batches)
        total: dict[str, np.ndarray] = {}
        for found in measure_batches(moments_of, weights, taken, state.step.sharding.mesh):
            total = {name: total.get(name, 0.0) + value.astype(np.float64) for name, value in found.items()}
        return joined(weights, {"feature_norm": calibrate(total, self.config)})

    def part(self) -> tuple[SemanticConfig, Geometry, dict[str, str]]:
        """The semantic encoder has no parents."""
        return self.config, self.geometry, {}

    def _crop(self, key: jax.Array, audio: jax.Array) -> jax.Array:
        """The same random stretch of every clip of the batch, a whole number of tokens."""
        length = self.geometry.tokens_in(self.crop_seconds) * self.geometry.token_samples
        if not 0 < length < audio.shape[1]:
            return audio
        start = jax.random.randint(key, (), 0, audio.shape[1] - length + 1)
        return jax.lax.dynamic_slice_in_dim(audio, start, length, axis=1)

    def _metrics(self, output: PretrainOutput) -> Metrics:
        metrics = {
            "loss": output.loss,
            "contrastive": output.contrastive,
            "accuracy": output.accuracy,
            "diversity": output.diversity,
            "perplexity": output.perplexity,
        }
        return metrics | {"spectrum_error": output.spectrum} if self.config.pretrain.spectrum else metrics
