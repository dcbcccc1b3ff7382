"""A dry run prints what a run executes: given to a shell, it makes the same calls."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from launch.job import read
from melody_jax.cli.main import main
from tests.launch.test_job import CONFIGS

KINDS = {
    "tpu-vm": ["create", "describe", "scp", "setup", "run", "delete"],
    "gke": ["look", "apply", "logs", "get"],
    "slurm": ["sbatch"],
}
QUEUED = {"capacity": "spot", "tpu_vm": {"project": "p", "zone": "z", "runtime_version": "v", "queued": True}}


@pytest.mark.parametrize(("target", "changes"), [("tpu-vm", {}), ("tpu-vm", QUEUED), ("gke", {}), ("slurm", {})])
def test_dry_run_is_the_run(target, changes, cloud, capsys):
    assert cloud.launch(target, "--dry_run", **changes) == 0
    assert cloud.calls() == [] and not Path("runs").exists(), "a dry run does nothing"
    printed = capsys.readouterr().out

    assert cloud.launch(target, **changes) == 0
    calls = [(call["argv"], call["stdin"]) for call in cloud.calls()]
    assert cloud.kinds() == KINDS[target]
    written = {path: path.read_text() for path in Path("runs").rglob("job.*")}

    cloud.forget()
    shutil.rmtree("runs")
    subprocess.run(["bash", "-e"], input=printed, text=True, check=True)
    assert [(call["argv"], call["stdin"]) for call in cloud.calls()] == calls
    assert {path: path.read_text() for path in written} == written


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_examples_in_a_dry_run(path, capsys, monkeypatch):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")  # git is needed, the clouds' tools are not
    monkeypatch.chdir(path.parents[2])
    targets = next(([name] for name in ("slurm", "gke") if name in path.stem), ["tpu-vm", "gke"])
    for target in targets:
        assert main(["launch", target, "--config", str(path), "--dry_run"]) == 0
        assert f"melody launch {target} --config configs/launch/{path.name} --dry_run" in path.read_text()
        assert "train" in capsys.readouterr().out


def test_the_documented_output_is_printed(capsys, monkeypatch):
    root = CONFIGS[0].parents[2]
    monkeypatch.chdir(root)
    text = (root / "docs" / "launching.md").read_text()
    for command in re.findall(r"^melody (launch .*?)(?: --dry_run)?$", text, re.MULTILINE):
        assert main([*command.split(), "--dry_run"]) == 0
    printed = capsys.readouterr().out.splitlines()
    documented = "".join(re.findall(r"^```console\n(.*?)^```", text, re.MULTILINE | re.DOTALL)).splitlines()
    assert len(documented) > 10
    for line in documented:
        assert any(line == shown or shown.startswith(line.removesuffix(" …")) for shown in printed), line


def test_the_documented_description_is_read(tmp_path):
    text = (CONFIGS[0].parents[2] / "docs" / "launching.md").read_text()
    (block,) = re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    (tmp_path / "job.yaml").write_text(block)
    made = read(tmp_path / "job.yaml")
    assert made.tpu_vm and made.gke and made.slurm and made.topology == made.tpu.topology
