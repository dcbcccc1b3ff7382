"""Contracts of the VAE-GAN's training step, evaluation and calibration."""

import dataclasses
import functools
import itertools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from melody_jax.autoencoder import loss
from melody_jax.autoencoder.decoder_magnitude import FLOOR, log_magnitude, magnitude
from melody_jax.autoencoder.loss import LossConfig
from melody_jax.errors import UserError
from melody_jax.nn.measured import variables
from melody_jax.stages.autoencoder import AutoencoderStage
from melody_jax.train.optim import OptimConfig
from melody_jax.watch import flops
from tests.autoencoder import tiny

OPTIM = OptimConfig(learning_rate=3e-3, warmup_steps=1, total_steps=100, schedule="constant")
LOSS = LossConfig(mel=1.0, waveform=1.0, kl=1e-3, ffts=(128,), mels=(16,))
STAGE = AutoencoderStage(
    config=tiny.CONFIGS["framewise-istft"],
    geometry=tiny.GEOMETRY,
    optim=OPTIM,
    batch_size=4,
    discriminator_optim=OPTIM,
    discriminators=tiny.DISCRIMINATORS,
    loss=LOSS,
    segment_samples=960,
    adversarial_start=2,
    adversarial_samples=480,
    spike_factor=0.0,
)


def batches(stage=STAGE, seed=0):
    """Sines of random pitch and level."""
    rng, time = np.random.default_rng(seed), np.arange(stage.segment_samples) / 24_000
    while True:
        pitch, level = rng.uniform(200, 900, (stage.batch_size, 1)), rng.uniform(0.1, 0.5, (stage.batch_size, 1))
        yield {"audio": (level * np.sin(2 * np.pi * pitch * time)).astype(np.float32)}


@functools.cache
def compiled(stage):
    return jax.jit(stage.train_step), jax.jit(stage.eval_step)


def start(stage=STAGE):
    return nn.meta.unbox(jax.jit(stage.init)(jax.random.key_data(jax.random.key(0))))


def changed(before, after):
    """Whether any leaf differs."""
    pairs = zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
    return any(not np.array_equal(a, b) for a, b in pairs)


def test_each_optimiser_updates_its_own_player_and_the_game_starts_late():
    state, data = start(), batches()
    for number in range(4):
        new, metrics = compiled(STAGE.phase(number))[0](state, next(data))
        assert changed(state.params["generator"], new.params["generator"])
        assert changed(state.opt_state["generator"], new.opt_state["generator"])
        assert changed(state.ema, new.ema)
        plays = number >= STAGE.adversarial_start
        assert changed(state.params["discriminator"], new.params["discriminator"]) == plays
        assert changed(state.opt_state["discriminator"], new.opt_state["discriminator"]) == plays
        assert (metrics.get("discriminator", 0) > 0) == (metrics.get("features", 0) > 0) == plays
        assert int(new.step) == number + 1
        state = new
    assert set(metrics) >= {"loss", "mel", "waveform", "kl", "adversarial", "features", "discriminator"}
    assert all(value.shape == () for value in metrics.values())


def test_the_players_pull_in_opposite_directions():
    """The discriminators' update lowers their loss; the generator's adversarial gradient raises it."""
    stage = dataclasses.replace(STAGE, adversarial_samples=0, loss=dataclasses.replace(LOSS, features=0.0))
    state, audio = start(stage), jnp.asarray(next(batches())["audio"])
    decoded = 0.1 * jnp.flip(audio, axis=1)
    play = state.params["discriminator"]
    whole = stage._crop(jax.random.key(0))
    judged = jax.jit(lambda *args: stage._discriminator_loss(*args, whole))
    gradients = jax.jit(jax.grad(lambda *args: stage._discriminator_loss(*args, whole)))(play, audio, decoded)
    better = jax.tree.map(lambda p, g: p - jnp.float32(1e-3) * g, play, gradients)
    assert float(judged(better, audio, decoded)) < float(judged(play, audio, decoded))
    towards = jax.jit(jax.grad(lambda *args: stage._adversarial_loss(*args, whole)[0]))(decoded, better, audio)
    fooled = decoded - 1e-3 * towards / jnp.max(jnp.abs(towards))
    assert float(judged(better, audio, fooled)) > float(judged(better, audio, decoded))


def test_the_manual_pull_back_is_the_gradient_of_the_total_loss():
    stage = dataclasses.replace(
        STAGE,
        config=tiny.CONFIGS["envelope-magnitude"],
        adversarial_start=-1,
        optim=dataclasses.replace(OPTIM, clip_norm=0.0),
    )
    state, batch = start(stage), next(batches())
    assert state.params["discriminator"] == {}

    def total(generator):
        output = stage._apply(generator, jnp.asarray(batch["audio"]), state.step_key)
        terms = loss.magnitude_terms(jnp.asarray(batch["audio"]), output.decoded, LOSS, 24_000)
        return loss.weighted(terms, LOSS) + LOSS.kl * loss.kl_divergence(output.posterior)

    value, gradients = jax.jit(jax.value_and_grad(total))(state.params["generator"])
    _, metrics = compiled(stage)[0](state, batch)
    norm = np.sqrt(sum(np.sum(np.square(g)) for g in jax.tree.leaves(gradients)))
    assert float(metrics["loss"]) == pytest.approx(float(value), rel=1e-5)
    assert float(metrics["gradient_norm"]) == pytest.approx(float(norm), rel=1e-4)


def test_thirty_steps_on_one_batch_lower_every_figure():
    stage = dataclasses.replace(STAGE, adversarial_start=20)
    evaluate = compiled(stage)[1]
    state, batch = start(stage), next(batches())
    before = evaluate(state, batch)
    for number in range(30):
        state, metrics = compiled(stage.phase(number))[0](state, batch)
        assert all(np.isfinite(value) for value in metrics.values())
    after = evaluate(state, batch)
    assert float(after["loss"]) < 0.8 * float(before["loss"])
    assert float(after["si_sdr_db"]) > float(before["si_sdr_db"]) + 3
    assert float(after["log_mel"]) < float(before["log_mel"])
    assert float(after["log_mel_over_low_pass"]) == pytest.approx(
        float(after["log_mel"]) / float(after["low_pass_log_mel"]), rel=1e-3
    )


def test_a_spike_changes_nothing_but_the_counters():
    stage = dataclasses.replace(STAGE, adversarial_start=-1, spike_factor=3.0)
    step, _ = compiled(stage)
    state, data = start(stage), batches()
    for _ in range(3):
        state, _ = step(state, next(data))
    skipped = int(state.extra["skipped"])
    broken = {"audio": np.full((4, 960), np.nan, np.float32)}
    after, metrics = step(state, broken)
    for part in ("params", "opt_state", "ema"):
        assert not changed(getattr(state, part), getattr(after, part))
    assert not np.isfinite(metrics["loss"])
    assert int(after.step) == int(state.step) + 1
    assert int(after.extra["skipped"]) == skipped + 1 and int(after.extra["skipped_in_a_row"]) >= 1
    assert np.isfinite(after.extra["mean_norm"])
    tiny_mean = after.replace(extra=after.extra | {"mean_norm": jnp.float32(1e-6)})
    spiked, _ = step(tiny_mean, next(data))
    assert not changed(after.params, spiked.params) and int(spiked.extra["skipped_in_a_row"]) >= 2
    calm, _ = step(after, next(data))
    assert changed(after.params, calm.params) and int(calm.extra["skipped_in_a_row"]) == 0


def test_the_adversarial_gradient_does_not_go_through_the_real_audio():
    """A pass of the real audio, one of the decoded and one back through it: three of four that both at once would take."""
    stage = dataclasses.replace(STAGE, adversarial_samples=0)
    whole, audio = stage._crop(jax.random.key(0)), jax.ShapeDtypeStruct((4, 960), jnp.float32)
    play = nn.meta.unbox(jax.eval_shape(stage.init, jax.random.PRNGKey(0))).params["discriminator"]
    gradient = jax.grad(lambda *args: stage._adversarial_loss(*args, whole)[0])
    once = flops.count(stage._judge, play, audio)
    assert flops.count(gradient, audio, play, audio) < 3.6 * once  # 3.4; 4.8 in one pass


def test_a_fixed_bound_is_the_scale_and_reads_no_music():
    stage = dataclasses.replace(STAGE, adversarial_start=-1, latent_bound=3.0)
    params = stage.finish(start(stage), iter(()))
    assert float(params["latent_scale"]) == pytest.approx(1 / 3)
    audio = 40.0 * jnp.asarray(next(batches(stage))["audio"])  # loud enough to be clipped
    mean = stage.model.apply(variables(params), audio, method="encode").mean
    latents = stage.model.apply(variables(params), audio, method="to_latents")
    np.testing.assert_allclose(latents, np.clip(mean / 3, -1, 1), atol=1e-6)


def test_the_calibrated_scale_clips_less_than_a_thousandth_of_other_music():
    stage = dataclasses.replace(STAGE, adversarial_start=-1, batch_size=8, calibration_batches=80)
    state = start(stage)
    params = jax.device_get(stage.finish(state, batches(stage)))
    assert set(params) == {"encoder", "decoder", "latent_scale"}
    assert params["latent_scale"].shape == ()
    to_latents = jax.jit(lambda params, audio: stage.model.apply(variables(params), audio, method="to_latents"))
    latents = [to_latents(params, batch["audio"]) for batch in itertools.islice(batches(stage, seed=1), 80)]
    values = np.abs(np.concatenate(latents)).ravel()
    assert np.mean(values >= 1.0) < 1e-3
    assert values.max() > 0.5


def test_the_same_seed_and_step_give_the_same_bits():
    step, _ = compiled(STAGE)
    results = []
    for _ in range(2):
        state, data = start(), batches()
        for _ in range(3):
            state, _ = step(state, next(data))
        results.append(state.params)
    assert not changed(*results)


def test_the_decoder_of_magnitudes_learns():
    stage = dataclasses.replace(STAGE, config=tiny.CONFIGS["envelope-magnitude"], adversarial_start=-1)
    step, evaluate = compiled(stage)
    state, batch = start(stage), next(batches(stage))
    before = evaluate(state, batch)
    for _ in range(30):
        state, metrics = step(state, batch)
    after = evaluate(state, batch)
    assert float(metrics["magnitude"]) > 0
    assert float(after["magnitude"]) < 0.8 * float(before["magnitude"])
    assert float(after["log_mel"]) < 0.85 * float(before["log_mel"])


def test_nobody_plays_against_a_decoder_of_magnitudes():
    with pytest.raises(UserError, match="no waveform to judge"):
        dataclasses.replace(STAGE, config=tiny.CONFIGS["envelope-magnitude"], adversarial_start=0)


def test_true_magnitudes_have_no_distance():
    audio = jnp.asarray(next(batches())["audio"])
    truth = log_magnitude(audio, 384, 96)
    same = loss.magnitude_terms(audio, truth, LOSS, 24_000)
    assert set(same) == {"magnitude", "magnitude_mel"} and all(float(value) == 0 for value in same.values())
    louder = jnp.log(2.0 * magnitude(truth) + FLOOR)
    twice = loss.magnitude_terms(audio, louder, LOSS, 24_000)
    assert all(0 < float(value) < math.log(2.0) + 1e-3 for value in twice.values())
