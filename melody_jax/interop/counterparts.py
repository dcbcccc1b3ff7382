"""Which of our parameters is which tensor of Hugging Face's models: one class per model, tables and nothing else."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from melody_jax import config as config_lib
from melody_jax.autoencoder.config import AutoencoderConfig, HiFiGANConfig
from melody_jax.autoencoder.decoder_hifigan import HiFiGANDecoder
from melody_jax.codes.vocabulary import Vocabulary
from melody_jax.errors import UserError
from melody_jax.geometry import Geometry
from melody_jax.interop.rules import (
    CONV,
    ONE_CHANNEL,
    POINTWISE,
    TRANSPOSED,
    Counterpart,
    Layout,
    NoCounterpartError,
    Rule,
    linear,
    norm,
    one,
    require,
    stacked,
)
from melody_jax.lm.config import LMConfig
from melody_jax.lm.network import SemanticLM
from melody_jax.mulan import minilm
from melody_jax.mulan.config import MuLanConfig, MusicTowerConfig, TextTowerConfig
from melody_jax.mulan.music_tower import MusicTower
from melody_jax.mulan.text_tower import TextTower
from melody_jax.semantic.config import SemanticConfig
from melody_jax.semantic.network import SemanticEncoder

ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
"""Activation in their config.json -> in our configs. Of several names of one activation the first is written."""


def _activation(model: str, json: Mapping[str, Any], field: str = "hidden_act") -> str:
    """Our name of the activation that `json` names; "gelu" where it names none."""
    theirs = json.get(field, "gelu")
    if theirs not in ACTIVATIONS:
        raise UserError(f"{model}: {field} {theirs!r} is none of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[theirs]


def _their_activation(ours: str) -> str:
    return next(theirs for theirs, name in ACTIVATIONS.items() if name == ours)


@dataclasses.dataclass(frozen=True)
class LlamaShape:
    """The LM's config and the number of ids, which a geometry decides elsewhere."""

    lm: LMConfig
    vocabulary: int


class Llama(Counterpart):
    """`LlamaForCausalLM`."""

    name, model_types, stage = "llama", ("llama",), "lm"
    prefixes, heads = ("model.",), ("lm_head.",)
    unused = (r"layers\.\d+\.self_attn\.rotary_emb\.inv_freq",)
    config = LlamaShape

    def read(self, json):
        rope = json.get("rope_parameters") or {}
        kind = rope.get("rope_type") or (json.get("rope_scaling") or {}).get("rope_type") or "default"
        heads, width = json["num_attention_heads"], json["hidden_size"]
        require(self.name, "rope_type", kind, "default")
        require(self.name, "num_key_value_heads", json.get("num_key_value_heads") or heads, heads)
        require(self.name, "head_dim", json.get("head_dim") or width // heads, width // heads)
        require(self.name, "hidden_act", json.get("hidden_act", "silu"), "silu")
        for name in ("attention_bias", "mlp_bias"):
            require(self.name, name, json.get(name, False), False)
        fields = {
            "layers": json["num_hidden_layers"],
            "width": width,
            "heads": heads,
            "hidden": json["intermediate_size"],
            "rope": float(rope.get("rope_theta") or json.get("rope_theta") or 10_000.0),
            "norm_eps": json.get("rms_norm_eps", 1e-6),
            "tie_embeddings": bool(json.get("tie_word_embeddings", False)),
        }
        return {"lm": fields, "vocabulary": json["vocab_size"]}

    def write(self, config):
        lm = config.lm
        return {
            "architectures": ["LlamaForCausalLM"],
            "vocab_size": config.vocabulary,
            "hidden_size": lm.width,
            "intermediate_size": lm.hidden,
            "num_hidden_layers": lm.layers,
            "num_attention_heads": lm.heads,
            "num_key_value_heads": lm.heads,
            "hidden_act": "silu",
            "rms_norm_eps": lm.norm_eps,
            "rope_theta": lm.rope,
            "tie_word_embeddings": lm.tie_embeddings,
            "attention_bias": False,
            "mlp_bias": False,
            "bos_token_id": Vocabulary.bos,
            "eos_token_id": Vocabulary.eos,
            "pad_token_id": Vocabulary.pad,
        }

    def of_stage(self, part):
        lm = config_lib.from_dict(LMConfig, part.config)
        if lm.condition_everywhere or lm.beats:
            raise NoCounterpartError(
                "this language model is no LLaMA: its condition goes into every position (condition_everywhere, beats)"
            )
        return LlamaShape(lm, Vocabulary.of(part.geometry, lm.controls).size)

    def rules(self, config):
        layers = {
            "attention_norm/scale": "input_layernorm",
            "Attention_0/query/kernel": "self_attn.q_proj",
            "Attention_0/key/kernel": "self_attn.k_proj",
            "Attention_0/value/kernel": "self_attn.v_proj",
            "Attention_0/out/kernel": "self_attn.o_proj",
            "feed_forward_norm/scale": "post_attention_layernorm",
            "FeedForward_0/gate/kernel": "mlp.gate_proj",
            "FeedForward_0/in/kernel": "mlp.up_proj",
            "FeedForward_0/out/kernel": "mlp.down_proj",
        }
        rules = [one("embed/embedding", "embed_tokens.weight"), one("norm/scale", "norm.weight")]
        rules += [
            stacked(f"layers/{ours}", f"layers.{{}}.{theirs}.weight", config.lm.layers)
            for ours, theirs in layers.items()
        ]
        return rules if config.lm.tie_embeddings else [*rules, one("head/kernel", "lm_head.weight")]

    def module(self, config):
        vocabulary = Vocabulary(0, 0, config.vocabulary - Vocabulary.specials)
        return SemanticLM(config.lm, vocabulary), (jnp.zeros((1, 2), jnp.int32),), "__call__"


class Bert(Counterpart):
    """`BertModel`, MuLan's text tower."""

    name, model_types, stage, place = "bert", ("bert",), "mulan", "text"
    prefixes = ("bert.",)
    unused = (r"pooler\.dense\.(weight|bias)", r"embeddings\.(position_ids|token_type_ids)")
    config = TextTowerConfig

    def read(self, json):
        require(self.name, "position_embedding_type", json.get("position_embedding_type", "absolute"), "absolute")
        require(self.name, "pad_token_id", json.get("pad_token_id", 0), 0)
        return {
            "vocabulary": json["vocab_size"],
            "positions": json["max_position_embeddings"],
            "types": json["type_vocab_size"],
            "width": json["hidden_size"],
            "layers": json["num_hidden_layers"],
            "heads": json["num_attention_heads"],
            "mlp": json["intermediate_size"],
            "activation": _activation(self.name, json),
            "norm_eps": json.get("layer_norm_eps", 1e-12),
        }

    def write(self, config):
        return {
            "architectures": ["BertModel"],
            "vocab_size": config.vocabulary,
            "max_position_embeddings": config.positions,
            "type_vocab_size": config.types,
            "hidden_size": config.width,
            "num_hidden_layers": config.layers,
            "num_attention_heads": config.heads,
            "intermediate_size": config.mlp,
            "layer_norm_eps": config.norm_eps,
            "hidden_act": _their_activation(config.activation),
            "pad_token_id": 0,
        }

    def of_stage(self, part):
        config = config_lib.from_dict(MuLanConfig, part.config)
        if not config.train_text_tower:
            raise NoCounterpartError(
                f"its text tower is that of the Python package {config.pretrained_text.package}, as it is"
            )
        return config.text

    def rules(self, config):
        rules = [one("/".join(ours), theirs) for theirs, ours in minilm.EMBEDDINGS.items()]
        return rules + [
            stacked("/".join(("encoder/layers", *ours)), f"encoder.layer.{{}}.{theirs}", config.layers)
            for theirs, ours in minilm.LAYER.items()
        ]

    def module(self, config):
        return TextTower(config), (jnp.ones((1, 2), jnp.int32),), "__call__"


@dataclasses.dataclass(frozen=True)
class ASTShape:
    """The music tower's config and the frames of its longest spectrogram, which a geometry decides elsewhere."""

    music: MusicTowerConfig
    frames: int


class AST(Counterpart):
    """`ASTModel`, MuLan's music tower. Its analysis (window, mel scale) stays ours."""

    name, model_types, stage, place = "ast", ("audio-spectrogram-transformer",), "mulan", "music"
    prefixes = ("audio_spectrogram_transformer.",)
    config = ASTShape

    def read(self, json):
        require(self.name, "qkv_bias", json.get("qkv_bias", True), True)
        fields = {
            "mels": json.get("num_mel_bins", 128),
            "patch_frequency": json.get("patch_size", 16),
            "patch_time": json.get("patch_size", 16),
            "stride_frequency": json.get("frequency_stride", 10),
            "stride_time": json.get("time_stride", 10),
            "width": json["hidden_size"],
            "layers": json["num_hidden_layers"],
            "heads": json["num_attention_heads"],
            "mlp": json["intermediate_size"],
            "activation": _activation(self.name, json),
            "norm_eps": json.get("layer_norm_eps", 1e-12),
        }
        return {"music": fields, "frames": json.get("max_length", 1024)}

    def write(self, config):
        music = config.music
        if music.patch_frequency != music.patch_time:
            raise NoCounterpartError(f"its patches are {music.patch_frequency} x {music.patch_time}, theirs are square")
        return {
            "architectures": ["ASTModel"],
            "num_mel_bins": music.mels,
            "max_length": config.frames,
            "patch_size": music.patch_time,
            "frequency_stride": music.stride_frequency,
            "time_stride": music.stride_time,
            "hidden_size": music.width,
            "num_hidden_layers": music.layers,
            "num_attention_heads": music.heads,
            "intermediate_size": music.mlp,
            "layer_norm_eps": music.norm_eps,
            "hidden_act": _their_activation(music.activation),
            "qkv_bias": True,
        }

    def of_stage(self, part):
        music = config_lib.from_dict(MuLanConfig, part.config).music
        return ASTShape(music, 1 + part.geometry.clip_samples // music.hop)

    def rules(self, config):
        music, (high, wide) = config.music, config.music.grid(config.frames)
        patch = Layout(
            lambda x: x.reshape(x.shape[0], -1).T,
            lambda x: x.T.reshape(x.shape[1], 1, music.patch_frequency, music.patch_time),
        )
        vector = Layout(lambda x: x[0, 0], lambda x: x[None, None])
        positions = Rule(
            ("special_positions", "positions"),
            ("embeddings.position_embeddings",),
            lambda x: [x[0][0, :2], x[0][0, 2:].reshape(high, wide, -1)],
            lambda x: [np.concatenate([x[0], x[1].reshape(high * wide, -1)])[None]],
        )
        layers = {
            "attention/query": "attention.attention.query",
            "attention/key": "attention.attention.key",
            "attention/value": "attention.attention.value",
            "attention/out": "attention.output.dense",
            "mlp/in": "intermediate.dense",
            "mlp/out": "output.dense",
            "attention_norm": "layernorm_before",
            "mlp_norm": "layernorm_after",
        }
        rules = [
            one("cls_token", "embeddings.cls_token", vector),
            one("distillation_token", "embeddings.distillation_token", vector),
            positions,
            *linear("patch_embedding", "embeddings.patch_embeddings.projection", patch),
            *norm("norm", "layernorm"),
        ]
        for ours, theirs in layers.items():
            weight = "scale" if ours.endswith("norm") else "kernel"
            for mine, yours in ((weight, "weight"), ("bias", "bias")):
                name = f"encoder.layer.{{}}.{theirs}.{yours}"
                rules.append(stacked(f"encoder/layers/{ours}/{mine}", name, music.layers))
        return rules

    def module(self, config):
        high, wide = config.music.grid(config.frames)
        if min(high, wide) < 1:
            raise UserError(f"ast: a spectrogram of {config.frames} x {config.music.mels} holds no patch")
        spectrogram = jnp.zeros((1, config.frames, config.music.mels), jnp.float32)
        return MusicTower(config.music, config.frames), (spectrogram,), "__call__"


class Wav2Vec2Conformer(Counterpart):
    """`Wav2Vec2ConformerModel` or `...ForPreTraining`, the semantic encoder."""

    name, model_types, stage = "wav2vec2-conformer", ("wav2vec2-conformer",), "semantic"
    prefixes, heads = ("wav2vec2_conformer.",), ("quantizer.", "project_hid.", "project_q.")
    unused = (
        r"encoder\.pos_conv_embed\..*",  # made and never called
        r"encoder\.embed_positions\.inv_freq",
        r"encoder\.layers\.\d+\.conv_module\.batch_norm\.num_batches_tracked",
    )
    config = SemanticConfig
    positions: ClassVar[Mapping[Any, str]] = {"relative": "relative", "rotary": "rotary_input", None: "none"}

    def read(self, json):
        channels = set(json["conv_dim"])
        require(self.name, "conv_dim", len(channels), 1, "widths")
        require(self.name, "add_adapter", json.get("add_adapter", False), False)
        kind = json.get("position_embeddings_type", "relative")
        if kind not in self.positions:
            raise UserError(f"{self.name}: position_embeddings_type {kind!r} is none of relative, rotary, null")
        return {
            "stem": "wave",
            "width": json["hidden_size"],
            "projection": json.get("proj_codevector_dim", 256),
            "norm_eps": json.get("layer_norm_eps", 1e-5),
            "feature_layer": max(1, json["num_hidden_layers"] // 2),
            "wave": {
                "channels": channels.pop(),
                "kernels": tuple(json["conv_kernel"]),
                "strides": tuple(json["conv_stride"]),
                "norm": json.get("feat_extract_norm", "group"),
                "use_bias": bool(json.get("conv_bias", False)),
                "activation": _activation(self.name, json, "feat_extract_activation"),
            },
            "conformer": {
                "layers": json["num_hidden_layers"],
                "heads": json["num_attention_heads"],
                "hidden": json["intermediate_size"],
                "kernel": json.get("conv_depthwise_kernel_size", 31),
                "positions": self.positions[kind],
                "rope": float(json.get("rotary_embedding_base", 10_000)),
                "activation": _activation(self.name, json),
                "convolution_norm": "batch",
                "mask_convolution": False,
                "norm_eps": 1e-5,
            },
            "quantizer": {
                "groups": json.get("num_codevector_groups", 2),
                "entries": json.get("num_codevectors_per_group", 320),
                "width": json.get("codevector_dim", 256),
            },
        }

    def write(self, config):
        conformer, wave = config.conformer, config.wave
        positions = {ours: theirs for theirs, ours in self.positions.items()}
        for name, value, wanted in (
            ("stem", config.stem, ("wave",)),
            ("conformer.positions", conformer.positions, tuple(positions)),
            ("conformer.convolution_norm", conformer.convolution_norm, ("batch",)),
            ("conformer.norm_eps", conformer.norm_eps, (1e-5,)),
        ):
            if value not in wanted:
                raise NoCounterpartError(f"its {name} is {value!r}, theirs {' or '.join(map(repr, wanted))}")
        return {
            "architectures": ["Wav2Vec2ConformerForPreTraining"],
            "hidden_size": config.width,
            "num_hidden_layers": conformer.layers,
            "num_attention_heads": conformer.heads,
            "intermediate_size": conformer.hidden,
            "hidden_act": _their_activation(conformer.activation),
            "layer_norm_eps": config.norm_eps,
            "feat_extract_norm": wave.norm,
            "feat_extract_activation": _their_activation(wave.activation),
            "conv_dim": [wave.channels] * len(wave.kernels),
            "conv_kernel": list(wave.kernels),
            "conv_stride": list(wave.strides),
            "conv_bias": wave.use_bias,
            "position_embeddings_type": positions[conformer.positions],
            "rotary_embedding_base": int(conformer.rope),
            "conv_depthwise_kernel_size": conformer.kernel,
            "num_codevector_groups": config.quantizer.groups,
            "num_codevectors_per_group": config.quantizer.entries,
            "codevector_dim": config.quantizer.width,
            "proj_codevector_dim": config.projection,
            "mask_time_prob": config.pretrain.mask_probability,
            "mask_time_length": config.pretrain.mask_length,
            "num_negatives": config.pretrain.negatives,
            "contrastive_logits_temperature": config.pretrain.kappa,
            "diversity_loss_weight": config.pretrain.diversity,
        }

    def of_stage(self, part):
        return config_lib.from_dict(SemanticConfig, part.config)

    def rules(self, config):
        rules = [one("mask_embedding", "masked_spec_embed", group="mask_embedding")]
        for i in range(len(config.wave.kernels)):
            convolution = f"feature_extractor.conv_layers.{i}"
            layout = ONE_CHANNEL if i == 0 else CONV
            rules += linear(f"stem/conv_{i}", f"{convolution}.conv", layout)[: 1 + config.wave.use_bias]
            if i == 0 or config.wave.norm == "layer":
                rules += norm(f"stem/norm_{i}", f"{convolution}.layer_norm")
        rules += norm("stem_norm", "feature_projection.layer_norm")
        rules += linear("stem_projection", "feature_projection.projection")
        rules += norm("norm", "encoder.layer_norm")
        quantizer, codebooks = config.quantizer, "quantizer/codebooks"
        shape = (quantizer.groups, quantizer.entries, -1)
        table = Layout(lambda x: x.reshape(shape), lambda x: x.reshape(1, shape[0] * shape[1], -1))
        rules += [
            *linear("quantizer/logits", "quantizer.weight_proj", group="quantizer"),
            one(codebooks, "quantizer.codevectors", table, "quantizer"),
            *linear("context_projection", "project_hid", group="quantizer"),
            *linear("target_projection", "project_q", group="quantizer"),
        ]
        for ours, theirs, layout in self._block(config):
            rules.append(
                stacked(f"conformer/layers/{ours}", f"encoder.layers.{{}}.{theirs}", config.conformer.layers, layout)
            )
        return rules

    def _block(self, config: SemanticConfig) -> list[tuple[str, str, Layout | None]]:
        norms = {
            "feed_forward_1_norm": "ffn1_layer_norm",
            "attention_norm": "self_attn_layer_norm",
            "convolution/norm": "conv_module.layer_norm",
            "convolution/depthwise_norm": "conv_module.batch_norm",
            "feed_forward_2_norm": "ffn2_layer_norm",
            "norm": "final_layer_norm",
        }
        linear = {
            "feed_forward_1/in": "ffn1.intermediate_dense",
            "feed_forward_1/out": "ffn1.output_dense",
            "attention/query": "self_attn.linear_q",
            "attention/key": "self_attn.linear_k",
            "attention/value": "self_attn.linear_v",
            "attention/out": "self_attn.linear_out",
            "feed_forward_2/in": "ffn2.intermediate_dense",
            "feed_forward_2/out": "ffn2.output_dense",
        }
        table: list[tuple[str, str, Layout | None]] = [
            ("convolution/in/kernel", "conv_module.pointwise_conv1.weight", POINTWISE),
            ("convolution/depthwise/kernel", "conv_module.depthwise_conv.weight", ONE_CHANNEL),
            ("convolution/depthwise_norm/mean", "conv_module.batch_norm.running_mean", None),
            ("convolution/depthwise_norm/var", "conv_module.batch_norm.running_var", None),
            ("convolution/out/kernel", "conv_module.pointwise_conv2.weight", POINTWISE),
        ]
        table += [(f"{ours}/scale", f"{theirs}.weight", None) for ours, theirs in norms.items()]
        table += [(f"{ours}/kernel", f"{theirs}.weight", None) for ours, theirs in linear.items()]
        table += [(f"{ours}/bias", f"{theirs}.bias", None) for ours, theirs in (norms | linear).items()]
        if config.conformer.positions == "relative":
            table += [
                ("attention/position/kernel", "self_attn.linear_pos.weight", None),
                ("attention/content_bias", "self_attn.pos_bias_u", None),
                ("attention/position_bias", "self_attn.pos_bias_v", None),
            ]
        return table

    def module(self, config):
        stride = config.wave.stride
        token = Geometry(sample_rate=100 * stride, hop=stride, token_samples=stride, clip_seconds=1.0)
        audio = jnp.zeros((1, 20 * stride), jnp.float32)
        return SemanticEncoder(config, token), (audio, jax.random.PRNGKey(0)), "pretrain"


@dataclasses.dataclass(frozen=True)
class HiFiGANShape:
    """The generator's config and its input channels, which a geometry decides elsewhere."""

    hifigan: HiFiGANConfig
    channels: int


class HiFiGAN(Counterpart):
    """`SpeechT5HifiGan`, the autoencoder's decoder."""

    name, model_types = "hifigan", ("hifigan", "speecht5_hifigan")
    stage, place = "autoencoder", "decoder"
    unused = (r"mean", r"scale")
    config = HiFiGANShape

    def read(self, json):
        dilations = {tuple(row) for row in json["resblock_dilation_sizes"]}
        require(self.name, "resblock_dilation_sizes", len(dilations), 1, "kinds of rows")
        require(self.name, "normalize_before", json.get("normalize_before", True), False)
        self._check_lengths(json["upsample_rates"], json["upsample_kernel_sizes"], UserError)
        fields = {
            "channels": json["upsample_initial_channel"],
            "strides": tuple(json["upsample_rates"]),
            "upsample_kernels": tuple(json["upsample_kernel_sizes"]),
            "kernels": tuple(json["resblock_kernel_sizes"]),
            "dilations": dilations.pop(),
            "trunk_kernels": (),
            "slope": json.get("leaky_relu_slope", 0.1),
        }
        return {"hifigan": fields, "channels": json["model_in_dim"]}

    def write(self, config):
        shape = config.hifigan
        if shape.trunk_kernels:
            raise NoCounterpartError(
                "its generator has residual blocks at the latent rate (trunk_kernels), theirs has none"
            )
        self._check_lengths(shape.strides, shape.upsample_kernels, NoCounterpartError)
        return {
            "architectures": ["SpeechT5HifiGan"],
            "model_in_dim": config.channels,
            "upsample_initial_channel": shape.channels,
            "upsample_rates": list(shape.strides),
            "upsample_kernel_sizes": list(shape.upsample_kernels),
            "resblock_kernel_sizes": list(shape.kernels),
            "resblock_dilation_sizes": [list(shape.dilations)] * len(shape.kernels),
            "leaky_relu_slope": shape.slope,
            "normalize_before": False,
        }

    def _check_lengths(self, strides: Sequence[int], kernels: Sequence[int], error: type[UserError]) -> None:
        """Theirs gives T * stride samples only where kernel - stride is even; ours always does."""
        odd = [(stride, kernel) for stride, kernel in zip(strides, kernels, strict=True) if (kernel - stride) % 2]
        if odd:
            stride, kernel = odd[0]
            raise error(f"{self.name}: kernel {kernel} - stride {stride} is odd, and theirs then has another length")

    def of_stage(self, part):
        config = config_lib.from_dict(AutoencoderConfig, part.config)
        if config.decoder != "hifigan":
            raise NoCounterpartError(f"its decoder is {config.decoder!r}, theirs 'hifigan'")
        return HiFiGANShape(config.hifigan, part.geometry.latent_channels)

    def rules(self, config):
        shape = config.hifigan
        rules = [*linear("pre", "conv_pre", CONV), *linear("post", "conv_post", CONV)]
        for i in range(len(shape.strides)):
            rules += linear(f"upsample_{i}", f"upsampler.{i}", TRANSPOSED)
            for j in range(len(shape.kernels)):
                block = f"resblocks.{i * len(shape.kernels) + j}"
                for k in range(len(shape.dilations)):
                    ours = f"fusion_{i}/branch_{j}"
                    rules += linear(f"{ours}/dilated_{k}", f"{block}.convs1.{k}", CONV)
                    rules += linear(f"{ours}/dense_{k}", f"{block}.convs2.{k}", CONV)
        return rules

    def module(self, config):
        latents = jnp.zeros((1, 2, config.channels), jnp.float32)
        return HiFiGANDecoder(AutoencoderConfig(hifigan=config.hifigan), Geometry()), (latents,), "__call__"


COUNTERPARTS: Mapping[str, Counterpart] = {
    counterpart.name: counterpart for counterpart in (Llama(), Bert(), AST(), Wav2Vec2Conformer(), HiFiGAN())
}
