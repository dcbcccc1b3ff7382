"""STFT and mel against SciPy and against their definitions."""

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


@pytest.mark.parametrize("fft,hop,win", [(512, 128, None), (1024, 256, 512), (1920, 480, None)])
def test_istft_inverts(fft, hop, win):
    x = np.random.default_rng(1).standard_normal((3, hop * 20)).astype(np.float32)
    back = dsp.istft(dsp.stft(jnp.asarray(x), fft, hop, win), hop, x.shape[-1], win)
    np.testing.assert_allclose(np.asarray(back), x, atol=1e-4)


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
