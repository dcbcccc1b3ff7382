"""STFT and mel against SciPy and against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal

from melody_jax import dsp


@pytest.mark.parametrize("length,fft,hop", [(4800, 512, 128), (4801, 256, 64), (2400, 1920, 480)])
def test_stft_equals_scipy(length, fft, hop):
    x = np.random.default_rng(0).standard_normal((2, length)).astype(np.float32)
    ours = np.asarray(dsp.stft(jnp.asarray(x), fft, hop))
    padded = np.pad(x, ((0, 0), (fft // 2, fft // 2)), mode="reflect")
    window = scipy.signal.get_window("hann", fft, fftbins=True)
    reference = scipy.signal.ShortTimeFFT(window, hop, fs=1.0, phase_shift=None)
    first, frames = fft // 2 // hop, 1 + length // hop  # SciPy's slice p is centred at sample p * hop of its input
    expected = np.swapaxes(reference.stft(padded, p0=first, p1=first + frames), -1, -2)
    assert ours.shape == expected.shape == (2, frames, fft // 2 + 1)
    np.testing.assert_allclose(ours, expected, atol=1e-3)


def chord(samples=48_000):
    t = np.arange(samples) / 24_000
    tones = [np.sin(2 * np.pi * f * t) for f in (220.0, 277.2, 329.6)]
    return jnp.asarray(0.2 * sum(tones) * np.exp(-2 * (t % 0.5)), jnp.float32)[None]


def test_centred_frames_cover_the_signal_and_are_undone():
    x = jnp.asarray(np.random.default_rng(3).standard_normal((2, 4800)), jnp.float32)
    spectrum = dsp.centred_stft(x, 1920, 480)
    assert spectrum.shape == (2, 10, 961)
    # frame f is centred on the middle of samples [f * hop, (f + 1) * hop)
    first = 3 * 480 + 240 - 960
    expected = np.fft.rfft(np.asarray(x)[:, first : first + 1920] * dsp.hann(1920))
    np.testing.assert_allclose(spectrum[:, 3], expected, atol=1e-2)
    np.testing.assert_allclose(dsp.centred_istft(spectrum, 480), x, atol=1e-4)


def test_griffin_lim_finds_phases_that_fit_the_magnitudes():
    x = chord()
    magnitude = jnp.abs(dsp.centred_stft(x, 1920, 480))
    noise = jax.random.uniform(jax.random.key(0), magnitude.shape, jnp.float32, 0.0, 6.28)
    retrieve = jax.jit(dsp.griffin_lim, static_argnums=(2, 3, 4))

    def misfit(signal):
        return float(
            jnp.linalg.norm(jnp.abs(dsp.centred_stft(signal, 1920, 480)) - magnitude) / jnp.linalg.norm(magnitude)
        )

    once, slow, fast = (misfit(retrieve(magnitude, noise, 480, *how)) for how in ((0, 0.0), (32, 0.0), (32, 0.99)))
    assert fast < slow < 0.5 * once
    assert fast < 0.1
    # from the true phases nothing moves
    true = jnp.angle(dsp.centred_stft(x, 1920, 480))
    np.testing.assert_allclose(retrieve(magnitude, true, 480, 8, 0.99), x, atol=1e-3)


def test_running_phases_are_nearer_than_chance_before_any_iteration():
    """A chord of steady partials: their own frequencies tell the phases of all frames but the first."""
    time = jnp.arange(9600) / 24_000
    x = sum(jnp.sin(2 * jnp.pi * hz * time) for hz in (220.0, 331.7, 1046.5)) * 0.2
    magnitude = jnp.abs(dsp.centred_stft(x, 1920, 480))
    phases = jax.jit(dsp.running_phases, static_argnums=1)(magnitude, 480)
    chance = jax.random.uniform(jax.random.key(0), magnitude.shape, jnp.float32, 0.0, 6.28)

    def misfit(phases):
        made = jnp.abs(dsp.centred_stft(dsp.griffin_lim(magnitude, phases, 480, 0), 1920, 480))
        return float(jnp.linalg.norm((made - magnitude)[4:-4]) / jnp.linalg.norm(magnitude[4:-4]))

    assert misfit(phases) < 0.1 < 0.5 * misfit(chance)


def test_log_frequency_spectra_show_a_note_and_not_its_loudness():
    """A4 stands 24 * log2(440 / 65.406) = 66 bands above C2."""
    time = jnp.arange(24_000) / 24_000
    tone = jnp.sin(2 * jnp.pi * 440.0 * time)[None]
    shape = (24_000, 4096, 960, 144, 65.406, 24, 6.0)
    loud, soft = (np.asarray(dsp.log_frequency(gain * tone, *shape)) for gain in (0.8, 0.2))
    assert loud.shape == (1, 25, 144)
    assert (loud[0, 3:-3].argmax(-1) == 66).all() and loud.max() == 0.0 and loud.min() == -6.0
    np.testing.assert_allclose(soft[0, 3:-3, 60:72], loud[0, 3:-3, 60:72], atol=0.3)
    assert (np.asarray(dsp.log_frequency(0 * tone, *shape)) == 0).all()


@pytest.mark.parametrize("size,hop", [(8, 2), (8, 8), (6, 4)])
def test_frame_by_definition(size, hop):
    x = np.arange(26, dtype=np.float32)[None]
    frames = np.asarray(dsp.frame(jnp.asarray(x), size, hop))
    assert frames.shape == (1, 1 + (26 - size) // hop, size)
    for i in range(frames.shape[1]):
        np.testing.assert_array_equal(frames[0, i], x[0, i * hop : i * hop + size])


def test_overlap_add_is_the_adjoint_of_frame():
    rng = np.random.default_rng(2)
    x, y = rng.standard_normal(24), rng.standard_normal((5, 8))
    x, y = jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)
    assert np.isclose(jnp.vdot(dsp.frame(x, 8, 4), y), jnp.vdot(x, dsp.overlap_add(y, 4)), rtol=1e-4)
    with pytest.raises(ValueError, match="does not divide"):
        dsp.overlap_add(y, 3)


def test_mel_filters_have_unit_area_and_peak_at_their_centres():
    filters = dsp.mel_filterbank(24000, 4096, 40)
    width = 12000 / 2048
    np.testing.assert_allclose(filters[:, 5:].sum(0) * width, 1.0, rtol=0.05)
    assert (np.diff(filters.argmax(0)) > 0).all()


def test_log_mel_of_a_tone_peaks_at_its_band():
    t = np.arange(24000) / 24000
    mel = dsp.log_mel(jnp.asarray(np.sin(2 * np.pi * 1000 * t), jnp.float32)[None], 24000, 1024, 256, 64)
    filters = dsp.mel_filterbank(24000, 1024, 64)
    expected = filters[round(1000 / (12000 / 512))].argmax()
    assert abs(int(np.asarray(mel)[0, 40].argmax()) - int(expected)) <= 1
