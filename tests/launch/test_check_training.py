"""A training is composed and laid over its chips before machines are paid for."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from melody_jax.cli.main import main
from tests.launch.conftest import JOB
from tests.launch.test_job import CONFIGS

ROOT = Path(__file__).parents[2]
LM = "melody train lm --size paper --data mine --data_dir {bucket}/data --model_dir {bucket}/runs"
TWO_SLICES = {"slices": 2, "tpu_vm": {"project": "p", "zone": "z", "runtime_version": "v2", "queued": True}}

REFUSED = {
    "a global batch of 24 does not divide over data=16": {"command": f"{LM} --set BATCH_SIZE=24"},
    "mesh 'fsdp=32' needs 32 devices and there are 16": {"command": f"{LM} --mesh fsdp=32"},
    "2 slices want replica=2": {"command": f"{LM} --mesh fsdp=-1", **TWO_SLICES},
    "embedding: dimension 0 .vocab. of size 13316 does not divide over tensor=16": {
        "command": f"{LM} --mesh tensor=16"
    },
    "'lm.LMConfig' doesn't have a parameter named 'depth'": {"command": f"{LM} --set lm.LMConfig.depth=3"},
    "unknown arguments: --batch 12": {"command": f"{LM} --batch 12"},
    "the following arguments are required: --size": {"command": "melody train lm --data mine --model_dir {bucket}"},
    "unknown stage 'lms'": {"command": LM.replace("lm ", "lms ")},
    "autoencoder on 256 chips: .* .conv_in. of size 32 does not divide over fsdp=256": {
        "command": LM.replace(" lm ", " autoencoder ") + " --mesh fsdp=-1 --set BATCH_SIZE=256",
        "accelerator": "v5litepod-256",
    },
}


@pytest.fixture
def launch(tmp_path, monkeypatch, capsys):
    """Dry runs of this work tree's code, and the one line that they end with."""
    monkeypatch.chdir(tmp_path)

    def run(target="tpu-vm", **changes):
        path = tmp_path / "job.yaml"
        path.write_text(yaml.safe_dump({**JOB, "command": LM, "code": str(ROOT), **changes}))
        code = main(["launch", target, "--config", str(path), "--dry_run"])
        return code, capsys.readouterr()

    return run


@pytest.mark.parametrize("message", REFUSED)
def test_what_its_chips_could_not_run_is_refused(message, launch):
    code, said = launch(**REFUSED[message])
    assert code == 2 and said.out == "", "nothing is created"
    assert len(said.err.splitlines()) == 1
    assert re.search(message, said.err), said.err


@pytest.mark.parametrize(
    ("target", "changes"),
    [
        ("tpu-vm", {}),
        ("gke", {"command": f"{LM} --mesh data=-1,fsdp=4"}),
        ("tpu-vm", {"command": f"{LM} --mesh replica=2,fsdp=16", **TWO_SLICES}),
        (
            "slurm",
            {"command": LM.replace(" lm ", " all "), "slurm": {"nodes": 2, "gpus_per_node": 8, "shared_dir": "/s"}},
        ),
        ("tpu-vm", {"command": "melody doctor anything"}),
        # files are found from the folder in which workers start; what lies in the bucket is not here to be read
        ("tpu-vm", {"command": f"{LM} --gin_file configs/runs/smoke.gin"}),
        ("tpu-vm", {"command": f"{LM} --gin_file {{bucket}}/mine.gin --set a.b=3"}),
    ],
)
def test_what_they_can_run_is_launched(target, changes, launch):
    code, said = launch(target, **changes)
    assert (code, said.err) == (0, "")


def test_other_code_is_composed_where_it_runs(launch, tmp_path):
    """Its configuration is not the one that lies here."""
    (tmp_path / "code").mkdir()
    subprocess.run(["git", "init", "-q", tmp_path / "code"], check=True)
    (tmp_path / "code" / "file").write_text("")
    assert launch(command=f"{LM} --set a.b=3", code=str(tmp_path / "code"))[0] == 0


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_examples_are_among_those_that_are_checked(path, launch):
    """They are launched in test_dry_run; with another batch they would not be."""
    example = yaml.safe_load(path.read_text())
    assert example.get("code", ".") == "."
    target = "slurm" if "slurm" in example else "tpu-vm"
    code, said = launch(target, **{**example, "command": f"{example['command']} --set BATCH_SIZE=7", "code": str(ROOT)})
    assert code == 2 and "a global batch of 7 does not divide" in said.err
