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
from melody_jax.semantic.stem import MelStem, WaveStem, pad_for, whole_frames
from melody_jax.shapes import Array, Bool, Float, Shaped


class PretrainOutput(flax.struct.PyTreeNode):
    """Everything the losses need, and they.

    Attributes:
      context: [B, N, P], predictions of the targets.
      targets: [B, N, P], projected quantised frames.
      quantized: the quantiser's own output.
      mask: [B, N], the frames that were hidden.
      loss: contrastive + diversity * weight.
      contrastive: mean over masked frames, nats.
      diversity: 0 (all entries used alike) to 1.
      accuracy: how often the right target is the most similar.
      perplexity: effective number of quantiser entries, over all groups.
    """

    context: Float[Array, "B N P"]
    targets: Float[Array, "B N P"]
    quantized: Quantized
    mask: Bool[Array, "B N"]
    loss: Float[Array, ""]
    contrastive: Float[Array, ""]
    diversity: Float[Array, ""]
    accuracy: Float[Array, ""]
    perplexity: Float[Array, ""]


class SemanticEncoder(nn.Module):
    """wav2vec2-Conformer (Baevski et al., 2020; Gulati et al., 2020).

    `pretrain` knows all parameters but those of `feature_norm`, which are measured after training and serve `features`.
    """

    config: SemanticConfig
    geometry: Geometry

    def setup(self):
        cfg = self.config
        types = {"dtype": cfg.dtype, "param_dtype": cfg.param_dtype}
        if cfg.stem == "wave":
            self.stem = WaveStem(cfg.wave, **types)
        else:
            self.stem = MelStem(cfg.mel, self.geometry, **types)
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

    def features(self, audio: Float[Array, "B T"], mask: Bool[Array, "B N"] | None = None) -> Float[Array, "B N G"]:
        """What k-means clusters: `hidden`, normalised as the config says; N = T // token_samples, float32."""
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
        context = self.context_projection(self.norm(self.conformer(x, None, train)))

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
        return PretrainOutput(
            context=context,
            targets=targets,
            quantized=quantized,
            mask=mask,
            loss=contrastive + settings.diversity * diversity,
            contrastive=contrastive,
            diversity=diversity,
            accuracy=accuracy,
            perplexity=perplexity(quantized.probabilities, mask),
        )
