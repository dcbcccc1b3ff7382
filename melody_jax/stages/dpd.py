"""Training the dual-path diffusion model: latents of the autoencoder from noise, given semantic tokens."""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from melody_jax import storage
from melody_jax.bundle.part import read_info
from melody_jax.codes.forgetting import choose_codes, forget_condition
from melody_jax.codes.vocabulary import Vocabulary
from melody_jax.dpd import DPD, Preconditioned, loss, wiener
from melody_jax.dpd.config import DPDConfig
from melody_jax.dpd.denoiser import unconditional
from melody_jax.dpd.precondition import measure
from melody_jax.geometry import Geometry
from melody_jax.graph import PARENTS
from melody_jax.nn.measured import MEASURED, joined
from melody_jax.parallel.hosts import process_allgather
from melody_jax.shapes import Array, Int
from melody_jax.system import System
from melody_jax.train.optim import OptimConfig, apply_gradients, make_optimizer
from melody_jax.train.stage import HostBatch, Metrics, Stage
from melody_jax.train.state import TrainState

EVAL_SEED = 20230515  # evaluation draws the same noise in every run, so that figures compare


@dataclasses.dataclass(frozen=True)
class DPDStage(Stage):
    """Velocity prediction with multi-chunk angles and dropped conditions.

    Attributes:
      config: shape of the network and constants of the loss.
      geometry: rates, channels and codes.
      optim: optimiser.
      batch_size: clips per step, over all hosts.
      clip_seconds: length of a clip in a batch; 0 for the geometry's. The network takes any length: shorter clips make
        more and cheaper steps.
      calibration_batches: batches that a preconditioned network's moments are measured on, before the first step.
      grid_points: angles in (0, pi/2) over which evaluation averages.
      prompt_dropout, level_dropout, control_dropout, text_share: what is hidden of the prompt of a network that reads one, and
        whose MuLan codes it has; see `forget_condition` and `choose_codes`.
      parents_dir: folder with the parts "codes" and "autoencoder" that made tokens and latents.
    """

    config: DPDConfig
    geometry: Geometry
    optim: OptimConfig
    batch_size: int
    clip_seconds: float = 0.0
    calibration_batches: int = 64
    grid_points: int = 8
    prompt_dropout: float = 0.1
    level_dropout: float = 0.3
    control_dropout: float = 0.3
    text_share: float = 0.5
    parents_dir: str = ""
    name: ClassVar[str] = "dpd"
    starts: ClassVar[Mapping[str, str]] = {"dpd": ""}
    residual: ClassVar[str] = "coarse"

    @property
    def clip(self) -> Geometry:
        """The geometry with the length of a training clip."""
        return dataclasses.replace(self.geometry, clip_seconds=self.clip_seconds or self.geometry.clip_seconds)

    @property
    def system(self) -> System:
        """The diffusion model's part of it."""
        return System({"dpd": self.config}, self.geometry)

    @property
    def model(self) -> DPD | Preconditioned:
        """The network."""
        return self.system.dpd

    @property
    def row_seconds(self) -> float:
        """Of a training clip."""
        return self.clip.clip_seconds

    def init(self, key: jax.Array) -> TrainState:
        """Random parameters; no file is read."""
        init_key, run_key = jax.random.split(key)
        frames = 2 * self.geometry.frames_per_token
        noisy = jnp.zeros((1, frames, self.geometry.latent_channels), jnp.float32)
        tokens = jnp.zeros((1, 2 * self.geometry.semantic_levels), jnp.int32)
        made = self.model.init(init_key, noisy, noisy[..., 0], tokens)
        optimizer, measured = make_optimizer(self.optim), made.get(MEASURED, {})
        return TrainState.create(run_key, made["params"], optimizer, ema=self.optim.ema_decay > 0, measured=measured)

    def calibrate(self, state: TrainState, batches: Iterator[HostBatch]) -> TrainState:
        """What a preconditioned network is trained around, measured on the first batches."""
        if self.config.precondition == "none":
            return state
        bar = {"desc": "dpd, measuring", "total": self.calibration_batches, "unit": "batch"}
        first = itertools.islice(batches, self.calibration_batches)
        taken = list(tqdm.tqdm(first, **bar, disable=jax.process_index() != 0))
        latents, tokens = (np.concatenate([batch[name] for batch in taken]) for name in ("latents", "semantic"))
        if jax.process_count() > 1:
            latents, tokens = process_allgather((latents, tokens), tiled=True)
        scaled, sizes = latents.astype(np.float32) / self.config.data_std, self.geometry
        found = measure(scaled, tokens, sizes.semantic_size, sizes.semantic_levels)
        return state.replace(measured={"linear": found})

    def loss(self, weights: Any, batch: Mapping[str, jax.Array], key: jax.Array) -> tuple[jax.Array, Metrics]:
        """(multi-chunk velocity loss of a training batch, no metrics); `weights` are a part's."""
        chunks, dropout = self.config.chunks, self.config.condition_dropout
        denoise = self.system.denoiser(weights, batch["semantic"], self.prompt(batch, jax.random.fold_in(key, 1)))
        return loss.velocity_loss(denoise, self.normalised(batch), key, chunks, dropout), {}

    def prompt(self, batch: Mapping[str, jax.Array], key: jax.Array | None = None) -> Int[Array, "B prefix"] | None:
        """The condition of the clips, for a network that reads one: in training, with a key, less of it is known."""
        if not self.config.prompt:
            return None
        if key is None:
            return self._vocabulary.condition(batch["mulan"], controls=batch["controls"])
        text_key, key = jax.random.split(key)
        codes = choose_codes(text_key, batch["mulan"], batch["text"], self.text_share)
        condition = self._vocabulary.condition(codes, controls=batch["controls"])
        dropouts = self.prompt_dropout, self.level_dropout, self.control_dropout
        return forget_condition(self._vocabulary, key, condition, *dropouts)

    @property
    def _vocabulary(self) -> Vocabulary:
        return Vocabulary.of(self.geometry, controls=True)

    def train_step(self, state: TrainState, batch: Mapping[str, jax.Array]) -> tuple[TrainState, Metrics]:
        """One update on the multi-chunk velocity loss."""

        def loss_of(params):
            return self.loss(joined(params, state.measured), batch, state.step_key)[0]

        value, gradients = jax.value_and_grad(loss_of)(state.params)
        state, metrics = apply_gradients(self.optim, state, gradients)
        return state, {"loss": value, **metrics}

    def normalised(self, batch: Mapping[str, jax.Array]) -> jax.Array:
        """z [B, L, D] of the batch: latents in units of their deviation."""
        return batch["latents"].astype(jnp.float32) / self.config.data_std

    def eval_step(self, state: TrainState, batch: Mapping[str, jax.Array]) -> Metrics:
        """`metrics` of the averaged weights."""
        return self.metrics(state.weights, batch)

    def metrics(self, weights: Any, batch: Mapping[str, jax.Array]) -> Metrics:
        """Velocity error averaged over the grid of angles, with the same noise under every condition.

        `velocity_error`: the clip's own tokens and prompt; `shuffled_velocity_error`: those of the next clip of the batch;
        `unconditional_velocity_error`: condition dropped; `wiener_error`: the best per-channel linear predictor, fitted
        to the variances of this very batch. All in units of latents / data_std.
        """
        clean, tokens = self.normalised(batch), batch["semantic"]
        grid = loss.angle_grid(self.grid_points)
        prompt = self.prompt(batch)
        of_next = None if prompt is None else jnp.roll(prompt, 1, axis=0)
        own = self.system.denoiser(weights, tokens, prompt)
        conditions = {
            "velocity_error": own,
            "shuffled_velocity_error": self.system.denoiser(weights, jnp.roll(tokens, 1, axis=0), of_next),
            "unconditional_velocity_error": unconditional(own),
        }
        metrics = {}
        for label, denoise in conditions.items():
            metrics[label] = jnp.mean(loss.grid_errors(denoise, clean, jax.random.key(EVAL_SEED), grid))
        metrics["wiener_error"] = wiener.batch_error(clean, jnp.asarray(grid, jnp.float32))
        return metrics

    def batch_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """semantic [B, N R] int32 and latents [B, L, D] float32 of the same clips; for a network that reads a prompt also
        mulan [B, Q], text [B, Q] and controls [B, controls], int32, as the language model's."""
        latents = (self.batch_size, self.clip.clip_frames, self.geometry.latent_channels)
        widths = {"semantic": self.clip.clip_semantic}
        if self.config.prompt:
            levels = self.geometry.mulan_tokens
            widths |= {"mulan": levels, "text": levels, "controls": len(self._vocabulary.controls)}
        codes = {name: jax.ShapeDtypeStruct((self.batch_size, width), jnp.int32) for name, width in widths.items()}
        return codes | {"latents": jax.ShapeDtypeStruct(latents, jnp.float32)}

    def finish(self, state: TrainState, batches: Iterator[HostBatch]) -> dict[str, Any]:
        """The averaged parameters and what they were trained around."""
        return state.weights

    def part(self) -> tuple[DPDConfig, Geometry, dict[str, str]]:
        """Config, geometry and the ids of the parts that made tokens and latents."""
        folder = storage.path(self.parents_dir)
        return self.config, self.geometry, {name: read_info(folder / name)["id"] for name in PARENTS["dpd"]}
