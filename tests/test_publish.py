"""Folders become whole under their name, where directories are renamed and where they cannot be."""

import errno
import os

import numpy as np
import pytest

from melody_jax.bundle import Bundle, export, load_part, save_part
from melody_jax.errors import UserError
from melody_jax.files import UNFINISHED, publish
from melody_jax.geometry import Geometry
from tests.buckets import refuse_directory_renames
from tests.bundle.test_bundle import ORDER, train


def write(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def read(folder):
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("error", [None, errno.EMFILE, errno.EXDEV, errno.EPERM])
def test_a_folder_takes_the_place_of_another(error, tmp_path, monkeypatch):
    if error:
        refuse_directory_renames(monkeypatch, error)
    new = {"commit": "2", "kept": "new", "inner/deep": "new"}
    for files in ({"commit": "1", "kept": "old", "gone": "old", "before/deep": "old"}, new):
        publish(write(tmp_path / "scratch", files), tmp_path / "place", "commit")
        assert read(tmp_path / "place") == files
        assert sorted(path.name for path in tmp_path.iterdir()) == ["place"]
    assert sorted(path.name for path in (tmp_path / "place").iterdir()) == ["commit", "inner", "kept"]


def test_a_kill_in_between_leaves_nothing_that_counts_as_whole(tmp_path, monkeypatch):
    """After every file that is moved, the power goes."""
    old, new = {"commit": "1", "a": "old", "b": "old"}, {"commit": "2", "a": "new", "b": "new"}
    for moves in range(3):
        place = write(tmp_path / str(moves) / "place", old)
        scratch = write(tmp_path / str(moves) / "scratch", new)
        with monkeypatch.context() as patch:
            refuse_directory_renames(patch)
            replace, left = os.replace, [moves]

            def replace_some(source, target, replace=replace, left=left):
                if not left[0]:
                    raise KeyboardInterrupt
                left[0] -= 1
                replace(source, target)

            patch.setattr(os, "replace", replace_some)
            with pytest.raises(KeyboardInterrupt):
                publish(scratch, place, "commit")
        assert not (place / "commit").exists() and (place / UNFINISHED).exists()


def test_parts_and_bundles_are_written_where_directories_cannot_be_renamed(tmp_path, monkeypatch):
    asked = refuse_directory_renames(monkeypatch)
    sources = train(tmp_path / "run")
    first = export(sources, tmp_path / "bundle", dtype="float16")
    again = export(sources, tmp_path / "bundle", dtype="bfloat16")
    assert first.ids == again.ids == {name: load_part(tmp_path / "run" / name).id for name in ORDER}
    assert Bundle.load(tmp_path / "bundle").parts["lm"].dtype == "bfloat16"
    assert len(asked) >= len(ORDER) + 3  # seen to be refused
    assert not [path for path in tmp_path.rglob(".*")]


def test_what_a_kill_left_is_written_anew(tmp_path):
    sources = train(tmp_path / "run")
    write(tmp_path / "bundle", {UNFINISHED: "", "lm/weights.safetensors": "half"})
    export(sources, tmp_path / "bundle")
    Bundle.load(tmp_path / "bundle")
    write(tmp_path / "part", {UNFINISHED: "", "weights.safetensors": "half"})
    save_part(tmp_path / "part", "lm", {"w": np.zeros(2, np.float32)}, {}, Geometry(), {}, {})
    assert load_part(tmp_path / "part").name == "lm"
    write(tmp_path / "mine", {"thesis.txt": "precious", "a/b": ""})
    with pytest.raises(UserError, match="is not a bundle"):
        export(sources, tmp_path / "mine")
