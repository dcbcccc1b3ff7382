"""What tokenisation writes: the codes of captions, clip by clip."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from data_pipelines import build, read
from data_pipelines.request import Request
from melody_jax.bundle.part import load_part, locate, save_part
from melody_jax.codes import rvq
from melody_jax.graph import READ_AUDIO
from melody_jax.semantic.network import SemanticEncoder
from melody_jax.system import Loaded
from tests.data_pipelines.tones import write_music
from tests.generate.conftest import GEOMETRY, SEMANTIC
from tests.train import processes

CAPTIONS = [("a slow waltz", "organ", "reel in d minor"), (), ("jig",), ("fast", "polka for two")]


@pytest.fixture(scope="module")
def make(model_dir, tmp_path_factory):
    encoder, audio = SemanticEncoder(SEMANTIC, GEOMETRY), jnp.zeros((1, GEOMETRY.clip_samples))
    params = nn.unbox(jax.jit(lambda key: encoder.init(key, audio, method="features"))(jax.random.PRNGKey(0)))["params"]
    folder = tmp_path_factory.mktemp("semantic")
    save_part(folder, "semantic", jax.device_get(params), SEMANTIC, GEOMETRY, {}, {})
    parts = {name: load_part(locate(model_dir / name)) for name in READ_AUDIO if name != "semantic"}
    parts["semantic"] = load_part(folder)
    return lambda **options: Loaded(parts, model_dir / "tokenizer.json", **options)


@pytest.fixture(scope="module")
def models(make):
    return make()


def test_text_codes_are_those_of_each_clips_captions(models):
    audio = np.random.default_rng(0).normal(0, 0.1, (4, GEOMETRY.clip_samples)).astype(np.float32)
    encoded = models.represent(audio, CAPTIONS)
    assert {name: encoded[name].shape for name in ("mulan", "semantic", "latents")} == {
        "mulan": (4, 3), "semantic": (4, 10), "latents": (4, 40, 4)
    }  # fmt: skip
    assert [text.shape for text in encoded["text"]] == [(3, 3), (0, 3), (1, 3), (2, 3)]
    codebooks = models.weights["codes"]["rvq"]
    for text, captions in zip(encoded["text"], CAPTIONS):
        assert text.dtype == np.int32
        for codes, caption in zip(text, captions):
            np.testing.assert_array_equal(codes, rvq.encode(codebooks, jnp.asarray(models.embed_text([caption])))[0])
    assert len({tuple(codes) for text in encoded["text"] for codes in text.tolist()}) > 1


@pytest.mark.parametrize("rows", [4, 3])
def test_chips_share_the_rows(make, models, rows):
    """Also where they do not divide them."""
    audio = np.random.default_rng(1).normal(0, 0.1, (rows, GEOMETRY.clip_samples)).astype(np.float32)
    several = make(devices=jax.devices()[:4])
    alone, shared = models.represent(audio, CAPTIONS[:rows]), several.represent(audio, CAPTIONS[:rows])
    for name in ("mulan", "semantic", "text"):
        jax.tree.map(np.testing.assert_array_equal, alone[name], shared[name])
    np.testing.assert_allclose(alone["latents"], shared["latents"], atol=2e-3)  # float16


def test_any_number_of_sentences_in_one_compiled_shape(models):
    sentences = [caption for captions in CAPTIONS for caption in captions]
    whole = models.text_codes(sentences, 4)
    before = models._text_codes._cache_size()
    np.testing.assert_array_equal(models.text_codes(sentences[:3], 4), whole[:3])
    assert models.text_codes([], 4).shape == (0, 3)
    assert models._text_codes._cache_size() == before


@pytest.mark.slow  # pods start three times
def test_hosts_tokenise_together_and_again_for_another_part(model_dir, tmp_path):
    g = GEOMETRY
    music = write_music(tmp_path / "music", 20, g.clip_seconds, g.sample_rate)
    form = {"sample_rate": g.sample_rate, "seconds": g.clip_seconds, "min_seconds": g.clip_seconds}
    build.build("tones", Request("folder", str(music), **form), str(tmp_path), processes=1)

    def tokenised(folder, hosts):
        """The files of the data set but its descriptions, which name folders, and what was printed."""
        words = ["--data", "tones", "--data_dir", tmp_path, "--model_dir", folder, "--batch_size", 2]
        command = ["melody", "tokenize", *words, "--tokenizer", model_dir / "tokenizer.json"]
        out, errors = processes.start("launch.local_pod", "--hosts", hosts, "--", *command).communicate(timeout=600)
        made = read.tokens_directory(str(folder), "tones")
        files = [path for path in made.rglob("*") if path.is_file() and path.suffix != ".json"]
        return {path.relative_to(made): path.read_bytes() for path in files}, out + errors

    alone, together = (shutil.copytree(model_dir, tmp_path / name) for name in ("alone", "together"))
    (expected, _), (made, said) = tokenised(alone, 1), tokenised(together, 2)
    assert made == expected and expected, said
    encoder = load_part(locate(together / "semantic"))
    weights = jax.tree.map(lambda leaf: -leaf, encoder.params)
    save_part(together / "semantic" / "part", "semantic", weights, SEMANTIC, g, {}, {})
    changed, said = tokenised(together, 2)
    assert said.count("made with another semantic; made anew") == 1, said
    assert changed.keys() == expected.keys() and changed != expected
