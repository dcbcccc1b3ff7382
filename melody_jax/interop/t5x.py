"""Stages as models of T5X, for its `train.py` and `infer.py`; docs/t5x.md says how to run them.

Needs T5X, which imports TensorFlow and gin: only configs/t5x/*.gin import this file.

The parameters are those of our own training, by name and shape. Their logical axes are T5X's `params_axes`; what a stage
measures and does not learn (`nn/measured.py`) is T5X's `flax_mutables`.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

# Where T5X is absent pyright takes this very file for it.
from t5x import metrics as metrics_lib  # pyright: ignore[reportAttributeAccessIssue]
from t5x import models  # pyright: ignore[reportAttributeAccessIssue]

from melody_jax.dpd import angles, loss, sampler
from melody_jax.dpd.denoiser import bounded, guide
from melody_jax.interop.t5x_layout import initial_variables
from melody_jax.lm import decode
from melody_jax.nn.measured import MEASURED, joined
from melody_jax.shapes import Array, Float, Int
from melody_jax.stages.dpd import EVAL_SEED, DPDStage
from melody_jax.stages.lm import LMStage

Batch = Mapping[str, jax.Array]
Metrics = dict[str, Any]


class StageModel(models.BaseModel):  # pyright: ignore[reportAttributeAccessIssue]
    """What both models share: initialisation, the stage's own loss and evaluation.

    Args:
      stage: gives network, loss and evaluation. Its optimiser and batch size are not read: T5X has its own.
      optimizer_def: T5X's optimiser; `t5x.optimizers.OptaxWrapper` of `make_optimizer` is ours.
      feature_converter_cls: of `data_pipelines.converters`.
    """

    def __init__(self, stage: Any, optimizer_def: Any, feature_converter_cls: Callable[..., Any]):
        super().__init__(optimizer_def=optimizer_def)
        self.stage = stage
        self.FEATURE_CONVERTER_CLS = feature_converter_cls

    def get_initial_variables(self, rng: Any, input_shapes: Any, input_types: Any = None) -> dict[str, Any]:
        """Random parameters and their axes; the batch's shapes do not matter."""
        del input_shapes, input_types
        return initial_variables(self.stage, rng)

    def loss_fn(self, params: Any, batch: Batch, dropout_rng: jax.Array, flax_mutables: Any = None) -> tuple[Any, Any]:
        """The loss of `stage.train_step` under the key `dropout_rng`, and its metrics."""
        value, metrics = self.stage.loss(_with_measured(params, flax_mutables), batch, dropout_rng)
        averages = _averages({"loss": value, **metrics})
        return value, averages if flax_mutables is None else (averages, flax_mutables)

    def eval_fn(self, params: Any, batch: Batch, flax_mutables: Any = None) -> tuple[Any, Metrics]:
        """The metrics of `stage.eval_step`; the first of them is the loss."""
        metrics = self.stage.metrics(_with_measured(params, flax_mutables), batch)
        return next(iter(metrics.values())), _averages(metrics)

    def predict_batch(self, params: Any, batch: Batch, rng: Any = None, flax_mutables: Any = None) -> Array:
        """The predictions of `predict_batch_with_aux`."""
        return self.predict_batch_with_aux(params, batch, rng, flax_mutables)[0]


class LanguageModel(StageModel):
    """The semantic LM: `predict` draws semantic tokens for captions, `score` says how likely a clip's own are.

    Args:
      stage, optimizer_def, feature_converter_cls: see `StageModel`.
      sampling: how tokens are drawn.
    """

    stage: LMStage

    def __init__(
        self,
        stage: LMStage,
        optimizer_def: Any,
        feature_converter_cls: Callable[..., Any],
        sampling: decode.Sampling = decode.Sampling(),  # noqa: B008
    ):
        super().__init__(stage, optimizer_def, feature_converter_cls)
        self.sampling = sampling

    def predict_batch_with_aux(
        self, params: Any, batch: Batch, rng: Any = None, flax_mutables: Any = None
    ) -> tuple[Int[Array, "B W"], dict[str, Array]]:
        """One window of semantic codes for each caption's MuLan tokens, and {"scores" [B]} as of `score_batch`."""
        del flax_mutables
        mulan, system = batch["text"], self.stage.system
        condition = self.stage.vocabulary.condition(mulan)
        keys = jax.random.split(jax.random.PRNGKey(0) if rng is None else rng, mulan.shape[0])
        nothing = jnp.zeros((mulan.shape[0], 0), jnp.int32)
        drawn = {"length": self.stage.width, "sampling": self.sampling}
        codes = system.write_tokens(params, condition, nothing, keys, **drawn)
        return codes, {"scores": self.score_batch(params, {"text": mulan, "semantic": codes})}

    def score_batch(
        self, params: Any, batch: Batch, return_intermediates: bool = False, flax_mutables: Any = None
    ) -> Float[Array, " B"]:
        """Mean log-likelihood (nats per token) of each clip's semantic tokens given its caption's MuLan tokens."""
        del return_intermediates, flax_mutables
        return -self.stage.system.token_losses(params, batch["text"], batch["semantic"])


class DiffusionModel(StageModel):
    """The DPD: `predict` samples latents for semantic tokens, `score` is minus the velocity error of a clip's own.

    Args:
      stage, optimizer_def, feature_converter_cls: see `StageModel`.
      steps: T, diffusion steps.
      schedule: of their sizes, see `dpd.angles.schedule`.
      scale: g of classifier-free guidance; 1 for none.
    """

    stage: DPDStage

    def __init__(
        self,
        stage: DPDStage,
        optimizer_def: Any,
        feature_converter_cls: Callable[..., Any],
        steps: int = 20,
        schedule: str = "linear",
        scale: float = 2.5,
    ):
        super().__init__(stage, optimizer_def, feature_converter_cls)
        self.step_sizes = angles.schedule(schedule, steps)
        self.scale = scale

    def predict_batch_with_aux(
        self, params: Any, batch: Batch, rng: Any = None, flax_mutables: Any = None
    ) -> tuple[Float[Array, "B L D"], dict[str, Array]]:
        """Latents for each clip's semantic tokens, and nothing else."""
        geometry, tokens = self.stage.geometry, batch["semantic"]
        per_token, data_std = geometry.frames_per_token, self.stage.config.data_std
        shape = (tokens.shape[0], tokens.shape[1] // geometry.semantic_levels * per_token, geometry.latent_channels)
        noise = jax.random.normal(jax.random.PRNGKey(0) if rng is None else rng, shape, jnp.float32)
        weights, prompt = _with_measured(params, flax_mutables), self.stage.prompt(batch)
        denoise = guide(self.stage.system.denoiser(weights, tokens, prompt), self.scale)
        return sampler.sample(bounded(denoise, 1 / data_std), noise, self.step_sizes, data_std=data_std), {}

    def score_batch(
        self, params: Any, batch: Batch, return_intermediates: bool = False, flax_mutables: Any = None
    ) -> Float[Array, " B"]:
        """Minus the velocity error of each clip, over the angles and with the noise of evaluation."""
        del return_intermediates
        weights, grid = _with_measured(params, flax_mutables), loss.angle_grid(self.stage.grid_points)

        def clip_error(clip: tuple[Array, Array, Array | None]) -> Array:
            clean, tokens, prompt = jax.tree.map(lambda row: row[None], clip)
            denoise = self.stage.system.denoiser(weights, tokens, prompt)
            return jnp.mean(loss.grid_errors(denoise, clean, jax.random.key(EVAL_SEED), grid))

        return -jax.lax.map(clip_error, (self.stage.normalised(batch), batch["semantic"], self.stage.prompt(batch)))


def _with_measured(params: Any, flax_mutables: Any) -> dict[str, Any]:
    """All parameters of the network: the learnt and the measured ones."""
    return joined(params, flax_mutables[MEASURED] if flax_mutables else {})


def _averages(metrics: Mapping[str, jax.Array]) -> Metrics:
    """Means over steps, as T5X logs them."""
    return {name: metrics_lib.AveragePerStep(total=value) for name, value in metrics.items()}
