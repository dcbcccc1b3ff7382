"""Judges loaded by path: a CLAP folder and a TorchScript file of random weights, made here; what is none is refused."""

import numpy as np
import pytest
import torch
import transformers

from melody_jax.errors import UserError
from melody_jax.evaluate import judge_models

RATE = 24_000


class Powers(torch.nn.Module):
    """Mean power of frames in four stretches of each, [B, F, 4]."""

    sample_rate: int

    def __init__(self, width: int = 4):
        super().__init__()
        self.sample_rate, self.width = 16_000, width

    def forward(self, audio: torch.Tensor) -> torch.Tensor:
        frames = audio[:, : audio.shape[1] // 1600 * 1600].reshape(audio.shape[0], -1, self.width, 1600 // self.width)
        return frames.square().mean(-1)


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("judge") / "powers.pt"
    torch.jit.script(Powers()).save(str(path))
    return path


@pytest.fixture(scope="module")
def clap(tmp_path_factory):
    torch.manual_seed(0)
    audio = {"hidden_size": 32, "patch_embeds_hidden_size": 16, "depths": [1, 1], "num_attention_heads": [2, 2]}
    audio |= {"num_hidden_layers": 2, "projection_dim": 12, "enable_fusion": False}
    text = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "vocab_size": 50,
    }
    config = transformers.ClapConfig(text_config=text | {"projection_dim": 12}, audio_config=audio, projection_dim=12)
    folder = tmp_path_factory.mktemp("judge") / "clap"
    transformers.ClapModel(config).save_pretrained(folder)
    transformers.ClapFeatureExtractor(truncation="rand_trunc", padding="repeatpad").save_pretrained(folder)
    return folder


def tones(count=3, seconds=1.0):
    at = np.arange(round(seconds * RATE)) / RATE
    return np.stack([0.1 * (n + 1) * np.sin(2 * np.pi * 220 * (n + 1) * at) for n in range(count)]).astype(np.float32)


def test_a_script_hears_music_at_its_own_rate(script):
    (judge,) = judge_models.load_all({"powers": str(script)})
    assert (judge.name, judge.sample_rate) == ("powers", 16_000)
    found = judge.embed(tones(10), RATE)
    expected = np.repeat(0.5 * (0.1 * np.arange(1, 11)[:, None]) ** 2, 4, axis=1)
    np.testing.assert_allclose(found, expected, rtol=0.02)


def test_a_folder_of_transformers(clap):
    (judge,) = judge_models.load_all({"clap": str(clap)})
    assert judge.sample_rate == 48_000
    found = judge.embed(tones(), RATE)
    assert found.shape == (3, 12) and np.ptp(found, axis=0).max() > 1e-4
    np.testing.assert_allclose(judge.embed(tones(1), RATE), found[:1], atol=1e-4)


def test_what_is_no_judge_is_refused(tmp_path, script):
    (tmp_path / "x.pt").write_bytes(b"PK\x03\x04")
    (tmp_path / "empty").mkdir()
    silent = torch.jit.script(torch.nn.Identity())
    silent.save(str(tmp_path / "silent.pt"))
    for name, words in (("nowhere", "there is no"), ("x.pt", "cannot be loaded"), ("empty", "cannot be loaded")):
        with pytest.raises(UserError, match=words) as refusal:
            judge_models.load_all({"a": str(tmp_path / name)})
        assert "\n" not in str(refusal.value)
    with pytest.raises(UserError, match="sample_rate"):
        judge_models.load_all({"a": str(tmp_path / "silent.pt")})


def test_odd_answers_are_refused():
    for answer, words in ((np.zeros(3), "axes"), (np.full((3, 2), np.nan), "finite"), (np.zeros((1, 2)), "each piece")):
        judge = judge_models.JudgeModel("odd", RATE, lambda audio, answer=answer: answer)
        with pytest.raises(UserError, match=words):
            judge.embed(tones(), RATE)
