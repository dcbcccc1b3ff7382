"""Files that outlive a kill: whole or not at all, and lines that were cut short are left out."""

import pathlib

import pytest

from melody_jax import files


def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    path = files.write_whole(tmp_path / "x.json", "old")
    with monkeypatch.context() as patch:
        patch.setattr(pathlib.Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(OSError, match="No space left"):
            files.write_whole(path, "new")
    assert path.read_text() == "old" and [file.name for file in tmp_path.iterdir()] == ["x.json"]
    assert files.write_whole(path, "ü").read_bytes() == "ü".encode()


def test_lines_that_are_no_records_are_left_out(tmp_path):
    path = tmp_path / "x.jsonl"
    assert files.read_lines(path) == []
    path.write_text(files.json_lines([{"a": 1}, {"b": [2]}]) + '3\n{"c": 4}\n{"d": ')
    assert files.read_lines(path) == [{"a": 1}, {"b": [2]}, {"c": 4}]
