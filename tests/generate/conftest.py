"""A bundle with random weights and toy widths: the real export of real parts."""

import dataclasses
import string

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
from flax import linen as nn

from melody_jax.autoencoder.config import AutoencoderConfig, EnvelopeEncoderConfig, MagnitudeConfig
from melody_jax.autoencoder.network import Autoencoder
from melody_jax.bundle import Bundle, export, save_part
from melody_jax.codes.vocabulary import Vocabulary
from melody_jax.dpd.config import DPDConfig
from melody_jax.dpd.network import DPD
from melody_jax.generate import Melody
from melody_jax.geometry import Geometry
from melody_jax.lm.config import LMConfig
from melody_jax.lm.network import SemanticLM
from melody_jax.mulan.config import MuLanConfig, MusicTowerConfig, TextTowerConfig
from melody_jax.mulan.network import MuLan
from melody_jax.nn.conformer import ConformerConfig
from melody_jax.nn.measured import MEASURED, joined, variables
from melody_jax.semantic.config import MelStemConfig, SemanticConfig
from melody_jax.semantic.network import SemanticEncoder

GEOMETRY = Geometry(
    sample_rate=4000,
    hop=40,
    latent_channels=4,
    token_samples=160,
    clip_seconds=0.4,
    mulan_tokens=3,
    mulan_codes=8,
    semantic_codes=16,
)
MULAN = MuLanConfig(
    music=MusicTowerConfig(
        mels=16, fft=128, hop=40, patch_frequency=8, patch_time=6, stride_frequency=4, stride_time=5,
        width=16, layers=1, heads=2, mlp=32,
    ),
    text=TextTowerConfig(vocabulary=64, positions=16, width=16, layers=1, heads=2, mlp=32, pooling="mean"),
    text_length=16,
    joint=8,
)  # fmt: skip
LM = LMConfig(layers=2, width=16, heads=2, hidden=32)
BEATS = dataclasses.replace(LM, controls=True, beats=True)
DIFFUSION = DPDConfig(
    width=16, blocks=2, segment=8, heads=2, coarse_layers=1, hidden=32, recurrent_width=16, recurrent_layers=1,
    angle_width=8, prompt=True,
)  # fmt: skip
AUTOENCODER = AutoencoderConfig(
    encoder="envelope",
    decoder="magnitude",
    envelope=EnvelopeEncoderConfig(window=160, mels=16, hidden=32),
    magnitude=MagnitudeConfig(channels=16, hidden=32, layers=1, window=160, iterations=4),
)
SEMANTIC = SemanticConfig(
    stem="mel",
    mel=MelStemConfig(channels=8, mels=8, fft=256, frames=2, kernel=2),
    width=4,
    conformer=ConformerConfig(layers=1, heads=1, hidden=8, kernel=3, convolution_norm="rms"),
    feature_layer=1,
    feature_norm="layer",
)


def random_weights(module: nn.Module, *arguments, **options):
    """Random weights of the module's shapes, none of them zero; drawn by NumPy, so nothing is compiled."""
    shapes = jax.eval_shape(lambda key: nn.unbox(module.init(key, *arguments, **options)), jax.random.PRNGKey(0))
    shapes = joined(shapes["params"], shapes.get(MEASURED, {}))
    rng = np.random.default_rng(1)

    def draw(path, leaf):
        deviation = leaf.shape[-2] ** -0.5 if leaf.ndim > 1 else 0.3
        deviation = 1.0 if path[-1].key == "embedding" else deviation
        mean = 1.0 if path[-1].key == "scale" else 0.0
        return (mean + deviation * rng.normal(size=leaf.shape)).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def make_parts(directory):
    """Writes the five parts that sampling needs, and the semantic encoder; returns their directories."""
    g = GEOMETRY
    tokens, audio = jnp.zeros((1, 10), jnp.int32), jnp.zeros((1, g.clip_samples))
    noisy = jnp.zeros((1, g.clip_frames, g.latent_channels))
    rng = np.random.default_rng(0)
    codes = {
        "rvq": rng.normal(size=(g.mulan_tokens, g.mulan_codes, MULAN.joint)).astype(np.float32),
        "kmeans": rng.normal(size=(g.semantic_levels, g.semantic_codes, 4)).astype(np.float32),
    }
    autoencoder = random_weights(Autoencoder(AUTOENCODER, g), audio, jax.random.PRNGKey(0))
    autoencoder["latent_scale"] = np.float32(0.5)
    mulan = random_weights(MuLan(MULAN, g), audio, jnp.ones((1, 8), jnp.int32))
    # random towers send all texts to nearly one point; around that point they differ, as trained towers' do
    texts = jnp.asarray(rng.integers(1, 64, (8, 8)), jnp.int32)
    centred = jax.jit(lambda p: MuLan(MULAN, g).apply(variables(p), texts, method="embed_text").mean(0))
    mulan["text_center"] = np.asarray(centred(mulan | {"text_center": np.zeros(MULAN.joint, np.float32)}))
    params = {
        "autoencoder": (autoencoder, AUTOENCODER, ()),
        "mulan": (mulan, MULAN, ()),
        "semantic": (random_weights(SemanticEncoder(SEMANTIC, g), audio, method="features"), SEMANTIC, ()),
        "codes": (codes, {}, ("mulan",)),
        "lm": (random_weights(SemanticLM(LM, Vocabulary.of(g)), tokens), LM, ("codes",)),
        "dpd": (random_weights(DPD(DIFFUSION, g), noisy, noisy[..., 0], tokens), DIFFUSION, ("codes", "autoencoder")),
    }
    ids = {}
    for name, (weights, config, parents) in params.items():
        lineage, training = {parent: ids[parent] for parent in parents}, {"steps": 1, "seconds": 2.0}
        part = save_part(directory / name / "part", name, weights, config, g, lineage, training)
        ids[name] = part.id
    return [directory / name for name in params]


def make_tokenizer(path):
    """A WordPiece tokenizer of 64 entries: specials and single letters."""
    letters = string.ascii_lowercase
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters, *("##" + letter for letter in letters)]
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    tokenizer.normalizer = tokenizers.normalizers.BertNormalizer()
    tokenizer.save(str(path))
    return path


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory):
    """A folder as `melody train all` leaves it."""
    directory = tmp_path_factory.mktemp("runs")
    make_parts(directory)
    make_tokenizer(directory / "tokenizer.json")
    return directory


@pytest.fixture(scope="session")
def bundle_dir(model_dir, tmp_path_factory):
    """The bundle exported from it, float16."""
    out = tmp_path_factory.mktemp("bundles") / "toy"
    names = ("autoencoder", "mulan", "semantic", "codes", "lm", "dpd")
    export([model_dir / name for name in names], out, tokenizer=model_dir / "tokenizer.json", sampling={"steps": 3})
    return out


@pytest.fixture(scope="session")
def melody(bundle_dir):
    return Melody.load(bundle_dir)


def with_beats(bundle_dir):
    """The same with another language model, of random weights too, which knows controls and reads beats."""
    bundle, vocabulary = Bundle.load(bundle_dir), Vocabulary.of(GEOMETRY, True)
    weights = random_weights(SemanticLM(BEATS, vocabulary), jnp.zeros((1, vocabulary.prefix + 1), jnp.int32))
    changed = dataclasses.replace(bundle.parts["lm"], params=weights, config=dataclasses.asdict(BEATS))
    return Melody(dataclasses.replace(bundle, parts=dict(bundle.parts) | {"lm": changed}))
