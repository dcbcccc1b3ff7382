"""`melody rehearse`: a launch file on two local hosts, one of which is killed, and the page that comes of it."""

import json
import re
from pathlib import Path

import pytest
import yaml

from melody_jax import storage
from melody_jax.cli.main import main
from tests.gcs_server import BUCKET

ROOT = Path(__file__).parents[2]


@pytest.fixture
def rehearse(tmp_path, tokenised, monkeypatch, capsys):
    """Rehearses a launch of the toy language model from the folder that stands for the bucket; (exit code, out, err)."""
    models, data = tokenised
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XLA_FLAGS", "")

    def run(*options, mounted=True, **changes):
        command = (
            f"melody train lm --size tiny --data music --data_dir {data} --model_dir {{bucket}} --mesh data=-1,fsdp=2"
        )
        job = {"name": "toy", "command": command, "accelerator": "v5litepod-8", "code": str(ROOT), "bucket": "gs://b"}
        Path("job.yaml").write_text(yaml.safe_dump(job | changes))
        code = main(["rehearse", "job.yaml", *(["--bucket", str(models)] if mounted else []), *options])
        return code, *capsys.readouterr()

    return run


@pytest.mark.slow  # a pod of two starts three times
def test_a_host_is_killed_and_the_page_says_what_came_of_it(rehearse, tokenised):
    before = sorted(tokenised[0].rglob("*"))
    code, page, _ = rehearse()
    assert code == 0
    assert page == Path("runs/rehearsal/toy/page.md").read_text()
    log = Path("runs/rehearsal/toy/pod.txt").read_text()
    assert "pod: host 1 was killed by signal 9" in log and log.count("8 x cpu, mesh data=4,fsdp=2") == 3
    assert re.search(r"went on from step \d+0 to \d+0, ", page) and "no seam" in page
    assert "2 hosts, as many as the slices have" in page
    assert re.search(r"the run \| 1,500 steps, [\d.]+ s, \S+ chip-hours", page)
    assert sorted(tokenised[0].rglob("*")) == before, "nothing of it is left in the bucket"


@pytest.mark.slow  # as above
def test_a_bucket_is_rehearsed_without_mounting_it(rehearse, tokenised, gcs, gcs_folder):
    """All of it in gs://, which the hosts of the pod read and write too; nothing of the rehearsal stays there."""
    models, data = tokenised
    for name, folder in (("run", models), ("data", data)):
        storage.upload(folder, gcs_folder / name, list(storage.files_below(folder)))
    before = sorted(gcs.objects)
    where = f"--data_dir {gcs_folder}/data --model_dir {{bucket}}/test/run"
    command = f"melody train lm --size tiny --data music {where} --mesh data=-1,fsdp=2"
    code, page, error = rehearse(mounted=False, command=command, bucket=f"gs://{BUCKET}")
    assert code == 0, error + Path("runs/rehearsal/toy/pod.txt").read_text()
    assert "no seam" in page
    assert sorted(gcs.objects) == before


LM = "melody train lm --size tiny --data music --data_dir D --model_dir {bucket}"
REFUSED = {
    "only a `melody train` can be rehearsed": {"command": "melody tokenize --data music --model_dir {bucket}"},
    "a rehearsal is of one stage with a network": {"command": LM.replace("lm", "all", 1)},
    "unknown arguments: --batch 12": {"command": f"{LM} --batch 12"},
    "mesh 'fsdp=3' needs 3 devices and there are 8": {"command": f"{LM} --mesh fsdp=3"},
    "the key `accelerator` is missing": {"accelerator": None},
    "launches the code in /": {"code": "/"},
    "D/melody_audio/music.* no finished data set": {"command": LM},
    "holds no finished autoencoder": {"command": LM.replace("{bucket}", "elsewhere")},
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_rehearsed_is_said_before_anything_runs(message, rehearse):
    code, out, error = rehearse(**REFUSED[message])
    assert (code, out) == (2, "") and len(error.splitlines()) == 1
    assert re.search(message, error), error
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("option", "value", "named"),
    [
        ("--hosts", "1", "--hosts "),
        ("--hosts", "3", "--hosts "),
        ("--mfu", "40", "--mfu "),
        ("--compiled", "none.json", "none.json cannot be read: "),
    ],
)
def test_bad_options(rehearse, option, value, named):
    code, out, error = rehearse(option, value)
    assert (code, out) == (2, "") and named in error


def test_a_report_of_another_training_is_refused(rehearse):
    Path("report.json").write_text(
        json.dumps({"program": "lm", "batch": 4096, "chips": 256, "slices": 1, "mesh": "data=-1"})
    )
    code, _, error = rehearse("--compiled", "report.json")
    assert code == 2 and "not of {'program': 'lm', 'batch': 8, 'chips': 8, 'slices': 1} and data=-1,fsdp=2" in error
