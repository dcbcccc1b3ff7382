"""The description: what is accepted, and which key an error names."""

from pathlib import Path

import pytest
import yaml

from launch import accelerators, job
from melody_jax.errors import UserError
from tests.launch.conftest import JOB

CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "launch").glob("*.yaml"))

BAD = {
    "`tpus`": {"tpus": 4},
    "`tpu_vm.projekt`": {"tpu_vm": {"projekt": "p"}},
    "`tpu_vm.zone` is missing": {"tpu_vm": {"project": "p", "runtime_version": "v2"}},
    "`gke.image` is missing": {"gke": {}},
    "`gke` must be a mapping": {"gke": "image"},
    "`name` is missing": {"name": None},
    "`name` must": {"name": "Melody"},
    "40": {"name": "a" * 41},
    "`command` must begin": {"command": "rm -rf /"},
    "No closing quotation": {"command": "melody train 'lm"},
    "`command` must be text": {"command": ["melody", "train", 3]},
    "`env.A` must be text": {"env": {"A": 1}},
    "no name of an environment variable": {"env": {"A B": "1"}},
    "`restarts` must be a whole number": {"restarts": True},
    "`restarts` must not": {"restarts": -1},
    "`backoff.first` must be a number": {"backoff": {"first": "soon"}},
    "`backoff`: seconds": {"backoff": {"first": -1}},
    "`capacity` must be one of": {"capacity": "preemptible"},
    "`bucket` must be gs://NAME": {"bucket": "s3://music"},
    "s3://music/run is an address": {"command": "melody train lm --model_dir s3://music/run"},
    "the key `bucket` mounts it": {"slurm": {"nodes": 1, "gpus_per_node": 1, "shared_dir": "gs://music"}},
    "`slices`": {"slices": 0},
    "`slurm`: `nodes`": {"slurm": {"nodes": 0, "gpus_per_node": 1}},
    "accelerator v5e-16 is none of v4-N": {"accelerator": "v5e-16"},
    "sizes 1, 4, 8": {"accelerator": "v5litepod-12"},
    "topology 4x8 does not have the 16 chips": {"topology": "4x8"},
    "topology 2x8: v5litepod-16 comes as 4x4": {"topology": "2x8"},
    "topology 4x4x1": {"topology": "4x4x1"},
}


@pytest.mark.parametrize("message", BAD)
def test_bad_descriptions(message, tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(JOB | BAD[message]))
    with pytest.raises(UserError) as raised:
        job.read(path)
    assert message in str(raised.value) and str(path) in str(raised.value)


@pytest.mark.parametrize("text", ["a: [1", "- a", "just words", "", "\0"])
def test_not_a_mapping(text, tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match="job.yaml"):
        job.read(path)


def test_command_as_text_or_list(tmp_path):
    path = tmp_path / "job.yaml"
    read = []
    for command in ("melody train --set 'a = 1'", ["melody", "train", "--set", "a = 1"]):
        path.write_text(yaml.safe_dump(JOB | {"command": command}))
        read.append(job.read(path).command)
    assert read[0] == read[1] == ("melody", "train", "--set", "a = 1")


def test_bucket_stands_for_a_folder():
    made = job.Job(name="a", command=("melody", "--out={bucket}/x", "{other}"))
    assert made.words("/gcs") == ["melody", "--out=/gcs/x", "{other}"]
    with pytest.raises(UserError, match="needs the key `bucket`"):
        made.words("")


@pytest.mark.parametrize(
    ("accelerator", "topology", "expected"),
    [  # https://cloud.google.com/tpu/docs: chips, hosts, chips of a host, GKE's name
        ("v5litepod-256", "", ("16x16", 256, 64, 4, "tpu-v5-lite-podslice")),
        ("v5litepod-1", "", ("1x1", 1, 1, 1, "tpu-v5-lite-podslice")),
        ("v6e-64", "8x8", ("8x8", 64, 16, 4, "tpu-v6e-slice")),
        ("v5p-128", "", ("4x4x4", 64, 16, 4, "tpu-v5p-slice")),
        ("v5p-24", "2x2x3", ("2x2x3", 12, 3, 4, "tpu-v5p-slice")),
        ("v4-4096", "", ("8x16x16", 2048, 512, 4, "tpu-v4-podslice")),
    ],
)
def test_accelerators(accelerator, topology, expected):
    tpu = accelerators.parse(accelerator, topology)
    assert (tpu.topology, tpu.chips, tpu.hosts, tpu.chips_per_host, tpu.gke) == expected


def test_other_topology_of_as_many_chips():
    assert accelerators.parse("v5p-256", "4x4x8").is_default
    assert not accelerators.parse("v5p-256", "2x8x8").is_default
    with pytest.raises(UserError, match="with their topology"):
        accelerators.parse("v5p-24")
    with pytest.raises(UserError, match="sizes 8, 16"):
        accelerators.parse("v5p-9", "3x3x1")


def test_backoff_doubles_up_to_its_ceiling():
    backoff = job.Backoff(first=30, ceiling=100)
    assert [backoff.seconds(failures) for failures in (0, 1, 2, 5000)] == [30, 60, 100, 100]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_examples_are_read(path):
    made = job.read(path)
    assert made.keeps_results and made.words("/gcs")[0] == "melody"
    assert (made.gke and made.tpu) or made.slurm


def test_there_are_examples():
    assert len(CONFIGS) >= 3
