"""`melody tokenize`: audio and captions become MuLan tokens, semantic tokens and latents: training data of LM and DPD."""

import argparse
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from melody_jax.bundle.part import INFO_FILE, Part, load_part, locate, read_info
from melody_jax.errors import UserError


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser(
        "tokenize", help="turn a data set into tokens and latents with the trained representation models"
    )
    parser.set_defaults(run=run)
    parser.add_argument("--model_dir", required=True, metavar="DIR", help="the trained stages; tokens are written here")
    parser.add_argument("--data", required=True, metavar="NAME", help="name of the audio data set")
    parser.add_argument("--data_dir", default="./data", metavar="DIR", help="where audio data sets lie")
    parser.add_argument("--batch_size", type=int, default=16, help="clips at once (default 16)")
    parser.add_argument("--tokenizer", metavar="FILE", help="tokenizer.json of a MuLan text tower of your own")


def run(args: argparse.Namespace) -> None:
    """Makes the tokens unless they are there, and says where.

    Raises:
      UserError: a stage is not finished, the data set is missing, or its clips have another length.
    """
    if args.batch_size < 1:
        raise UserError(f"--batch_size must be at least 1, got {args.batch_size}")
    from melody_jax.parallel import hosts

    hosts.join()
    options = {"batch_size": args.batch_size, "tokenizer": args.tokenizer}
    print(f"tokens in {of_model_dir(args.model_dir, args.data, args.data_dir, **options)}")


def of_model_dir(model_dir: str, data: str, data_dir: str, **options: Any) -> Path:
    """The tokens that the finished parts of a model folder make; `options` as of `ensure`.

    The parts' ids say whether they are there. Their weights are read only where they are not.

    Raises:
      UserError: a stage is not finished, the data set is missing, or its clips have another length.
    """
    from melody_jax.generate.represent import NEEDED

    ids = {name: read_info(folder)["id"] for name, folder in _folders(model_dir, NEEDED).items()}
    found = present(ids, model_dir, data, data_dir)
    return found or ensure(load_parts(model_dir, NEEDED), model_dir, data, data_dir, **options)


def present(ids: Mapping[str, str], folder: str, data: str, data_dir: str) -> Path | None:
    """The tokens of the data set `data` below `folder`, where parts of these ids made them of the audio as it is now."""
    read = _reader()
    source = read.metadata(read.audio_directory(data_dir, data))["id"]
    directory = read.tokens_directory(folder, data)
    if not (directory / "metadata.json").is_file():
        return None
    found = read.metadata(directory)
    return directory if (found["lineage"], found["source"]) == (dict(ids), source) else None


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
    """
    import jax
    from jax.experimental import multihost_utils

    read = _reader()
    from data_pipelines import precompute
    from melody_jax.generate.represent import NEEDED, Representations

    def barrier() -> None:
        multihost_utils.sync_global_devices("tokenize")

    audio = read.audio_directory(data_dir, data)
    lineage = {name: parts[name].id for name in NEEDED}
    directory = read.tokens_directory(folder, data)
    found = present(lineage, folder, data, data_dir)
    if found is not None:
        return found
    barrier()  # all have seen what is there before it is removed, and nobody writes before it is gone
    if jax.process_index() == 0 and (directory / "metadata.json").is_file():
        print(f"{directory}: made by other parts or from other audio; made anew")
        shutil.rmtree(directory)
    barrier()
    models = Representations(parts, tokenizer)
    hosts = {"shard": jax.process_index(), "shards": jax.process_count()}
    return precompute.precompute(
        models.encode, audio, folder, data, lineage, models.geometry, batch_size, **hosts, barrier=barrier
    )


def load_parts(model_dir: str, names: tuple[str, ...]) -> dict[str, Part]:
    """The finished parts of a model folder.

    Raises:
      UserError: one of them is not there.
    """
    return {name: load_part(folder) for name, folder in _folders(model_dir, names).items()}


def _folders(model_dir: str, names: tuple[str, ...]) -> dict[str, Path]:
    folders = {name: locate(Path(model_dir) / name) for name in names}
    missing = [name for name, folder in folders.items() if not (folder / INFO_FILE).is_file()]
    if missing:
        raise UserError(f"{model_dir} holds no finished {', '.join(missing)}; run melody train {missing[0]} first")
    return folders


def _reader() -> Any:
    try:
        from data_pipelines import read
    except ImportError as error:
        raise UserError(f"melody tokenize needs the extra `data` (pip install 'melody_jax[data]'): {error}") from None
    return read
