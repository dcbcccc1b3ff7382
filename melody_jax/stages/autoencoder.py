"""Training the audio VAE-GAN: two players, two optimisers, one step."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from melody_jax.autoencoder import loss
from melody_jax.autoencoder.config import AutoencoderConfig, DiscriminatorConfig
from melody_jax.autoencoder.discriminators import Discriminators, Judgement
from melody_jax.autoencoder.loss import LossConfig
from melody_jax.autoencoder.network import Autoencoder, AutoencoderOutput
from melody_jax.errors import UserError
from melody_jax.geometry import Geometry
from melody_jax.nn.measured import MEASURED
from melody_jax.parallel.hosts import process_allgather
from melody_jax.parallel.init import to_host
from melody_jax.train.optim import OptimConfig, make_optimizer, update_ema
from melody_jax.train.stage import HostBatch, Metrics, Stage
from melody_jax.train.state import TrainState

PyTree = Any
Crop = Callable[[jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class AutoencoderStage(Stage):
    """Reconstruction and KL from the first step; the adversarial game from `adversarial_start` on.

    A decoder "magnitude" is compared with the music's magnitudes and makes no waveform in training: nobody plays against it.

    Attributes:
      config: shape of the autoencoder.
      geometry: rates and channels.
      optim: the generator's (the autoencoder's) optimiser and EMA.
      batch_size: segments per step, over all hosts.
      discriminator_optim: the discriminators' optimiser; its steps are counted from `adversarial_start`.
      discriminators: shape of the discriminators.
      loss: weights of the terms.
      segment_samples: T of a training segment, a multiple of the hop.
      adversarial_start: first step at which the discriminators play; negative: never.
      adversarial_samples: the discriminators see a window of this length, drawn anew for every step (HiFi-GAN trains on
        8,192 samples); 0: the whole segment.
      spike_factor: a step whose gradient norm is not finite or exceeds this many times its running mean changes nothing
        but the counters `skipped` and `skipped_in_a_row`; 0 lets every step through.
      rollback_after: how many skipped steps in a row send the run back to its last good checkpoint; 0: never.
      latent_bound: latents are divided by it and clipped at [-1, 1] (the publication's is 3); 0: by what is measured at
        the end.
      calibration_batches: batches over whose latents that is measured.
    """

    config: AutoencoderConfig
    geometry: Geometry
    optim: OptimConfig
    batch_size: int
    discriminator_optim: OptimConfig = OptimConfig()
    discriminators: DiscriminatorConfig = DiscriminatorConfig()
    loss: LossConfig = LossConfig()
    segment_samples: int = 24_000
    adversarial_start: int = 0
    adversarial_samples: int = 0
    spike_factor: float = 10.0
    rollback_after: int = 20
    latent_bound: float = 0.0
    calibration_batches: int = 32
    name: ClassVar[str] = "autoencoder"
    starts: ClassVar[Mapping[str, str]] = {"autoencoder": "generator", "hifigan": "generator/decoder"}
    averaged_part: ClassVar[str] = "generator"

    def __post_init__(self):
        if self.adversarial and self.config.decoder == "magnitude":
            raise UserError("autoencoder: a decoder of magnitudes has no waveform to judge; set adversarial_start = -1")

    @property
    def model(self) -> Autoencoder:
        """The generator."""
        return Autoencoder(self.config, self.geometry)

    @property
    def row_seconds(self) -> float:
        """Of a segment."""
        return self.segment_samples / self.geometry.sample_rate

    @property
    def adversarial(self) -> bool:
        """Whether the discriminators ever play."""
        return self.adversarial_start >= 0 and bool(self.discriminators.periods or self.discriminators.ffts)

    def check(self, total_steps: int) -> None:
        """Also refuses a training that would end before the discriminators begin."""
        super().check(total_steps)
        if self.adversarial and self.adversarial_start >= total_steps:
            raise UserError(
                f"autoencoder: the discriminators begin at step {self.adversarial_start}, and the training ends after "
                f"{total_steps}; use more --total_steps, or --set stage.AutoencoderStage.adversarial_start=-1 to do "
                "without them"
            )

    def phase(self, step: int) -> "AutoencoderStage":
        """Without discriminators before `adversarial_start`: a program of its own, not a branch in one (XLA runs
        convolutions in a branch thirty times slower on a CPU)."""
        waits = self.adversarial and step < self.adversarial_start
        return dataclasses.replace(self, adversarial_start=-1) if waits else self

    def init(self, key: jax.Array) -> TrainState:
        """Random parameters of both players under "generator" and "discriminator"; the EMA is the generator's."""
        generator_key, discriminator_key, run_key = jax.random.split(key, 3)
        audio = jnp.zeros((1, self.segment_samples), jnp.float32)
        variables = self.model.init(generator_key, audio, run_key)
        generator = variables["params"]
        params = {"generator": generator, "discriminator": {}}
        if self.adversarial:
            params["discriminator"] = Discriminators(self.discriminators).init(discriminator_key, audio)["params"]
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            opt_state={
                "generator": make_optimizer(self.optim).init(params["generator"]),
                "discriminator": make_optimizer(self.discriminator_optim).init(params["discriminator"]),
            },
            ema=jax.tree.map(lambda p: p.astype(jnp.float32), generator) if self.optim.ema_decay > 0 else None,
            key=run_key,
            extra={
                "mean_norm": jnp.zeros((), jnp.float32),
                "skipped": jnp.zeros((), jnp.int32),
                "skipped_in_a_row": jnp.zeros((), jnp.int32),
            },
            frozen={},
            measured={"generator": variables[MEASURED]},
        )

    def train_step(self, state: TrainState, batch: Mapping[str, jax.Array]) -> tuple[TrainState, Metrics]:
        """Discriminator update, then generator update against the new discriminators.

        That is the step from `adversarial_start` on; `phase` has the one before.
        """
        audio = batch["audio"]
        generator, discriminator = state.params["generator"], state.params["discriminator"]

        def reconstruct(params: PyTree) -> AutoencoderOutput:
            return self._apply(params, audio, state.step_key)

        output, pull_back = jax.vjp(reconstruct, generator)
        crop = self._crop(jax.random.fold_in(state.step_key, 1))

        # 1. The discriminators learn to tell `audio` from `output.decoded`, and say where the latter should move.
        opt_state, metrics, adversarial_gradient = state.opt_state["discriminator"], {}, jnp.zeros_like(output.decoded)
        if self.adversarial:
            value, gradients = jax.value_and_grad(self._discriminator_loss)(discriminator, audio, output.decoded, crop)
            updates, opt_state = make_optimizer(self.discriminator_optim).update(gradients, opt_state, discriminator)
            discriminator = optax.apply_updates(discriminator, updates)
            adversarial = jax.grad(self._adversarial_loss, has_aux=True)
            adversarial_gradient, metrics = adversarial(output.decoded, discriminator, audio, crop)
            metrics |= {"discriminator": value, "discriminator_gradient_norm": optax.tree.norm(gradients)}

        # 2. The generator moves what it says along all terms' gradients and its posterior along the KL's.
        reconstruction = jax.value_and_grad(self._reconstruction_loss, has_aux=True)
        (total, terms), gradient = reconstruction(output.decoded, audio)
        balance = loss.gradient_balance(gradient, adversarial_gradient, self.loss)
        kl, kl_gradient = jax.value_and_grad(loss.kl_divergence)(output.posterior)
        cotangent = AutoencoderOutput(
            decoded=gradient + balance * adversarial_gradient,
            posterior=jax.tree.map(lambda g: self.loss.kl * g, kl_gradient),
            latents=jnp.zeros_like(output.latents),
        )
        (gradients,) = pull_back(cotangent)
        metrics |= terms | {"loss": total + self.loss.kl * kl, "kl": kl}
        new = (generator, state.opt_state["generator"], state.ema, gradients)
        return self._updated(state, new, (discriminator, opt_state), metrics)

    def eval_step(self, state: TrainState, batch: Mapping[str, jax.Array]) -> Metrics:
        """Of the averaged weights, decoding the posterior mean: SI-SDR (dB), log-mel distance (nats), that of a 2 kHz
        low-pass and its ratio to the first, reconstruction terms, KL."""
        audio, params, rate = batch["audio"], self._averaged(state), self.geometry.sample_rate
        posterior = self._apply(params, audio, method="encode")
        decoded = self._apply(params, posterior.mean, method="decode")
        log_mel = jnp.mean(loss.log_mel_distance(audio, decoded, rate))
        low_pass = jnp.mean(loss.log_mel_distance(audio, loss.low_pass(audio, rate), rate))
        kl = loss.kl_divergence(posterior)
        total, terms = self._reconstruction_loss(self._apply(params, posterior.mean, method="decoded"), audio)
        return terms | {
            "loss": total + self.loss.kl * kl,
            "kl": kl,
            "si_sdr_db": jnp.mean(loss.si_sdr(audio, decoded)),
            "log_mel": log_mel,
            "low_pass_log_mel": low_pass,
            "log_mel_over_low_pass": log_mel / (low_pass + 1e-6),
        }

    def batch_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """audio [B, T]."""
        return {"audio": jax.ShapeDtypeStruct((self.batch_size, self.segment_samples), jnp.float32)}

    def finish(self, state: TrainState, batches: Iterator[HostBatch]) -> dict[str, Any]:
        """{encoder, decoder, latent_scale} with averaged weights.

        The scale is one over `latent_bound`, or over the 99.98 % quantile of the absolute latents, so that fewer than
        0.1 % of the values of other music are clipped at [-1, 1]: extremes come in clumps (one loud clip), hence the margin.
        """
        params = self._averaged(state)
        if self.latent_bound:
            return {**params, "latent_scale": np.float32(1.0 / self.latent_bound)}
        local = to_host(params)
        encode = jax.jit(lambda p, audio: jnp.abs(self._apply(p, audio, method="encode").mean))
        taken = itertools.islice(batches, self.calibration_batches)
        latents = [np.asarray(encode(local, batch["audio"])).ravel() for batch in taken]
        scale = np.float32(1.0 / max(np.quantile(np.concatenate(latents), 0.9998), 1e-6))
        return {**local, "latent_scale": np.min(process_allgather(scale))}

    def part(self) -> tuple[AutoencoderConfig, Geometry, dict[str, str]]:
        """Config and geometry; no parents."""
        return self.config, self.geometry, {}

    def _apply(self, params: PyTree, *args: Any, method: str = "__call__") -> Any:
        """Of the network before its latents are scaled."""
        return self.model.apply({"params": params}, *args, method=method)

    def _averaged(self, state: TrainState) -> PyTree:
        return state.params["generator"] if state.ema is None else state.ema

    def _crop(self, key: jax.Array) -> Crop:
        """The window of this step that the discriminators see: [B, T] -> [B, adversarial_samples]."""
        if not self.adversarial_samples:
            return lambda audio: audio
        start = jax.random.randint(key, (), 0, self.segment_samples - self.adversarial_samples + 1)
        return lambda audio: jax.lax.dynamic_slice_in_dim(audio, start, self.adversarial_samples, axis=1)

    def _judge(self, discriminator: PyTree, audio: jax.Array) -> Judgement:
        return Discriminators(self.discriminators).apply({"params": discriminator}, audio)

    def _discriminator_loss(self, discriminator: PyTree, audio: jax.Array, decoded: jax.Array, crop: Crop) -> jax.Array:
        real, fake = self._judge(discriminator, crop(jnp.concatenate([audio, decoded]))).split()
        return loss.discriminator_loss(real.scores, fake.scores, self.loss.gan)

    def _adversarial_loss(
        self, decoded: jax.Array, discriminator: PyTree, audio: jax.Array, crop: Crop
    ) -> tuple[jax.Array, Metrics]:
        # two passes: in one the gradient would go through the real half too, which no gradient is wanted of
        real, fake = (self._judge(discriminator, crop(x)) for x in (audio, decoded))
        terms = {
            "adversarial": loss.generator_loss(fake.scores, self.loss.gan),
            "features": loss.feature_matching(real.features, fake.features),
        }
        return loss.weighted(terms, self.loss), terms

    def _reconstruction_loss(self, decoded: jax.Array, audio: jax.Array) -> tuple[jax.Array, Metrics]:
        compare = loss.magnitude_terms if self.config.decoder == "magnitude" else loss.reconstruction_terms
        terms = compare(audio, decoded, self.loss, self.geometry.sample_rate)
        return loss.weighted(terms, self.loss), terms

    def _updated(
        self, state: TrainState, generator: tuple[PyTree, ...], discriminator: tuple[PyTree, ...], metrics: Metrics
    ) -> tuple[TrainState, Metrics]:
        """The next state, or, at a spike, the old one with its counters advanced."""
        params, opt_state, ema, gradients = generator
        norm = optax.tree.norm(gradients)
        mean_norm = state.extra["mean_norm"]
        limit = jnp.where(mean_norm > 0, self.spike_factor * mean_norm, jnp.inf)
        healthy = jnp.isfinite(norm) & ((norm <= limit) if self.spike_factor else True)
        updates, new_opt_state = make_optimizer(self.optim).update(gradients, opt_state, params)
        new = optax.apply_updates(params, updates)
        new_ema = None if ema is None else update_ema(ema, new, self.optim.ema_decay, state.step)
        players = {"generator": new, "discriminator": discriminator[0]}
        moved = (players, {"generator": new_opt_state, "discriminator": discriminator[1]}, new_ema)
        # Leaf by leaf: XLA fuses the choice with the update, and nothing into or out of a branch of a `cond`.
        new_params, new_opt_state, new_ema = jax.tree.map(
            functools.partial(jnp.where, healthy), moved, (state.params, state.opt_state, state.ema)
        )
        first = mean_norm == 0
        running = jnp.where(first, norm, mean_norm + 0.02 * (jnp.minimum(norm, limit) - mean_norm))
        extra = {
            "mean_norm": jnp.where(jnp.isfinite(norm), running, mean_norm),
            "skipped": state.extra["skipped"] + jnp.where(healthy, 0, 1),
            "skipped_in_a_row": jnp.where(healthy, 0, state.extra["skipped_in_a_row"] + 1),
        }
        metrics = metrics | {name: extra[name].astype(jnp.float32) for name in ("skipped", "skipped_in_a_row")}
        metrics["gradient_norm"] = norm
        state = state.replace(step=state.step + 1, params=new_params, opt_state=new_opt_state, ema=new_ema, extra=extra)
        return state, metrics
