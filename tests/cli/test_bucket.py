"""`melody train` with everything in a bucket, killed and started again, and the bundle of it."""

import os
import signal

import numpy as np

from melody_jax import storage
from melody_jax.bundle import Bundle
from melody_jax.bundle.part import load_part, read_info, save_part
from melody_jax.cli.main import main
from melody_jax.files import read_lines
from tests.train import processes

TOTAL, SAVE_EVERY = 40, 10
SMALL = ("lm.LMConfig.layers=1", "lm.LMConfig.width=32", "lm.LMConfig.heads=2", "lm.LMConfig.hidden=32", "BATCH_SIZE=4")
OFTEN = (f"loop.Run.checkpoint_every={SAVE_EVERY}", "loop.Run.log_every=1", "loop.Run.eval_steps=0")


def start(model_dir, data_dir):
    cache = os.environ.get("MELODY_TEST_CACHE", ".cache/jax")
    settings = [word for binding in (*SMALL, *OFTEN) for word in ("--set", binding)]
    where = ["--data", "music", "--data_dir", data_dir, "--model_dir", model_dir]
    command = ["train", "lm", "--size", "tiny", *where, "--hardware", "cpu", "--total_steps", TOTAL, *settings]
    return processes.start("melody_jax.cli.main", *command, JAX_COMPILATION_CACHE_DIR=cache)


def losses(folder):
    return {line["step"]: line["loss"] for line in read_lines(folder / "lm" / "metrics.jsonl")}


def test_a_killed_training_in_a_bucket_goes_on_and_its_bundle_is_read_from_there(tokenised, gcs_folder, capsys):
    models, data = tokenised
    for name, folder in (("run", models), ("data", data)):
        storage.upload(folder, gcs_folder / name, list(storage.files_below(folder)))
    run = gcs_folder / "run"
    reference = start(models, data)

    process = start(run, gcs_folder / "data")
    processes.wait_until(process, lambda: processes.complete(run / "lm" / "checkpoints" / str(SAVE_EVERY)))
    process.send_signal(signal.SIGKILL)
    assert processes.finish(process)[0] == -signal.SIGKILL
    assert not (run / "lm" / "part").exists()
    code, errors = processes.finish(start(run, gcs_folder / "data"))
    assert code == 0, errors
    assert processes.finish(reference)[0] == 0

    expected = losses(models)
    assert losses(run) == expected and len(expected) == TOTAL
    assert load_part(run / "lm").id == load_part(models / "lm").id

    lm = read_info(run / "lm")
    parents = {name: read_info(run / name)["id"] for name in ("codes", "autoencoder")}
    geometry = load_part(run / "lm").geometry
    save_part(run / "dpd", "dpd", {"w": np.zeros(2, np.float32)}, {}, geometry, parents, {})
    assert main(["export", "--model_dir", str(run), "--out", str(gcs_folder / "bundle")]) == 0
    bundle = Bundle.load(str(gcs_folder / "bundle"))
    assert bundle.parts["lm"].id == lm["id"] and "MODEL_CARD.md" in storage.files_below(gcs_folder / "bundle")
    assert main(["export", "--model_dir", str(run), "--out", str(gcs_folder / "bundle"), "--dtype", "bfloat16"]) == 0
    assert Bundle.load(gcs_folder / "bundle").parts["lm"].dtype == "bfloat16"
    capsys.readouterr()
    assert main(["export", "--model_dir", str(run), "--out", "gs://another-bucket/x"]) == 2
    assert "there is no bucket gs://another-bucket" in capsys.readouterr().err
    assert main(["report", str(run)]) == 0
    assert "finished" in capsys.readouterr().out
    assert not os.path.exists("gs:")
