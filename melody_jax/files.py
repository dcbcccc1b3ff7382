"""Files that outlive a kill: written whole or not at all, and read line by line."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_whole(path: str | os.PathLike, content: str | bytes) -> Path:
    """Writes a file so that a reader finds all of it, or what was there before; returns its path.

    Text is UTF-8. Raises OSError where the disk is full; nothing is left behind then.
    """
    path = Path(path)
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        scratch.write_bytes(content.encode() if isinstance(content, str) else content)
        return scratch.replace(path)
    except OSError:
        scratch.unlink(missing_ok=True)
        raise


def json_lines(records: Any) -> str:
    """One line of JSON for each record."""
    return "".join(json.dumps(record) + "\n" for record in records)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The records of a file of JSON lines, [] if there is none; a line that a kill has cut short is left out."""
    records = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, Mapping):
            records.append(record)
    return records
