"""The one description of a run that feeds all launchers, and its YAML reader."""

import re
import shlex
import types
import typing
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml

from launch import accelerators
from melody_jax import libtpu
from melody_jax.config import fits
from melody_jax.errors import UserError, refuse_addresses
from melody_jax.files import read_text

BUCKET = "{bucket}"
"""Stands in a command for the folder in which the bucket (on SLURM: the shared file system) is seen."""

PATHS = "gs://"
"""How paths in buckets begin that are not mounted."""

TARGETS = {"tpu-vm": "tpu_vm", "gke": "gke", "slurm": "slurm"}
"""Target of `melody launch` -> its key in a description, and its module of this package."""

CAPACITIES = ("on-demand", "spot", "reserved")

TPU_SETUP = (
    "sudo apt-get -o DPkg::Lock::Timeout=300 -qq update",
    "sudo apt-get -o DPkg::Lock::Timeout=300 -qq install -y python3.11-venv",
    "python3.11 -m venv .venv",
    ".venv/bin/pip install --quiet --constraint constraints.txt --editable '.[data,gcs,tpu]'",
    ".venv/bin/pip install --quiet --no-deps --requirement packages-no-deps.txt --requirement packages-no-deps-data.txt",
)


@dataclass(frozen=True)
class Backoff:
    """Pauses between restarts, in seconds: `first`, doubled with every failure up to `ceiling`.

    A run that held for `reset` seconds starts the count anew.
    """

    first: float = 30.0
    ceiling: float = 900.0
    reset: float = 3600.0

    def __post_init__(self) -> None:
        if min(self.first, self.ceiling, self.reset) < 0:
            raise UserError("`backoff`: seconds must not be negative")

    def seconds(self, failures: int) -> float:
        """The pause after this many failures in a row, counted from 0."""
        return min(self.first * 2.0 ** min(failures, 100), self.ceiling)


@dataclass(frozen=True)
class TpuVm:
    """TPU VMs: where, with which software, and how long to wait.

    Attributes:
      project: Google Cloud project.
      zone: as us-west4-a.
      runtime_version: the VM image, as v2-alpha-tpuv5-lite.
      queued: ask with a queued resource and wait for capacity; several slices need it.
      create_minutes: time limit of one create command.
      wait_minutes: how long to wait until the slices are ready.
      setup: shell lines that install the shipped code, run in its folder.
      network, subnetwork: empty is the project's default.
      internal_ips: no addresses of the internet for the VMs. gcloud then reaches them from inside the network.
      iap: reach them through Identity-Aware Proxy instead, from anywhere.
      service_account: of the VMs, which may use the bucket; empty is the project's default.
      scopes: of that account; none are Google's defaults.
      reservation: name of a reservation; needs `queued`. Without it reserved capacity comes from any of the project's.
    """

    project: str
    zone: str
    runtime_version: str
    queued: bool = False
    create_minutes: float = 30.0
    wait_minutes: float = 1440.0
    setup: tuple[str, ...] = TPU_SETUP
    network: str = ""
    subnetwork: str = ""
    internal_ips: bool = False
    iap: bool = False
    service_account: str = ""
    scopes: tuple[str, ...] = ()
    reservation: str = ""

    def __post_init__(self) -> None:
        if self.reservation and not self.queued:
            raise UserError("`tpu_vm.reservation` needs a queued resource: set `tpu_vm.queued` to true")


@dataclass(frozen=True)
class Gke:
    """A GKE cluster with the JobSet controller, such as xpk makes.

    Attributes:
      image: container image with `melody` in it.
      namespace: of the JobSet.
      context: of kubectl; empty is the current one.
      queue: Kueue's local queue (xpk's is multislice-queue); empty is no Kueue.
      service_account: Kubernetes service account that may use the bucket.
      reservation: name of the reservation; needed with reserved capacity.
      local_disk: a folder of the nodes that pods see under the same name and that outlives them, for local checkpoints.
    """

    image: str
    namespace: str = "default"
    context: str = ""
    queue: str = ""
    service_account: str = ""
    reservation: str = ""
    local_disk: str = ""


@dataclass(frozen=True)
class Slurm:
    """A SLURM cluster with a shared file system; one task for each GPU, as jax.distributed expects.

    Attributes:
      nodes: number of nodes.
      gpus_per_node: GPUs, and tasks, on each.
      cpus_per_task: CPU cores of each task.
      hours: time limit of one start.
      partition: empty is the cluster's default.
      account: empty is the user's default.
      shared_dir: what {bucket} in the command stands for.
      setup: shell lines before the start, as `source .venv/bin/activate`; they run in the code folder.
      wait: stay until the job has ended, with its exit code; a signal then cancels it.
    """

    nodes: int
    gpus_per_node: int
    cpus_per_task: int = 8
    hours: float = 24.0
    partition: str = ""
    account: str = ""
    shared_dir: str = ""
    setup: tuple[str, ...] = ()
    wait: bool = False

    def __post_init__(self) -> None:
        if min(self.nodes, self.gpus_per_node, self.cpus_per_task) < 1:
            raise UserError("`slurm`: `nodes`, `gpus_per_node` and `cpus_per_task` must be at least 1")


@dataclass(frozen=True)
class Job:
    """What runs, on what, and what happens when it ends early.

    Attributes:
      name: of the run and of all cloud resources: lower-case letters, digits and dashes.
      command: the same on every host; begins with `melody` or `python`.
      accelerator: TPU type as gcloud names it: v5litepod-256, v5p-128.
      topology: of one slice, as 16x16; empty is the type's own.
      slices: number of slices.
      capacity: on-demand, spot or reserved.
      bucket: gs://NAME, mounted on every host; {bucket} in the command stands for it.
      code: folder of a git work tree that is shipped: tracked and new files, nothing that git ignores.
      env: environment variables; on TPUs LIBTPU_INIT_ARGS is that of `melody_jax/libtpu.py`, unless it stands here.
      restarts: how many failures in a row are followed by another start.
      backoff: pauses between restarts.
      grace_seconds: time for a checkpoint between SIGTERM and SIGKILL.
      tpu_vm, gke, slurm: what only one kind of launcher needs.
    """

    name: str
    command: tuple[str, ...]
    accelerator: str = ""
    topology: str = ""
    slices: int = 1
    capacity: str = "on-demand"
    bucket: str = ""
    code: str = "."
    env: dict[str, str] = field(default_factory=dict)
    restarts: int = 10
    backoff: Backoff = field(default_factory=Backoff)
    grace_seconds: int = 120
    tpu_vm: TpuVm | None = None
    gke: Gke | None = None
    slurm: Slurm | None = None

    def __post_init__(self) -> None:
        checks = {
            # JobSet and Kubernetes append to it and stop at 63 characters
            "`name` must be at most 40 lower-case letters, digits and dashes, with a letter first and no dash last": (
                re.fullmatch(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?", self.name)
            ),
            "`command` must begin with melody or python": self.command[:1] in (("melody",), ("python",)),
            f"`capacity` must be one of {', '.join(CAPACITIES)}": self.capacity in CAPACITIES,
            "`bucket` must be gs://NAME": not self.bucket or re.fullmatch(r"gs://[a-z0-9._-]+", self.bucket),
            "`slices` must be at least 1": self.slices >= 1,
            "`restarts` must not be negative": self.restarts >= 0,
            "`grace_seconds` must be at least 1": self.grace_seconds >= 1,
        }
        for message, fulfilled in checks.items():
            if not fulfilled:
                raise UserError(message)
        folders = (self.code, self.slurm.shared_dir if self.slurm else "")
        words = (
            word for word in self.command if not word.startswith(PATHS)
        )  # which the command itself reads and writes
        refuse_addresses((*words, *folders), f"the key `bucket` mounts it, and {BUCKET} stands for its folder")
        for name in self.env:
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
                raise UserError(f"`env`: {name} is no name of an environment variable")
        if self.accelerator:
            accelerators.parse(self.accelerator, self.topology)

    def chips(self, target: str) -> tuple[int, int]:
        """(chips of all slices, slices) that the target takes of the description; no chips where it lacks the target."""
        if target == "slurm":
            return (self.slurm.nodes * self.slurm.gpus_per_node, 1) if self.slurm else (0, 1)
        return (self.slices * self.tpu.devices, self.slices) if self.accelerator else (0, 1)

    @property
    def tpu(self) -> accelerators.Slice:
        """One slice.

        Raises:
          UserError: the description names no accelerator.
        """
        if not self.accelerator:
            raise UserError("the key `accelerator` is missing")
        return accelerators.parse(self.accelerator, self.topology)

    @property
    def environment(self) -> dict[str, str]:
        """`env`, with the compiler's flags for the TPU."""
        return libtpu.environment(self.tpu.chip, self.env)

    @property
    def keeps_results(self) -> bool:
        """Whether the command names a folder that outlives the machines."""
        return any(BUCKET in word or word.startswith(PATHS) for word in self.command)

    def words(self, bucket: str) -> list[str]:
        """The command's words with `bucket` in the place of {bucket}.

        Raises:
          UserError: the command asks for a bucket and there is none.
        """
        if any(BUCKET in word for word in self.command) and not bucket:
            raise UserError(f"the command has {BUCKET}: it needs the key `bucket`, and on SLURM `slurm.shared_dir`")
        return [word.replace(BUCKET, bucket) for word in self.command]


def read(path: str | Path) -> Job:
    """The description in a YAML file.

    Raises:
      UserError: no such file, no YAML, or a key that is unknown, missing or of the wrong kind, which it names.
    """
    text = read_text(path)
    try:
        data = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a day of no calendar, brackets without end
        raise UserError(f"{path} is no YAML: {error}") from None
    try:
        if isinstance(data, dict) and isinstance(data.get("command"), str):
            data["command"] = shlex.split(data["command"])
        return _build(Job, data, "")
    except (UserError, ValueError, OverflowError) as error:  # shlex: no closing quotation
        raise UserError(f"{path}: {error}") from None


def check(target: str, file: str) -> None:
    """Raises UserError where there is no such target, or the description in `file` is wrong or lacks the target's key."""
    if target not in TARGETS:
        raise UserError(f"--launch: {target!r} is none of {', '.join(TARGETS)}")
    if getattr(read(file), TARGETS[target]) is None:
        raise UserError(f"--launch {target}: the key `{TARGETS[target]}` is missing in {file}")


def _build(cls: Any, data: Any, key: str) -> Any:
    if not isinstance(data, dict):
        raise UserError(f"`{key}` must be a mapping of keys" if key else "a mapping of keys is expected")
    prefix = f"{key}." if key else ""
    known = {item.name: item for item in fields(cls)}
    for name in data:
        if name not in known:
            raise UserError(f"the key `{prefix}{name}` is unknown; known are {', '.join(known)}")
    for name, item in known.items():
        if item.default is item.default_factory is MISSING and data.get(name) is None:
            raise UserError(f"the key `{prefix}{name}` is missing")
    hints = typing.get_type_hints(cls)
    # a key without a value is as good as none
    return cls(**{name: _typed(hints[name], v, prefix + name) for name, v in data.items() if v is not None})


def _typed(hint: Any, value: Any, key: str) -> Any:
    if isinstance(hint, types.UnionType):
        hint = typing.get_args(hint)[0]
    if is_dataclass(hint):
        return _build(hint, value, key)
    origin = typing.get_origin(hint)
    if origin is tuple and isinstance(value, list):
        return tuple(_typed(str, item, key) for item in value)
    if origin is dict and isinstance(value, dict):
        return {str(name): _typed(str, item, f"{key}.{name}") for name, item in value.items()}
    # YAML reads 010 as 8 and 24:00:00 as 86400: text must be text
    if origin is None and fits(hint, value):
        return float(value) if hint is float else value
    words = {tuple: "a list", dict: "a mapping", str: "text (in quotes)", float: "a number", int: "a whole number"}
    raise UserError(f"`{key}` must be {words.get(origin or hint, 'true or false')}, not {value!r}")
