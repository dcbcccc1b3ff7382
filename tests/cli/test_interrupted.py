"""`melody train lm` itself, killed and started again, on a tokenised data set."""

import json
import os
import re
import shutil
import signal

from melody_jax.bundle.part import load_part
from melody_jax.files import read_lines
from tests.train import processes

TOTAL, SAVE_EVERY = 75, 15
SMALL = ("lm.LMConfig.layers=1", "lm.LMConfig.width=32", "lm.LMConfig.heads=2", "lm.LMConfig.hidden=32", "BATCH_SIZE=4")
OFTEN = (f"loop.Run.checkpoint_every={SAVE_EVERY}", "loop.Run.log_every=1", "loop.Run.eval_steps=0")


def start(model_dir, data_dir):
    cache = os.environ.get("MELODY_TEST_CACHE", ".cache/jax")
    settings = [word for binding in (*SMALL, *OFTEN) for word in ("--set", binding)]
    where = ["--data", "music", "--data_dir", data_dir, "--model_dir", model_dir]
    command = ["train", "lm", "--size", "tiny", *where, "--hardware", "cpu", "--total_steps", TOTAL, *settings]
    return processes.start("melody_jax.cli.main", *command, JAX_COMPILATION_CACHE_DIR=cache)


def test_a_killed_command_goes_on_with_the_same_bits(tokenised, tmp_path, monkeypatch):
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
    models, data = tokenised
    whole, cut = (shutil.copytree(models, tmp_path / name) for name in ("whole", "cut"))
    code, errors = processes.finish(start(whole, data))
    assert code == 0, errors
    assert not re.search(r"\.cc:\d+\]|InitializeLog|^\w+:absl:", errors, re.MULTILINE), errors

    process, saved = start(cut, data), cut / "lm" / "checkpoints" / str(SAVE_EVERY)
    processes.wait_until(process, lambda: processes.logged(cut / "lm", SAVE_EVERY + 2) and processes.complete(saved))
    process.send_signal(signal.SIGKILL)
    assert processes.finish(process)[0] == -signal.SIGKILL
    before = read_lines(cut / "lm" / "metrics.jsonl")[:SAVE_EVERY]
    assert not (cut / "lm" / "part").exists()
    code, errors = processes.finish(start(cut, data))
    assert code == 0, errors

    lines, lines_cut = (read_lines(folder / "lm" / "metrics.jsonl") for folder in (whole, cut))
    assert lines_cut[:SAVE_EVERY] == before  # it went on from a checkpoint and did not begin anew
    assert [(line["step"], line["loss"]) for line in lines_cut] == [(line["step"], line["loss"]) for line in lines]
    position, position_cut = (
        json.loads((folder / "lm" / "checkpoints" / str(TOTAL) / "batches" / "0" / "position.json").read_text())
        for folder in (whole, cut)
    )
    assert position == position_cut and position["examples"] == 4 * TOTAL
    assert load_part(whole / "lm").id == load_part(cut / "lm").id
