"""How a folder of files appears whole where directories cannot be renamed: on buckets that are mounted as file systems."""

import os
import pathlib
import shutil
from contextlib import suppress

UNFINISHED = ".unfinished"
"""Lies in a folder whose files are being put in their places, so that whoever writes there again knows its own."""


def publish(scratch: pathlib.Path, directory: pathlib.Path, commit: str) -> None:
    """Gives the files of `scratch` a place under the name `directory`, instead of what had that name.

    Where the file system renames directories this is one rename, and the old folder is gone only afterwards. Cloud
    Storage FUSE refuses that (its objects have no folders). There the file `commit`, without which the folder counts as
    nothing, is removed first and written last: a kill in between leaves a folder that nobody reads, and never a mixture.

    Args:
      scratch: a folder beside `directory`, which is gone afterwards.
      commit: name of the file in it that readers open first.
    """
    old = directory.with_name(f".{directory.name}.old-{os.getpid()}")
    moved = False
    try:
        if directory.exists():
            directory.rename(old)
            moved = True
        scratch.rename(directory)
    except OSError:
        if moved:
            with suppress(OSError):
                old.rename(directory)
        _publish_files(scratch, directory, commit)
    shutil.rmtree(old, ignore_errors=True)


def _publish_files(scratch: pathlib.Path, directory: pathlib.Path, commit: str) -> None:
    names = sorted(path.relative_to(scratch) for path in scratch.rglob("*") if path.is_file())
    last = pathlib.Path(commit)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / UNFINISHED).touch()
    (directory / last).unlink(missing_ok=True)
    for name in [*(name for name in names if name != last), last]:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        if name == last:
            _remove_others(directory, {directory / kept for kept in (*names, UNFINISHED)})
        os.replace(scratch / name, directory / name)
    (directory / UNFINISHED).unlink()
    shutil.rmtree(scratch, ignore_errors=True)


def _remove_others(directory: pathlib.Path, kept: set[pathlib.Path]) -> None:
    """What the folder held before, but for the files of these names."""
    for path in sorted(directory.rglob("*"), reverse=True):  # files before the folders that they are in
        if path.is_dir():
            with suppress(OSError):  # it holds something new
                path.rmdir()
        elif path not in kept:
            path.unlink()
