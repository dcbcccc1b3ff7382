"""Checkpoints on the hosts' own disks: taken where they are newer, and never put together wrongly."""

import shutil

import pytest

from melody_jax.bundle.part import load_part
from melody_jax.errors import STOPPED, StoppedError, UserError
from melody_jax.files import read_lines
from melody_jax.train.local import ID, LocalCheckpoints
from melody_jax.watch import goodput
from tests.train import local_hosts, processes, regression

STEPS = {"checkpoint_every": 7, "local_every": 2, "log_every": 1, "eval_steps": 0, "total_steps": 14}
NEWEST = 12  # of the steps that were saved on the disk before the run was broken off; in its folder: 7


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The part of an uninterrupted run without local checkpoints."""
    return regression.run(tmp_path_factory.mktemp("whole"), **STEPS)


@pytest.fixture(scope="module")
def broken_off(tmp_path_factory):
    """A model folder and a disk, of a run that ended in step 13."""
    folder = tmp_path_factory.mktemp("broken")
    with pytest.raises(StoppedError, match="step 13"):
        regression.run(
            folder / "models",
            stage=regression.RegressionStage(poison_step=13),
            local_checkpoints=str(folder / "disk"),
            **STEPS,
        )
    return folder


@pytest.fixture
def broken(broken_off, tmp_path):
    """`broken_off`, in place, to be changed."""
    kept = shutil.copytree(broken_off, tmp_path / "kept")
    yield broken_off
    shutil.rmtree(broken_off)
    kept.rename(broken_off)


def go_on(folder, **changes):
    """(the part, the first step that was taken)."""
    part = regression.run(folder / "models", **(STEPS | {"local_checkpoints": str(folder / "disk")} | changes))
    return part, goodput.read(folder / "models" / "regression")[-1]["first"] + 1


def saved(folder):
    """The steps on the disk."""
    return sorted(int(path.parent.name.partition("-")[0]) for path in folder.glob("disk/*/*/*/facts.json"))


def test_a_run_goes_on_from_its_disk_with_the_same_bits(broken, whole, capsys):
    assert saved(broken) == [10, NEWEST]
    part, first = go_on(broken)
    assert "going on from the local checkpoint of step 12" in capsys.readouterr().err
    assert (part.id, first) == (whole.id, NEWEST + 1)
    steps = [line["step"] for line in read_lines(broken / "models" / "regression" / "metrics.jsonl")]
    assert steps == list(range(1, 15))
    assert saved(broken) == []  # of no use any more


@pytest.mark.parametrize("change", ["lost", "cut short", "without its facts"])
def test_what_is_not_whole_gives_way_to_the_one_before(broken, whole, change, caplog):
    (newest,) = broken.glob(f"disk/*/0/{NEWEST}-*")
    if change == "lost":
        shutil.rmtree(newest)
    elif change == "cut short":
        shards = newest / "shards.safetensors"
        shards.write_bytes(shards.read_bytes()[:-1])
    else:
        (newest / "facts.json").unlink()
    part, first = go_on(broken)
    assert (part.id, first) == (whole.id, 11)
    assert ("cannot be read" in caplog.text) == (change != "lost")


def test_shards_of_another_layout_are_not_used(broken, caplog):
    """A mesh with other shards; the run's folder holds whole arrays, which fit any."""
    assert go_on(broken, mesh="fsdp=4,data=2")[1] == 8
    assert "the local checkpoint of step 12 is not whole" in caplog.text


def test_a_checkpoint_in_the_runs_folder_is_taken_where_it_is_newer(broken, whole):
    """Here the run had gone on without its disk, and was broken off again."""
    with pytest.raises(StoppedError, match="step 14: "):
        regression.run(
            broken / "models", stage=regression.RegressionStage(poison_step=14), **(STEPS | {"checkpoint_every": 13})
        )
    part, first = go_on(broken)
    assert (part.id, first) == (whole.id, 14)


def test_another_run_is_not_mistaken_for_this_one(broken, tmp_path):
    """A run that begins anew in the folder, and one whose folder is a copy."""
    copy = tmp_path / "copy"
    shutil.copytree(broken / "models", copy / "models")
    assert (copy / "models" / "regression" / ID).exists()
    shutil.copytree(broken / "disk", copy / "disk")
    assert go_on(copy)[1] == 8
    shutil.rmtree(broken / "models")
    assert go_on(broken)[1] == 1


def test_a_rollback_takes_the_local_checkpoints_after_it_along(broken):
    """What the run took back must not be gone on from: only steps from before are left, until new ones are written."""
    local = LocalCheckpoints(str(broken / "disk"), broken / "models" / "regression")
    local.discard(after=10)
    assert saved(broken) == [10]
    local.close()


def test_a_full_disk_ends_no_run(broken, whole, monkeypatch, caplog):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("melody_jax.train.local.save_file", full)
    shutil.rmtree(broken / "disk")
    assert go_on(broken)[0].id == whole.id
    assert "host 0: a local checkpoint could not be written: [Errno 28] No space left on device" in caplog.text
    assert not list(broken.glob("disk/*/*/*"))


def test_a_bucket_is_no_disk_of_a_host(tmp_path):
    with pytest.raises(UserError, match="a folder of local checkpoints must be one of this machine"):
        regression.run(tmp_path, local_checkpoints="gs://bucket/x")


def pod(folder, mesh, poison=-1):
    """Two hosts of two devices, each with a disk: (exit code, what they printed)."""
    host = ["python", "-m", "tests.train.local_hosts", folder / "models", folder / "disks", mesh, poison]
    process = processes.start("launch.local_pod", "--hosts", 2, "--devices_per_host", 2, "--", *host)
    out, errors = process.communicate(timeout=600)
    return process.returncode, out + errors


@pytest.fixture(scope="module")
def part_of_pod():
    """Mesh -> id of the part of an uninterrupted run of the pod."""
    made = {}

    def part(folder, mesh):
        if mesh not in made:
            code, said = pod(folder / "whole", mesh)
            assert code == 0, said
            made[mesh] = load_part(folder / "whole" / "models" / "regression" / "part").id
        return made[mesh]

    return part


@pytest.mark.parametrize(
    ("mesh", "change", "message"),
    [
        ("data=2,fsdp=2", "lost", "going on from the local checkpoint of step 10"),
        pytest.param("fsdp=4", "swapped", "going on from the local checkpoint of step 10", marks=pytest.mark.slow),
        pytest.param("fsdp=4", "lost", "the local checkpoint of step 10 is not whole", marks=pytest.mark.slow),
    ],
)
def test_a_pod_goes_on_without_the_disk_of_a_host(part_of_pod, tmp_path, mesh, change, message):
    """Shards that another host has are sent by it, as where hosts come back under other numbers; others are gone."""
    code, said = pod(tmp_path, mesh, poison=11)
    assert code == STOPPED and "step 11: metric loss is nan" in said
    disks = tmp_path / "disks"
    if change == "lost":
        shutil.rmtree(disks / "1")
    else:
        (disks / "1").rename(disks / "x")
        (disks / "0").rename(disks / "1")
        (disks / "x").rename(disks / "0")
    code, said = pod(tmp_path, mesh)
    assert code == 0 and message in said, said
    folder = tmp_path / "models" / "regression"
    assert load_part(folder / "part").id == part_of_pod(tmp_path, mesh)
    steps = [line["step"] for line in read_lines(folder / "metrics.jsonl")]
    assert steps == list(range(1, local_hosts.TOTAL + 1))
