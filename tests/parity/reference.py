"""What the parity tests share: a model of ours, and Hugging Face's with the same numbers, read from an exported folder."""

import re
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import torch

from melody_jax import config as config_lib
from melody_jax.bundle.part import flatten, save_part, unflatten
from melody_jax.geometry import Geometry
from melody_jax.interop import huggingface
from melody_jax.interop.counterparts import COUNTERPARTS

FORWARD, GRADIENT = 1e-4, 1e-3
"""Largest errors allowed, relative to the largest absolute value of what is compared."""


def random_params(shapes: dict[str, Any], seed: int = 0) -> dict[str, Any]:
    """Numbers of a trained model's size: scales near 1, variances positive, kernels that keep the variance."""
    random = np.random.default_rng(seed)
    flat = {}
    for name, leaf in sorted(shapes.items()):
        x, last = random.normal(size=leaf.shape), name.rpartition("/")[2]
        if last == "kernel":
            x *= np.prod(leaf.shape[-2:-1] if "layers" in name else leaf.shape[:-1]) ** -0.5
        elif last == "var":
            x = np.exp(0.3 * x)
        else:
            x = 0.3 * x + (last == "scale")
        flat[name] = jnp.asarray(x, jnp.float32)
    return unflatten(flat)


class Pair:
    """The two models.

    Attributes:
      config: of ours.
      module: ours.
      params: ours, random.
      torch: theirs, in evaluation mode, with the same numbers.
    """

    def __init__(self, name: str, settings: dict[str, Any], cls: Any, folder: Path, seed: int = 0):
        self._counterpart, self._folder = COUNTERPARTS[name], folder
        settings = cls.config_class(**settings).to_dict() | {"architectures": [cls.__name__]}
        self.config = config_lib.from_dict(self._counterpart.config, self._counterpart.read(settings))
        self.module = self._counterpart.module(self.config)[0]
        self.params = random_params(self._counterpart.shapes(self.config), seed)
        prefixes = self._counterpart.prefixes if "Model" not in cls.__name__ else ()
        record = {huggingface.RECORD: {"config": settings, "prefix": prefixes[0] if prefixes else ""}}
        part = save_part(folder / "ours", name, self.params, self.config, Geometry(), {}, record)
        huggingface.export_folder(part, self._counterpart, folder / "theirs")
        self.torch, loading = cls.from_pretrained(
            folder / "theirs", output_loading_info=True, attn_implementation="eager", dtype=torch.float32
        )
        self.torch.eval()
        left = [key for key in loading["missing_keys"] if not self._is_unused(key)]
        assert not left, f"no numbers for {left}"
        assert not loading["mismatched_keys"] and not loading["error_msgs"]

    def torch_gradients(self) -> dict[str, Any]:
        """The gradients that PyTorch has left, as a tree like `params`: written by `save_pretrained`, and imported."""
        with torch.no_grad():
            for parameter in self.torch.parameters():
                parameter.copy_(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)
        self.torch.save_pretrained(self._folder / "gradients")
        part, _ = huggingface.import_folder(self._folder / "gradients", self._folder / "gradients_ours")
        return {name: tree for name, tree in part.params.items() if name != "unused"}

    def _is_unused(self, key: str) -> bool:
        for prefix in self._counterpart.prefixes:
            key = key.removeprefix(prefix)
        return any(re.fullmatch(pattern, key) for pattern in self._counterpart.unused)


def check_gradients(ours: dict[str, Any], theirs: dict[str, Any], leave_out: tuple[str, ...] = ()) -> None:
    """Every parameter's gradient within GRADIENT of the largest of its tensor, or of a hundredth of the largest of all.

    (A tensor whose gradient is zero but for rounding, such as the bias of the keys, has no relative error.)
    """
    ours, theirs = flatten(ours), flatten(theirs)
    largest = max(float(np.max(np.abs(x))) for x in theirs.values())
    assert largest > 0
    compared = [name for name in theirs if not name.endswith(leave_out or ("\0",))]
    for name in compared:
        scale = max(float(np.max(np.abs(theirs[name]))), 1e-2 * largest)
        error = float(np.max(np.abs(np.asarray(ours[name]) - theirs[name]))) / scale
        assert error <= GRADIENT, f"gradient of {name}: {error:.1e}"


def relative(found: Any, wanted: Any) -> float:
    """Largest absolute difference over the largest absolute value wanted."""
    found, wanted = (np.asarray(x.detach() if isinstance(x, torch.Tensor) else x, np.float64) for x in (found, wanted))
    assert found.shape == wanted.shape, (found.shape, wanted.shape)
    return float(np.max(np.abs(found - wanted)) / np.max(np.abs(wanted)))
