"""The semantic encoder: stem, Conformer, and around them what pre-training needs."""

import flax.struct
import jax
import jax.numpy as jnp
from flax import linen as nn

from melody_jax.geometry import Geometry
from melody_jax.nn.conformer import Conformer
from melody_jax.nn.dense import Dense
from melody_jax.nn.norm import LayerNorm
from melody_jax.semantic import masking
from melody_jax.semantic.config import SemanticConfig
from melody_jax.semantic.feature_norm import FeatureNorm
from melody_jax.semantic.loss import contrastive_loss, diversity_loss, perplexity
from melody_jax.semantic.quantizer import GumbelQuantizer, Quantized
from melody_jax.semantic.stem import MelStem, SpectrumStem, WaveStem, pad_for, spectrum_of, whole_frames
from melody_jax.shapes import Array, Bool, Float, Shaped


class PretrainOutput(flax.struct.PyTreeNode):
    """The losses and everything that they are computed from.

    Attributes:
      context: [B, N, projection], predictions of the targets.
      targets: [B, N, projection], projected quantised frames.
      quantized: the quantiser's own output.
      mask: [B, N], the frames that were hidden.
      loss: the three terms under their weights.
      contrastive: mean over masked frames, nats.
      diversity: 0 (all entries used alike) to 1.
      accuracy: how often the right target is the most similar.
      perplexity: effective number of quantiser entries, over all groups.
      spectrum: mean squared error of the reconstructed log-frequency spectrum, relative to its variance; 0 without head.
    """

    context: Float[Array, "B N projection"]
    targets: Float[Array, "B N projection"]
    quantized: Quantized
    mask: Bool[Array, "B N"]
    loss: Float[Array, ""]
    contrastive: Float[Array, ""]
    diversity: Float[Array, ""]
    accuracy: Float[Array, ""]
    perplexity: Float[Array, ""]
    spectrum: Float[Array, ""]


class SemanticEncoder(nn.Module):
    """wav2vec2-Conformer (Baevski et al., 2020; Gulati et al., 2020).

    `pretrain` knows all values but those of `feature_norm`, which are measured after training and serve `features`.
    """

    config: SemanticConfig
    geometry: Geometry

    def setup(self):
        cfg = self.config
        types = {"dtype": cfg.dtype, "param_dtype": cfg.param_dtype}
        if cfg.stem == "wave":
            self.stem = WaveStem(cfg.wave, **types)
        elif cfg.stem == "mel":
            self.stem = MelStem(cfg.mel, self.geometry, **types)
        else:
            self.stem = SpectrumStem(cfg.spectrum, self.geometry, **types)
        self.stem_norm = LayerNorm(cfg.norm_eps, param_dtype=cfg.param_dtype)
        self.stem_projection = Dense(cfg.width, ("conv_out", "embed"), **types)
        masked = nn.with_logical_partitioning(nn.initializers.uniform(1.0), ("embed",))
        self.mask_embedding = self.param("mask_embedding", masked, (cfg.width,), jnp.dtype(cfg.param_dtype))
        self.conformer = Conformer(cfg.conformer)
        self.norm = LayerNorm(cfg.norm_eps, param_dtype=cfg.param_dtype)
        self.drop = nn.Dropout(cfg.conformer.dropout)
        self.quantizer = GumbelQuantizer(cfg.quantizer, **types)
        self.context_projection = Dense(cfg.projection, ("embed", "joint"), **types)
        self.target_projection = Dense(cfg.projection, ("codes", "joint"), **types)
        if cfg.pretrain.spectrum:
            self.spectrum_head = Dense(cfg.spectrum.bands, ("embed", "conv_out"), **types)
        self.feature_norm = FeatureNorm(cfg.feature_norm, cfg.feature_width)

    def stem_frames(self, audio: Float[Array, "B T"]) -> Float[Array, "B N I"]:
        """Normalised output of the stem, N = T // token_samples: input of Conformer and quantiser alike."""
        audio = whole_frames(audio, self.geometry)
        if self.config.stem == "wave":
            audio = pad_for(audio, self.config.wave, self.geometry)
        return self.stem_norm(self.stem(audio))

    def __call__(self, audio: Float[Array, "B T"], mask: Bool[Array, "B N"] | None = None) -> Float[Array, "B N H"]:
        """Normalised output of the last block. `mask`: True = a frame, False = padding."""
        x = self.stem_projection(self.stem_frames(audio))
        return self.norm(self.conformer(x, mask))

    def hidden(
        self, audio: Float[Array, "B T"], layer: int | None = None, mask: Bool[Array, "B N"] | None = None
    ) -> Float[Array, "B N H"]:
        """Output of block `layer` (counted from 1; the config's feature_layer if None), float32."""
        x = self.stem_projection(self.stem_frames(audio))
        return self.conformer(x, mask, depth=layer or self.config.feature_layer).astype(jnp.float32)

    def features(self, audio: Float[Array, "B T"], mask: Bool[Array, "B N"] | None = None) -> Float[Array, "B N O"]:
        """What k-means clusters, N = T // token_samples, float32: `hidden`, normalised as the config says, or the spectrum
        that the second head reconstructs."""
        if self.config.features == "spectrum":
            x = self.stem_projection(self.stem_frames(audio))
            return self._spectrum(x, self.norm(self.conformer(x, mask)))
        return self.feature_norm(self.hidden(audio, mask=mask))

    def pretrain(
        self,
        audio: Float[Array, "B T"],
        key: Shaped[Array, "..."],
        temperature: Float[Array, ""] | None = None,
        train: bool = False,
    ) -> PretrainOutput:
        """Hides spans, predicts their quantised frames among distractors.

        Args:
          audio: waveforms.
          key: draws mask, distractors and Gumbel noise.
          temperature: of the Gumbel softmax; None takes the likeliest entries (evaluation).
          train: dropout and batch statistics are on.
        """
        settings = self.config.pretrain
        mask_key, negatives_key, pool_key, gumbel_key = jax.random.split(key, 4)
        frames = self.stem_frames(audio)
        mask = masking.span_mask(
            mask_key, frames.shape[0], frames.shape[1], settings.mask_probability, settings.mask_length
        )
        x = self.drop(self.stem_projection(frames), deterministic=not train)
        x = jnp.where(mask[..., None], self.mask_embedding.astype(x.dtype)[None, None], x)
        last = self.norm(self.conformer(x, None, train))
        context = self.context_projection(last)

        gain = settings.quantizer_gradient
        source = frames if gain == 1.0 else gain * frames + jax.lax.stop_gradient((1.0 - gain) * frames)
        quantized = self.quantizer(source, temperature, gumbel_key)
        targets = self.target_projection(quantized.vectors)

        negatives = masking.sample_negatives(negatives_key, mask, settings.negatives)
        pool = masking.sample_pool(pool_key, mask, settings.cross_negatives) if settings.cross_negatives else None
        contrastive, accuracy = contrastive_loss(
            context, targets, quantized.codes, mask, negatives, pool, settings.kappa
        )
        diversity = diversity_loss(quantized.probabilities, mask)
        spectrum = self._spectrum_error(audio, self._spectrum(x, last)) if settings.spectrum else jnp.zeros(())
        loss = settings.contrastive * contrastive + settings.diversity * diversity + settings.spectrum * spectrum
        return PretrainOutput(
            context=context,
            targets=targets,
            quantized=quantized,
            mask=mask,
            loss=loss,
            contrastive=contrastive,
            diversity=diversity,
            accuracy=accuracy,
            perplexity=perplexity(quantized.probabilities, mask),
            spectrum=spectrum,
        )

    def _spectrum(self, x: Float[Array, "B N H"], last: Float[Array, "B N H"]) -> Float[Array, "B N F"]:
        """What the second head says, float32. It also sees what enters the Conformer, where a frame is not hidden: blocks
        are for what is not plain to hear, and notes are."""
        return self.spectrum_head(jnp.concatenate([x, last], axis=-1)).astype(jnp.float32)

    def _spectrum_error(self, audio: Float[Array, "B T"], found: Float[Array, "B N F"]) -> Float[Array, ""]:
        """Squared error of the head's spectrum over the variance of the batch's spectra."""
        geometry, config = self.geometry, self.config.spectrum
        target = spectrum_of(whole_frames(audio, geometry), config, geometry.sample_rate, geometry.token_samples)
        error = jnp.mean(jnp.square(found - target))
        return error / (jnp.mean(jnp.square(target - jnp.mean(target, axis=(0, 1), keepdims=True))) + 1e-6)
