"""Hugging Face folders of toy models: the config.json files, and tensors of random numbers under the names that
`names.json` lists (what `save_pretrained` of transformers 5.23.0 writes for the same config.json)."""

import json
import pathlib

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

CONFIGS = {
    "llama": {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 40, "hidden_size": 16,
        "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2,
        "rms_norm_eps": 1e-5, "rope_theta": 5000.0, "tie_word_embeddings": False, "max_position_embeddings": 64,
    },
    "bert": {
        "architectures": ["BertModel"], "model_type": "bert", "vocab_size": 50, "hidden_size": 16,
        "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 20,
        "type_vocab_size": 2, "layer_norm_eps": 1e-12,
    },
    "ast": {
        "architectures": ["ASTModel"], "model_type": "audio-spectrogram-transformer", "hidden_size": 16,
        "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "num_mel_bins": 24,
        "max_length": 40, "patch_size": 8, "frequency_stride": 5, "time_stride": 6,
    },
    "wav2vec2-conformer": {
        "architectures": ["Wav2Vec2ConformerForPreTraining"], "model_type": "wav2vec2-conformer", "hidden_size": 16,
        "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "conv_dim": [12, 12, 12],
        "conv_kernel": [10, 4, 2], "conv_stride": [5, 4, 2], "conv_bias": True, "feat_extract_norm": "layer",
        "position_embeddings_type": "relative", "conv_depthwise_kernel_size": 5, "num_codevectors_per_group": 6,
        "num_codevector_groups": 2, "codevector_dim": 8, "proj_codevector_dim": 8, "num_conv_pos_embeddings": 4,
        "num_conv_pos_embedding_groups": 2, "mask_time_prob": 0.65,
    },
    "hifigan": {
        "architectures": ["SpeechT5HifiGan"], "model_type": "hifigan", "model_in_dim": 6,
        "upsample_initial_channel": 16, "upsample_rates": [4, 2], "upsample_kernel_sizes": [8, 4],
        "resblock_kernel_sizes": [3, 7], "resblock_dilation_sizes": [[1, 3], [1, 3]], "normalize_before": False,
    },
}  # fmt: skip
NAMES = json.loads((pathlib.Path(__file__).parent / "names.json").read_text())


def tensors(model: str, dtype=np.float32) -> dict[str, np.ndarray]:
    """Random numbers, no two tensors alike; counters as int64."""
    random = np.random.default_rng(len(model))
    made = {}
    for name, shape in NAMES[model].items():
        counter = name.endswith("num_batches_tracked")
        made[name] = np.array(7, np.int64) if counter else random.normal(size=shape).astype(dtype)
    return made


def write(directory, model: str, dtype=np.float32, **changes) -> pathlib.Path:
    """The folder; `changes` replaces tensors (None removes one)."""
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(CONFIGS[model]))
    found = {name: x for name, x in (tensors(model, dtype) | changes).items() if x is not None}
    save_file(found, directory / "model.safetensors")
    return directory


BFLOAT16 = ml_dtypes.bfloat16
