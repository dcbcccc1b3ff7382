"""Files that outlive a kill: whole or not at all, and lines that were cut short are left out."""

import errno
import gzip
import io
import os
import pathlib
import threading

import pytest

from melody_jax import files
from melody_jax.errors import UserError
from melody_jax.watch import metrics


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


class Bucket:
    """Files opened to be continued are kept when they are closed, as on a bucket that is mounted."""

    def __init__(self, monkeypatch):
        real = pathlib.Path.open

        def opened(path, mode="r", *args, **options):
            if mode != "a":
                return real(path, mode, *args, **options)
            file = io.StringIO()
            close = file.close

            def keep():
                with real(path, "a") as kept:
                    kept.write(file.getvalue())
                close()

            file.close = keep
            return file

        monkeypatch.setattr(pathlib.Path, "open", opened)


def test_what_a_killed_process_wrote_is_on_the_bucket_but_for_the_last_minute(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(files.time, "monotonic", lambda: clock[0])
    Bucket(monkeypatch)
    lines = files.Appended(tmp_path / "x.jsonl")
    for second in (1, 30, 59):
        clock[0] = float(second)
        lines.write({"second": second})
    assert files.read_lines(tmp_path / "x.jsonl") == []  # the file system's way; not lost on others, which flush
    for second in (61, 100, 125):
        clock[0] = float(second)
        lines.write({"second": second})
    assert [line["second"] for line in files.read_lines(tmp_path / "x.jsonl")] == [1, 30, 59, 61, 100, 125]
    lines.write({"second": 126})
    lines.close()
    assert [line["second"] for line in files.read_lines(tmp_path / "x.jsonl")][-1] == 126


def test_metrics_and_events_of_a_killed_run_are_on_the_bucket(tmp_path, monkeypatch):
    """Never closed: what a kill leaves."""
    Bucket(monkeypatch)
    monkeypatch.setattr(files, "CLOSE_SECONDS", 0.0)
    monkeypatch.setattr(metrics, "EVENTS_SECONDS", 0.0)
    writer = metrics.MetricWriter(tmp_path, 0)
    for step in (1, 2, 3):
        writer.write(step, "train", {"loss": 1.0 / step})
    assert [line["step"] for line in files.read_lines(tmp_path / metrics.LINES)] == [1, 2, 3]
    events = list((tmp_path / "tensorboard").iterdir())
    assert len(events) == 4 and sum(b"train/loss" in path.read_bytes() for path in events) == 3


def test_after_a_cut_line_no_record_is_lost(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"a": 1}\n\xff{"b": ')
    lines = files.Appended(path)
    lines.write({"c": 3})
    lines.close()
    assert files.read_lines(path) == [{"a": 1}, {"c": 3}]


@pytest.mark.parametrize("links", [True, False])
def test_of_two_writers_of_a_new_file_one_gets_the_name(links, tmp_path, monkeypatch):
    if not links:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(errno.EPERM, "no links here")))
    with files.whole_file(tmp_path / "x", new=True) as first:
        first.write_text("one")
    with pytest.raises(FileExistsError), files.whole_file(tmp_path / "x", new=True) as second:
        second.write_text("two")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("x", "one")]


def test_folders_are_put_in_place_one_after_the_other(tmp_path):
    (tmp_path / "scratch").mkdir()
    (tmp_path / "scratch" / "commit").write_text("new")
    other = threading.Thread(target=files.publish, args=(tmp_path / "scratch", tmp_path / "place", "commit"))
    with files.placing(tmp_path):
        other.start()
        other.join(0.3)
        assert other.is_alive() and not (tmp_path / "place").exists()
    other.join()
    assert (tmp_path / "place" / "commit").read_text() == "new"


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("x.txt", b"\xef\xbb\xbfa\r\nb\n", "a\nb\n"),
        ("x.txt.gz", gzip.compress("fünf".encode(), mtime=0), "fünf"),
        ("x.txt", b"a\nb\nf\xfcnf", "x.txt, line 3: not UTF-8"),
        ("x.txt.gz", gzip.compress(b"a\nf\xfcnf", mtime=0), "x.txt.gz, line 2: not UTF-8"),
        ("x.txt.gz", gzip.compress(bytes(999), mtime=0)[:-9], "x.txt.gz cannot be read: Compressed file ended"),
        ("x.txt.gz", b"plain", "x.txt.gz cannot be read: Not a gzipped file"),
    ],
)
def test_texts_of_people_are_read_or_the_place_is_named(tmp_path, name, content, expected):
    (tmp_path / name).write_bytes(content)
    if ".txt" not in expected:
        assert files.read_text(tmp_path / name) == expected
        return
    with pytest.raises(UserError, match=expected):
        files.read_text(tmp_path / name)
