"""The files beside a piece of music."""

import dataclasses
import json
import wave

import numpy as np
import pytest

from melody_jax.errors import UserError
from melody_jax.generate.reader import read_music
from melody_jax.generate.settings import Settings
from melody_jax.generate.writer import write_result, write_wav


@pytest.fixture(scope="module")
def written(melody, tmp_path_factory):
    folder = tmp_path_factory.mktemp("out")
    paths = []
    for name in ("x.wav", "y.wav"):
        (result,) = melody.generate(["a slow waltz"], seconds=0.4, seed=3)
        paths.append(write_result(result, folder / name, melody.bundle))
    return result, *paths


def test_wav_is_16_bit_mono_of_the_exact_length(written):
    result, first, _ = written
    with wave.open(str(first[0])) as file:
        assert (file.getframerate(), file.getsampwidth(), file.getnchannels()) == (4000, 2, 1)
        assert file.getnframes() == 1600
        samples = np.frombuffer(file.readframes(1600), "<i2")
    np.testing.assert_allclose(samples / 32767, result.audio, atol=1e-4)


def test_same_seed_same_bytes(written):
    _, first, second = written
    assert first[0].read_bytes() == second[0].read_bytes()


def test_json_holds_all_settings_and_counts(written, melody):
    result, first, _ = written
    info = json.loads(first[2].read_text())
    assert info["settings"] == dataclasses.asdict(result.settings)
    assert set(info["settings"]) == {field.name for field in dataclasses.fields(Settings)}
    assert info["token_counts"] == {"mulan": 3, "semantic": 10, "latent_frames": 40}
    assert info["semantic_codes"] == result.tokens.tolist() and len(info["mulan_codes"]) == 3
    assert (info["prompt"], info["seed"], info["samples"], info["seconds"]) == ("a slow waltz", 3, 1600, 0.4)
    assert info["bundle"]["parts"] == melody.bundle.ids
    assert set(info["work_seconds"]) == {"prompt", "language model", "diffusion", "decoder", "total"}
    assert info["real_time_factor"] > 0


def test_picture_is_a_png(written):
    assert written[1][1].read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_loud_samples_are_clipped_not_wrapped(tmp_path):
    write_wav(np.array([2.0, -2.0, 0.0], np.float32), 4000, tmp_path / "x.wav")
    with wave.open(str(tmp_path / "x.wav")) as file:
        np.testing.assert_array_equal(np.frombuffer(file.readframes(3), "<i2"), [32767, -32767, 0])


def test_music_prompt_is_read_as_mono_at_the_rate(tmp_path):
    import soundfile

    stereo = np.stack([np.ones(8000), np.zeros(8000)], axis=1)
    soundfile.write(tmp_path / "x.wav", stereo, 8000)
    mono = read_music(tmp_path / "x.wav", 4000)
    assert mono.shape == (4000,) and mono.dtype == np.float32
    np.testing.assert_allclose(mono[100:-100], 0.5, atol=0.01)
    (tmp_path / "bad.wav").write_text("no sound")
    for name in ("bad.wav", "absent.wav"):
        with pytest.raises(UserError, match="cannot read the music"):
            read_music(tmp_path / name, 4000)
