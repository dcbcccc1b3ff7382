"""MuLan (Huang et al., "MuLan: A Joint Embedding of Music Audio and Natural Language", 2022)."""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from melody_jax.geometry import Geometry
from melody_jax.mulan.config import MuLanConfig
from melody_jax.mulan.music_tower import MusicTower, spectrogram
from melody_jax.mulan.text_tower import TextTower
from melody_jax.nn.dense import Dense
from melody_jax.nn.measured import measured
from melody_jax.shapes import Array, Float, Int


class Joint(flax.struct.PyTreeNode):
    """Unit-norm embeddings of clips and of their texts, and the logarithm of the loss's inverse temperature."""

    music: Float[Array, "B E"]
    text: Float[Array, "B E"]
    log_scale: Float[Array, ""]


class Projection(nn.Module):
    """From a tower's width to the joint space: GELU layers of the `hidden` widths, then a linear map."""

    hidden: tuple[int, ...]
    joint: int
    dropout: float
    dtype: str
    param_dtype: str

    @nn.compact
    def __call__(self, x: Float[Array, "B H"], deterministic: bool = True) -> Float[Array, "B E"]:
        precision = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        drop = nn.Dropout(self.dropout, deterministic=deterministic)
        for index, width in enumerate(self.hidden):
            x = nn.gelu(Dense(width, ("embed", "mlp"), name=f"hidden_{index}", **precision)(drop(x)), approximate=False)
        return Dense(self.joint, ("mlp" if self.hidden else "embed", "joint"), name="out", **precision)(drop(x))


class MuLan(nn.Module):
    """Two towers, two projections, the temperature, and the centres of the two modalities.

    The parameters are {"music", "text", "music_projection", "text_projection", "log_scale"}; a frozen text tower's "text"
    comes from elsewhere (see `minilm`), and is not needed to embed music. The centres are measured at the end
    of training, which knows none.

    Attributes:
      config: shapes.
      geometry: sample rate and longest clip.
    """

    config: MuLanConfig
    geometry: Geometry

    def setup(self):
        c = self.config
        precision = {"dtype": c.dtype, "param_dtype": c.param_dtype}
        frames = 1 + self.geometry.clip_samples // c.music.hop
        self.music = MusicTower(c.music, frames, c.remat, c.fused_attention, **precision)
        self.text = TextTower(c.text, c.remat, c.fused_attention, **precision)
        self.music_projection = Projection(c.music_hidden, c.joint, c.projection_dropout, **precision)
        self.text_projection = Projection(c.text_hidden, c.joint, c.projection_dropout, **precision)
        scale = nn.with_logical_partitioning(nn.initializers.constant(-np.log(c.temperature)), ())
        self.log_scale = self.param("log_scale", scale, (), jnp.float32)
        self.music_center, self.text_center = (
            measured(self, name, nn.initializers.zeros, (c.joint,), ("joint",))
            for name in ("music_center", "text_center")
        )

    def __call__(self, audio: Float[Array, "B T"], tokens: Int[Array, "B W"]) -> Joint:
        """Both embeddings."""
        return Joint(self.embed_music(audio), self.embed_text(tokens), self.log_scale)

    def embed_music(self, audio: Float[Array, "B T"]) -> Float[Array, "B E"]:
        """Unit-norm float32 embeddings of clips of at most the geometry's length.

        Raises:
          ValueError: the clips are longer than that, or shorter than a patch.
        """
        return self.embed_spectrogram(self.spectrogram(audio))

    def embed_text(self, tokens: Int[Array, "B W"]) -> Float[Array, "B E"]:
        """Unit-norm float32 embeddings of texts, padded with 0.

        Raises:
          ValueError: the texts are longer than the tower's positions.
        """
        return self.embed_text_state(self.text(tokens))

    def spectrogram(self, audio: Float[Array, "B T"]) -> Float[Array, "B F M"]:
        """What the music tower looks at."""
        return spectrogram(audio, self.config.music, self.geometry.sample_rate)

    def embed_spectrogram(self, x: Float[Array, "B F M"], deterministic: bool = True) -> Float[Array, "B E"]:
        """The rest of `embed_music`."""
        y = self.music_projection(self.music(x, deterministic), deterministic)
        return _unit(y, self.music_center)

    def text_state(self, tokens: Int[Array, "B W"]) -> Float[Array, "B H"]:
        """The text tower's pooled states."""
        return self.text(tokens)

    def embed_text_state(self, state: Float[Array, "B H"], deterministic: bool = True) -> Float[Array, "B E"]:
        """The rest of `embed_text`."""
        return _unit(self.text_projection(state, deterministic), self.text_center)


def _unit(x: Float[Array, "B E"], center: Float[Array, "E"]) -> Float[Array, "B E"]:
    """Unit vectors, minus their modality's mean, again as unit vectors.

    Float32: the loss divides cosines by a small temperature.
    """
    x = _normalise(x.astype(jnp.float32))
    return _normalise(x - center[None])


def _normalise(x: Float[Array, "B E"]) -> Float[Array, "B E"]:
    return x * jax.lax.rsqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True) + 1e-12)
