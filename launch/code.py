"""The user's code as one archive."""

import subprocess
import tarfile
from pathlib import Path

from launch.processes import Runner
from melody_jax.errors import UserError


def pack(directory: str, name: str, runner: Runner) -> Path:
    """Packs the tracked and the new files of a git work tree, as they are now; a dry run only counts them.

    Raises:
      UserError: the folder lies in no git work tree.
    """
    listing = ["git", "-C", directory, "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(listing, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"`code`: git does not list the files of {directory}: {error}") from None
    if done.returncode:
        raise UserError(f"`code`: {directory} is no git work tree: {done.stderr.strip()}")
    files = [path for path in done.stdout.split("\0") if path and (Path(directory) / path).is_file()]
    archive = runner.folder / name
    runner.say(f"packing {len(files)} files of {directory} into {archive}")
    if not runner.dry_run:
        with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
            for path in files:
                tar.add(Path(directory) / path, arcname=path, recursive=False)
    return archive
