"""The tokenised data set of a model folder: made where it is missing, looked at where it must be there."""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
from jax.experimental import multihost_utils

from melody_jax.bundle.part import INFO_FILE, Part, load_part, locate, read_info
from melody_jax.errors import UserError
from melody_jax.graph import READ_AUDIO


def finished(model_dir: str | os.PathLike, names: Sequence[str]) -> dict[str, Path]:
    """Name -> folder of the parts `names` of a model folder.

    Raises:
      UserError: one of them is not there.
    """
    folders = {name: locate(Path(model_dir) / name) for name in names}
    missing = [name for name, folder in folders.items() if not (folder / INFO_FILE).is_file()]
    if missing:
        raise UserError(f"{model_dir} holds no finished {', '.join(missing)}; run melody train {missing[0]} first")
    return folders


def load_parts(model_dir: str, names: Sequence[str]) -> dict[str, Part]:
    """The finished parts of a model folder; raises as `finished`."""
    return {name: load_part(folder) for name, folder in finished(model_dir, names).items()}


def ensure(
    parts: Mapping[str, Part],
    folder: str,
    data: str,
    data_dir: str,
    batch_size: int = 16,
    tokenizer: str | os.PathLike | None = None,
) -> Path:
    """The tokens that `parts` make of the data set `data`, below `folder`: they belong to the parts, not to the audio.

    Tokens that other parts or other audio made are replaced; an interrupted run goes on where it stopped.

    Raises:
      UserError: a part or the data set is missing, its clips have another length, or the extra `data` is not installed.
    """
    try:
        from data_pipelines import precompute, read
    except ImportError as error:
        raise UserError(f"melody tokenize needs the extra `data` (pip install 'melody_jax[data]'): {error}") from None
    from melody_jax.generate.represent import Representations

    audio = read.audio_directory(data_dir, data)
    source = read.metadata(audio)["id"]
    lineage = {name: parts[name].id for name in READ_AUDIO}
    directory = read.tokens_directory(folder, data)
    if (directory / "metadata.json").is_file():
        found = read.metadata(directory)
        if found["lineage"] == lineage and found["source"] == source:
            return directory
        if jax.process_index() == 0:
            print(f"{directory}: made by other parts or from other audio; made anew")
            shutil.rmtree(directory)
    models = Representations(parts, tokenizer)
    hosts = {"shard": jax.process_index(), "shards": jax.process_count()}

    def barrier() -> None:
        multihost_utils.sync_global_devices("tokenize")

    return precompute.precompute(
        models.encode, audio, folder, data, lineage, models.geometry, batch_size, **hosts, barrier=barrier
    )


def check(model_dir: str, data: str, data_dir: str) -> None:
    """Refuses tokens that are missing, or that other parts or other audio made.

    Raises:
      UserError: see above, or a part or the data set is missing.
    """
    from data_pipelines import read

    lineage = {name: read_info(folder)["id"] for name, folder in finished(model_dir, READ_AUDIO).items()}
    source = read.metadata(read.audio_directory(data_dir, data))["id"]
    directory = read.tokens_directory(model_dir, data)
    made = read.metadata(directory) if (directory / "metadata.json").is_file() else {}
    if made.get("lineage") != lineage or made.get("source") != source:
        command = f"melody tokenize --model_dir {model_dir} --data {data}"
        raise UserError(f"{directory} holds no tokens of this data by these parts; run {command} first")
