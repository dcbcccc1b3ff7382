"""Every bad argument is one line on stderr and exit code 2, before any work is done."""

import argparse
import dataclasses
import errno
import importlib
import io
import os
import signal
import subprocess
import sys
from typing import Literal

import pytest

from melody_jax.cli import main as command
from melody_jax.cli.arguments import fields, fields_of
from melody_jax.cli.main import Parser, main
from melody_jax.config import described
from melody_jax.errors import BAD_ARGUMENTS, UserError, refuse_addresses

TRAIN = ["train", "lm", "--size", "tiny", "--data", "x"]
ADDRESSES = {
    "model folder": [*TRAIN, "--model_dir", "s3://bucket/run"],
    "data folder": [*TRAIN, "--model_dir", "{tmp}", "--data_dir", "s3://bucket/data"],
    "gin file": [*TRAIN, "--model_dir", "{tmp}", "--gin_file", "gs://bucket/run.gin"],
    "start": [*TRAIN, "--model_dir", "{tmp}", "--init_from", "{tmp}", "--init_from", "s3://bucket/part"],
    "binding": [*TRAIN, "--model_dir", "{tmp}", "--set", "loop.Run.precompiled_dir=s3://bucket/x"],
    "gin binding": [*TRAIN, "--model_dir", "{tmp}", "--gin.loop.Run.precompiled_dir='s3://bucket/x'"],
    "list": [*TRAIN, "--model_dir", "{tmp}", "--set", "loop.Run.init_from=['a', 'gs://bucket/a', 's3://bucket/x']"],
    "binding that is no path": [*TRAIN, "--model_dir", "{tmp}", "--set", "loop.Run.profile=gs://bucket/x"],
    "bound in a file": [*TRAIN, "--model_dir", "{tmp}", "--gin_file", "{tmp}/address.gin"],
    "tokens": ["tokenize", "--model_dir", "s3://bucket/run", "--data", "x"],
    "music": ["generate", "--music", "gs://bucket/a.wav"],
    "data set": ["data", "folder", "s3://bucket/music", "--name", "x"],
    "where data sets are built": ["data", "corpus", "--clips", "9", "--name", "x", "--data_dir", "s3://bucket/data"],
    "report": ["report", "s3://bucket/run"],
    "bundle": ["export", "--model_dir", "{tmp}", "--out", "s3://bucket/out"],
    "finetuning": ["finetune", "--bundle", "{tmp}", "--data", "x", "--out", "gs://bucket/out"],
    "doctor": ["doctor", *TRAIN[1:], "--model_dir", "gs://bucket/run"],
    "figures": ["evaluate", "--bundle", "{tmp}", "--data", "x", "--out", "gs://bucket/out"],
    "sweep": ["sweep", "{tmp}/address.gin", "--sweep_dir", "gs://bucket/sweep"],
    "stream": ["stream", "a waltz", "--out", "gs://bucket/x.wav"],
}
BAD = {
    "unknown command": ["sing"],
    "unknown option": ["generate", "a waltz", "--loud"],
    "no prompt": ["generate"],
    "empty prompt": ["generate", " "],
    "no steps": ["generate", "a waltz", "--steps", "0"],
    "steps are no number": ["generate", "a waltz", "--steps", "many"],
    "no seconds": ["generate", "a waltz", "--seconds", "0"],
    "endless": ["generate", "a waltz", "--seconds", "1e9"],
    "negative guidance": ["generate", "a waltz", "--guidance", "-1"],
    "unknown schedule": ["generate", "a waltz", "--schedule", "cosine"],
    "negative seed": ["generate", "a waltz", "--seed", "-1"],
    "no such bundle": ["generate", "a waltz", "--bundle", "{tmp}/none"],
    "no sound file": ["generate", "a waltz", "--out", "{tmp}/x.aiff"],
    "abbreviated": ["generate", "a waltz", "--second", "5"],
    "abbreviated below": ["data", "corpus", "--name", "x", "--data_dir", "{tmp}", "--clip", "10"],
    "no music": ["continue", "{tmp}/none.wav"],
    "no span": ["inpaint", "{tmp}/none.wav"],
    "no strength": ["vary", "{tmp}/none.wav", "--strength", "2"],
    "no length": ["stream", "a waltz", "--seconds", "0"],
    "no prompt to play": ["play", " "],
    "no such prompt file": ["generate", "--prompts", "{tmp}/none.txt"],
    "prompts twice": ["generate", "a waltz", "--prompts", "{tmp}/none.txt"],
    "unknown stage": ["train", "vocoder", "--size", "tiny", "--data", "x", "--model_dir", "{tmp}"],
    "unknown size": ["train", "lm", "--size", "huge", "--data", "x", "--model_dir", "{tmp}"],
    "no such data": [
        "train",
        "autoencoder",
        "--size",
        "tiny",
        "--data",
        "x",
        "--data_dir",
        "{tmp}",
        "--model_dir",
        "{tmp}",
    ],
    "unknown binding": [
        "train",
        "lm",
        "--size",
        "tiny",
        "--data",
        "x",
        "--model_dir",
        "{tmp}",
        "--set",
        "lm.LMConfig.size=3",
    ],
    "an abbreviated option": ["generate", "a waltz", "--second", "5"],
    "a size of no rows": [
        "train",
        "lm",
        "--size",
        "tiny",
        "--data",
        "x",
        "--model_dir",
        "{tmp}",
        "--set",
        "BATCH_SIZE=0",
    ],
    "codes without a seed": [
        "train",
        "codes",
        "--size",
        "tiny",
        "--data",
        "x",
        "--model_dir",
        "{tmp}",
        "--total_steps",
        "2",
    ],
    "doctor for all stages": ["doctor", "all", "--size", "tiny", "--data", "x", "--model_dir", "{tmp}"],
    "stray argument": ["train", "lm", "--size", "tiny", "--data", "x", "--model_dir", "{tmp}", "--steps", "3"],
    "no parents": ["train", "lm", "--size", "tiny", "--data", "x", "--model_dir", "{tmp}"],
    "no such sweep": ["sweep", "{tmp}/none.gin"],
    "no workers": ["sweep", "sweeps/lm_grid.gin", "--workers", "0"],
    "no parents of a sweep": ["sweep", "sweeps/lm_grid.gin", "--data_dir", "{tmp}"],
    "nothing to tokenize": ["tokenize", "--data", "x", "--model_dir", "{tmp}"],
    "nothing to export": ["export", "--model_dir", "{tmp}", "--out", "{tmp}/bundle"],
    "nothing to report": ["report", "{tmp}"],
    "profile of no steps": ["train", "lm", "--size", "tiny", "--data", "x", "--model_dir", "{tmp}", "--profile", "9:3"],
    "nothing to evaluate": ["evaluate", "--bundle", "{tmp}", "--data", "x", "--out", "{tmp}/out"],
    "no clips": ["data", "corpus", "--name", "x", "--data_dir", "{tmp}", "--clips", "0"],
    "no such folder": ["data", "folder", "{tmp}/none", "--name", "x", "--data_dir", "{tmp}"],
    "no launch target": ["launch", "--config", "{tmp}/job.yaml"],
    "unknown launch target": ["launch", "moon", "--config", "{tmp}/job.yaml"],
    "no launch description": ["launch", "gke"],
    "no such launch description": ["launch", "gke", "--config", "{tmp}/job.yaml", "--dry_run"],
    "bad name": ["data", "corpus", "--name", "../x", "--data_dir", "{tmp}", "--clips", "10"],
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments(case, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = main([word.format(tmp=tmp_path) for word in BAD[case]])
    error = capfd.readouterr().err.strip().splitlines()
    assert code == 2
    assert len(error) == 1 and error[0].startswith("error: "), error


def test_help_lists_the_commands(capsys):
    assert main([]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in ("data", "train", "tokenize", "export", "generate", "evaluate"))


@pytest.mark.parametrize(("command", "file"), [("report", "report"), ("generate", "music"), ("export", "parts")])
def test_an_interrupt_is_one_line(command, file, capsys, monkeypatch):
    """Whatever the command was doing."""
    subcommand = getattr(importlib.import_module(f"melody_jax.cli.{file}"), command)

    def interrupted(args):
        raise KeyboardInterrupt

    monkeypatch.setattr(subcommand, "run", interrupted)
    arguments = {"report": ["x"], "generate": ["a"], "export": ["--model_dir", "x", "--out", "y"]}
    previous = signal.getsignal(signal.SIGINT)
    try:
        assert main([command, *arguments[command]]) == 130
    finally:
        signal.signal(signal.SIGINT, previous)
    assert capsys.readouterr().err == "interrupted\n"


WITH_WORKERS = """
import concurrent.futures, multiprocessing, signal, sys, time
signal.signal(signal.SIGINT, signal.{handler})  # whatever the tests were started with
from melody_jax.cli import main
from melody_jax.cli.report import report

def run(args):
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        pool.submit(print, "ready", flush=True).result()
        pool.submit(time.sleep, {seconds}).result()

if __name__ == "__main__":
    report.run = run
    sys.exit(main.main(["report", "x"]))
"""


@pytest.mark.parametrize(
    ("handler", "seconds", "end"),
    [("default_int_handler", 60, (130, "interrupted\n")), ("SIG_IGN", 1, (0, ""))],
    ids=["heard", "ignored"],
)
def test_an_interrupt_ends_worker_processes_without_a_word(tmp_path, handler, seconds, end):
    """Ctrl-C reaches all processes of a command; only the first one speaks. What ignores it (nohup) does so in all of them."""
    script = tmp_path / "melody"
    script.write_text(WITH_WORKERS.format(handler=handler, seconds=seconds))
    process = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    os.killpg(process.pid, signal.SIGINT)
    errors = process.communicate(timeout=60)[1]
    assert (process.returncode, errors) == end


@pytest.mark.parametrize("case", ADDRESSES)
def test_an_address_is_no_path(case, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    binding = "from __gin__ import dynamic_registration\nfrom melody_jax.train import loop\n"
    (tmp_path / "address.gin").write_text(binding + "loop.Run.precompiled_dir = 's3://bucket/x'\n")
    assert main([word.replace("{tmp}", str(tmp_path)) for word in ADDRESSES[case]]) == BAD_ARGUMENTS
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "://bucket/" in said and "is an address" in said
    assert [path.name for path in tmp_path.iterdir()] == ["address.gin"]


@dataclasses.dataclass(frozen=True)
class Drink:
    """Something to drink.

    Attributes:
      milk, sugar: spoons.
      kind: tea, or what
        else there is.
      degrees: Celsius.

    Raises:
      UserError: it is cold.
    """

    milk: int = 0
    sugar: int | None = None
    kind: Literal["tea", "coffee"] = "tea"
    degrees: float = 60.0


def test_options_of_a_dataclass(capsys):
    assert described(Drink) == {
        "milk": "spoons",
        "sugar": "spoons",
        "kind": "tea, or what else there is",
        "degrees": "Celsius",
    }
    parser, names = Parser(prog="brew"), ("milk", "sugar", "kind", "degrees")
    fields(Drink, names, prefix="my_")(parser)
    args = parser.parse_args(["--my_sugar", "none", "--my_degrees", "80", "--my_kind", "coffee"])
    given = fields_of(args, Drink, prefix="my_")
    assert given == {"milk": 0, "sugar": None, "kind": "coffee", "degrees": 80.0}
    text = " ".join(parser.format_help().split())
    assert "--my_kind tea|coffee tea, or what else there is (default tea)" in text
    assert "spoons (default 0)" in text and "Celsius (default 60)" in text
    silent = Parser(prog="brew")
    fields(Drink, names, default=argparse.SUPPRESS)(silent)
    assert fields_of(silent.parse_args(["--milk", "2"]), Drink) == {"milk": 2}
    with pytest.raises(UserError, match="argument --milk: invalid int value: 'much'"):
        silent.parse_args(["--milk", "much"])


def test_a_sentence_may_hold_an_address():
    refuse_addresses(["a song like https://a.b/c", "a=b", "16x16:4", "lm.LMConfig.size=3", "C:/music"])


@pytest.mark.parametrize("platform", ["cuda", "rocm"])
def test_devices_that_are_not_here_are_one_line(platform):
    """As JAX itself says it, for CUDA by an assertion without a word."""
    code = "import sys, jax; from melody_jax.cli import main; from melody_jax.cli.report import report; "
    code += "report.run = lambda args: jax.devices(); "
    ended = subprocess.run(
        [sys.executable, "-c", code + "sys.exit(main.main(['report', 'x']))"],
        env=os.environ | {"JAX_PLATFORMS": platform, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stderr.count("\n")) == (BAD_ARGUMENTS, 1)
    assert f"JAX_PLATFORMS={platform}: " in ended.stderr


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "x/a"), 4, "error: x/a: No space left on device"),
        (PermissionError(errno.EACCES, "Permission denied", "x"), 4, "error: x: Permission denied"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "file/x"), 2, "error: file/x: Not a directory"),
        (RuntimeError("x.tfrecord; No space left on device"), 4, "error: x.tfrecord; No space left on device"),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 141, ""),
    ],
)
def test_what_the_system_refuses_is_one_line(monkeypatch, capfd, error, code, line):
    def refusing(argv):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(command, "_dispatch", refusing)
        patch.setattr(os, "dup2", lambda *_: None)
        assert command.main(["describe"]) == code
    assert capfd.readouterr().err.strip() == line


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch):
    def failing(argv):
        raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")

    monkeypatch.setattr(command, "_dispatch", failing)
    with pytest.raises(ConnectionResetError):
        command.main(["describe"])


def test_any_name_can_be_printed(monkeypatch):
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(command, "_dispatch", lambda argv: print("caf\udce9", "f\u00eate") or 0)
    assert not command.main([])
    out.flush()
    assert out.buffer.getvalue() == b"caf\\udce9 f\\xeate\n"
