"""The tokenised data set of a model folder: made where it is missing, looked at where it must be there."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from melody_jax import storage
from melody_jax.bundle.part import INFO_FILE, Part, load_part, locate, read_info
from melody_jax.errors import UserError
from melody_jax.generate.settings import BATCH_SIZE
from melody_jax.graph import READ_AUDIO
from melody_jax.parallel import hosts
from melody_jax.storage import Path


def finished(model_dir: str | os.PathLike, names: Sequence[str]) -> dict[str, Path]:
    """Name -> folder of the parts `names` of a model folder.

    Raises:
      UserError: one of them is not there.
    """
    folders = {name: locate(storage.path(model_dir) / name) for name in names}
    missing = [name for name, folder in folders.items() if not (folder / INFO_FILE).is_file()]
    if missing:
        raise UserError(f"{model_dir} holds no finished {', '.join(missing)}; run melody train {missing[0]} first")
    return folders


def load_parts(model_dir: str, names: Sequence[str]) -> dict[str, Part]:
    """The finished parts of a model folder; raises as `finished`."""
    return {name: load_part(folder) for name, folder in finished(model_dir, names).items()}


def of_model_dir(model_dir: str, data: str, data_dir: str, **options: Any) -> Path:
    """The tokens that the finished parts of a model folder make; `options` and errors as of `ensure`.

    The parts' ids say whether they are there. Their weights are read only where they are not.
    """
    ids = {name: read_info(folder)["id"] for name, folder in finished(model_dir, READ_AUDIO).items()}
    found = present(ids, model_dir, data, data_dir)
    return found or ensure(load_parts(model_dir, READ_AUDIO), model_dir, data, data_dir, **options)


def present(ids: Mapping[str, str], folder: str, data: str, data_dir: str) -> Path | None:
    """The tokens of the data set `data` below `folder`, where parts of these ids made them of the audio as it is now.

    Raises:
      UserError: the data set is missing.
    """
    from data_pipelines import read

    source = read.metadata(read.audio_directory(data_dir, data))["id"]
    directory = read.tokens_directory(folder, data)
    made = read.metadata(directory) if (directory / "metadata.json").is_file() else {}
    return directory if (made.get("lineage"), made.get("source")) == (dict(ids), source) else None


def ensure(
    parts: Mapping[str, Part],
    folder: str,
    data: str,
    data_dir: str,
    batch_size: int = BATCH_SIZE,
    tokenizer: str | os.PathLike | None = None,
) -> Path:
    """The tokens that `parts` make of the data set `data`, below `folder`: they belong to the parts, not to the audio.

    Tokens that other parts or other audio made are replaced; an interrupted run goes on where it stopped.

    Raises:
      UserError: a part or the data set is missing, its clips have another length.
    """
    missing = [name for name in READ_AUDIO if name not in parts]
    if missing:
        raise UserError(f"these stages are not trained yet: {', '.join(missing)}")
    lineage = {name: parts[name].id for name in READ_AUDIO}
    found = present(lineage, folder, data, data_dir)
    if found is not None:
        return found
    from data_pipelines import precompute, read
    from melody_jax.system import Loaded

    audio = read.audio_directory(data_dir, data)
    loaded = Loaded({name: parts[name] for name in READ_AUDIO}, tokenizer)
    cut = 0

    def represent(audio: np.ndarray, captions: Sequence[Sequence[str]]) -> dict[str, Any]:
        nonlocal cut
        words = (caption for clip in captions for caption in clip)
        cut += sum(loaded.tokenizer.kept(caption, loaded.text_length) is not None for caption in words)
        return loaded.represent(audio, captions)

    made = precompute.precompute(represent, audio, folder, data, lineage, loaded.geometry, batch_size, hosts.share())
    if cut:
        print(f"{made}: captions cut at the {loaded.text_length} tokens that the model reads: {cut}")
    return made


def check(model_dir: str, data: str, data_dir: str) -> None:
    """Refuses tokens that are missing, or that other parts or other audio made.

    Raises:
      UserError: see above, or a part or the data set is missing.
    """
    from data_pipelines import read

    ids = {name: read_info(folder)["id"] for name, folder in finished(model_dir, READ_AUDIO).items()}
    if present(ids, model_dir, data, data_dir) is None:
        directory = read.tokens_directory(model_dir, data)
        command = f"melody tokenize --model_dir {model_dir} --data {data}"
        raise UserError(f"{directory} holds no tokens of this data by these parts; run {command} first")


def drawn(
    model_dir: str,
    data: str,
    data_dir: str,
    name: str,
    guidance: float = 1.0,
    batch_size: int = BATCH_SIZE,
    **options: Any,
) -> Path:
    """Tokens `name` of a model folder: those of `data`, some of them drawn anew by its language model (`data_pipelines.drawn`).

    A diffusion model that is trained on them learns what to make of the errors that it will meet in sampling: "conditioning
    augmentation" (Ho et al., "Cascaded Diffusion Models", 2022), with the errors that there are in place of noise.

    Args:
      guidance: of the draws.
      options: as of `ensure`, for the tokens of `data` where they are not there.

    Raises:
      UserError: as of `of_model_dir`; the language model is missing or of other codes; `name` is `data`, or no name for a data set.
    """
    from data_pipelines import drawn, read, replacing
    from melody_jax.lm.decode import Sampling
    from melody_jax.system import Loaded

    replacing.check_name(name, "--drawn")
    if name == data:
        raise UserError(f"--drawn {name}: the tokens with draws need a name of their own")
    sampling, folders = Sampling(guidance=guidance), finished(model_dir, ("codes", "lm"))
    lm = load_part(folders["lm"])
    if lm.parents.get("codes") != read_info(folders["codes"])["id"]:
        raise UserError(f"{model_dir}: the language model was trained on other codes; train it again")
    true = of_model_dir(model_dir, data, data_dir, batch_size=batch_size, **options)
    loaded = Loaded({"lm": lm})

    def redraw(
        text: np.ndarray, controls: np.ndarray, semantic: np.ndarray, replaced: np.ndarray, numbers: np.ndarray
    ) -> np.ndarray:
        known = controls if loaded.system.lm.config.controls else None
        keys = loaded.row_keys(numbers.tolist(), [0] * len(numbers))
        return np.asarray(loaded.redraw(loaded.condition(text, 0, known), semantic, replaced, keys, sampling))

    lineage, how = read.metadata(true)["lineage"] | {"lm": lm.id}, f"lm_guidance {guidance:g}"
    return drawn.write_drawn(redraw, true, model_dir, name, lineage, loaded.geometry, how, batch_size, hosts.share())
