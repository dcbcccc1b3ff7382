"""Models of other people that turn music into embeddings, for distances between made and real music; loaded from a path.

A TorchScript file     maps waveforms [B, T] to [B, E], or to [B, F, E] at F moments, and has the attribute `sample_rate` (Hz):
                       VGGish, MuQ, AudioBox, as `torch.jit` writes them where they are installed
A folder               as `save_pretrained` of transformers writes it, feature extractor included: CLAP, MERT, AST ...

Nothing is downloaded, and no code of a checkpoint's own is run.
"""

import dataclasses
import importlib.util
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import soxr

from melody_jax.errors import UserError, lacking
from melody_jax.shapes import Float

BATCH = 8


@dataclasses.dataclass(frozen=True)
class JudgeModel:
    """A model that hears music.

    Attributes:
      name: in tables.
      sample_rate: Hz, of what it hears.
      model: waveforms [B, T] at that rate -> a tensor [B, E] or [B, F, E].
    """

    name: str
    sample_rate: int
    model: Callable[[np.ndarray], Any]

    def embed(self, audio: Float[np.ndarray, "n T"], sample_rate: int) -> Float[np.ndarray, "n E"]:
        """Embeddings of pieces, the mean over their moments.

        Raises:
          UserError: the model returns something else, or numbers that are not finite.
        """
        if sample_rate != self.sample_rate:
            audio = np.stack([soxr.resample(row, sample_rate, self.sample_rate) for row in audio])
        parts = [self.model(audio[i : i + BATCH].astype(np.float32)) for i in range(0, len(audio), BATCH)]
        if any(part.ndim not in (2, 3) for part in parts):
            raise UserError(f"judge {self.name}: it returns {parts[0].ndim} axes; [B, E] or [B, F, E] is wanted")
        found = np.concatenate([part if part.ndim == 2 else part.mean(axis=1) for part in parts])
        if len(found) != len(audio) or not np.isfinite(found).all():
            raise UserError(f"judge {self.name}: not one embedding of finite numbers for each piece")
        return found


def load_all(paths: Mapping[str, str]) -> list[JudgeModel]:
    """Name -> path of judges, loaded.

    Raises:
      UserError: torch or transformers are missing, or a path holds no such model.
    """
    if paths and not all(importlib.util.find_spec(name) for name in ("torch", "transformers")):
        raise lacking("judges", "melody evaluate --judge")
    return [_loaded(name, pathlib.Path(path)) for name, path in paths.items()]


def _loaded(name: str, path: pathlib.Path) -> JudgeModel:
    if not path.exists():
        raise UserError(f"judge {name}: there is no {path}")
    try:
        return _from_folder(name, path) if path.is_dir() else _from_script(name, path)
    except (OSError, ValueError, RuntimeError, KeyError) as error:  # either library's, of what it cannot read
        raise UserError(f"judge {name}: {path} cannot be loaded: {str(error).strip().splitlines()[0]}") from None


def _from_script(name: str, path: pathlib.Path) -> JudgeModel:
    import torch  # pyright: ignore[reportMissingImports]

    script = torch.jit.load(path, map_location="cpu").eval()
    rate = getattr(script, "sample_rate", None)
    if not isinstance(rate, int):
        raise UserError(f"judge {name}: {path} does not say what it hears: give it the attribute sample_rate (Hz)")

    def model(audio: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return script(torch.from_numpy(audio)).float().numpy()

    return JudgeModel(name, rate, model)


def _from_folder(name: str, path: pathlib.Path) -> JudgeModel:
    import torch  # pyright: ignore[reportMissingImports]
    import transformers  # pyright: ignore[reportMissingImports]

    extractor = transformers.AutoFeatureExtractor.from_pretrained(path, local_files_only=True)
    network = transformers.AutoModel.from_pretrained(path, local_files_only=True).eval()
    rate = extractor.sampling_rate

    def model(audio: np.ndarray) -> np.ndarray:
        inputs = extractor(list(audio), sampling_rate=rate, return_tensors="pt")
        with torch.inference_mode():
            if hasattr(network, "get_audio_features"):  # of music and text one space, as CLAP has it
                return network.get_audio_features(**inputs).pooler_output.float().numpy()
            return network(**inputs).last_hidden_state.float().numpy()

    return JudgeModel(name, rate, model)
