"""Every command where no package of the extras is installed: what does not need them works, the rest is one line."""

import json
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import soundfile

ROOT = pathlib.Path(__file__).parents[2]
WITHOUT = """
import contextlib, io, json, sys

sys.modules |= dict.fromkeys(sys.argv[1].split())  # as if they were not installed
from melody_jax.cli.main import main

for line in sys.stdin:
    said, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(errors):
        code = main(json.loads(line))
    print(json.dumps([code, said.getvalue(), errors.getvalue()]), flush=True)
"""
EXTRAS = (
    "tensorflow tensorflow_text tensorflow_datasets seqio scipy sklearn mir_eval music21 symusic verovio gcsfs torch"
)
EXTRAS += (
    " transformers sounddevice fastapi uvicorn prometheus_client optuna libtpu wandb mlflow pretty_midi tinysoundfont"
)
DATA = "needs the extra `data`"
FACTS = {"id": "x", "sample_rate": 24_000, "seconds": 10.0}
COMMANDS = {
    "data folder songs --name x": DATA,
    "data corpus --name x --clips 4": DATA,
    "config lm --size tiny": "",
    "train autoencoder --size tiny --data there --model_dir m": DATA,
    "train all --size tiny --data there --model_dir m": DATA,
    "finetune --bundle BUNDLE --data there --out f": DATA,
    "sweep sweeps/lm_tiny.gin --sweep_dir s --dry_run": "",
    "evaluate --bundle BUNDLE --data there --out e": DATA,
    "export --size tiny --model_dir BUNDLE --out b": "",
    "import hf gone --model bert --out h": "is no Hugging Face folder",
    "describe --size tiny": "",
    "precompile lm --topology v5e:4x4": "needs the extra `aot`",
    "play waltz --bundle BUNDLE --seconds 1": "needs the extra `play`",
    "serve --bundle BUNDLE": "needs the extra `serve`",
    "listen songs songs": "needs the extra `serve`",
    "generate waltz --bundle gs://a/b": "needs the extra `gcs`",
}
"""Command -> what its one line of error says; "" where it works."""


def test_every_command_works_or_names_its_extra(tmp_path):
    (tmp_path / "songs").mkdir()
    soundfile.write(tmp_path / "songs" / "a.wav", np.zeros(24_000), 24_000)
    there = tmp_path / "data" / "melody_audio" / "there" / "1.2.0"
    there.mkdir(parents=True)
    (there / "metadata.json").write_text(json.dumps(FACTS))
    lines = [command.replace("BUNDLE", str(ROOT / "bundles" / "tiny")).split() for command in COMMANDS]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, EXTRAS],
        input="".join(json.dumps(line) + "\n" for line in lines),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == len(COMMANDS), done.stderr
    for (command, expected), (code, said, errors) in zip(COMMANDS.items(), answers):
        if expected:
            assert re.fullmatch(r"error: [^\n]*\n", errors) and expected in errors and code == 2, (command, errors)
        else:
            assert said and not code, (command, errors)
