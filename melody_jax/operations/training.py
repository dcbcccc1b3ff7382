"""Training one stage, or all of them in order, as `melody train` is asked to."""

import dataclasses
import gc
import logging
import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from melody_jax import graph, storage
from melody_jax.bundle.bundle import BUNDLE_FILE
from melody_jax.bundle.part import INFO_FILE, locate, read_info
from melody_jax.errors import UserError
from melody_jax.files import write_whole
from melody_jax.operations import configuration, opening
from melody_jax.operations.cache import keep_programs
from melody_jax.operations.configuration import RunConfig
from melody_jax.parallel.hosts import together
from melody_jax.storage import Path
from melody_jax.train import loop
from melody_jax.train.end import PART
from melody_jax.train.stage import Stage

CONFIG_FILE = "config.gin"


@dataclasses.dataclass(frozen=True)
class Request:
    """What the command line says of a training.

    Attributes:
      stage: name of a stage, or "all".
      size: a folder of configs/sizes.
      data: name of the data set.
      model_dir, data_dir: where parts and tokens, and where audio data sets lie.
      hardware: a file of configs/hardware, or "auto".
      gin_files, bindings: the user's own; bindings as gin reads them, "name = value".
      tokenizer: a tokenizer.json for the captions, or None.
    """

    stage: str
    size: str
    data: str = ""
    model_dir: str = ""
    data_dir: str = storage.DATA_DIR
    hardware: str = "auto"
    gin_files: Sequence[str] = ()
    bindings: Sequence[str] = ()
    tokenizer: str | None = None

    @property
    def stages(self) -> tuple[str, ...]:
        """Every stage that is asked for, in order."""
        return graph.ORDER if self.stage == "all" else (self.stage,)

    def compose(self) -> dict[str, RunConfig]:
        """Stage -> its configuration, of all of them before any work can be lost.

        Raises:
          UserError: unknown names, bindings that no stage reads, or see `configuration.compose`.
        """
        configs = {}
        for name in self.stages:
            files = configuration.gin_files(name, self.size, self.hardware)
            configs[name] = configuration.compose(files, self.gin_files, self.bindings, partial=len(self.stages) > 1)
        configuration.refuse_ignored(frozenset.intersection(*(config.ignored for config in configs.values())))
        return {name: self._of_this_run(config) for name, config in configs.items()}

    def compose_one(self) -> RunConfig:
        """The configuration of the stage.

        Raises:
          UserError: more than one stage is asked for, or see `compose`.
        """
        if self.stage not in graph.ORDER:
            raise UserError(f"unknown stage {self.stage!r}; choose one of {', '.join(graph.ORDER)}")
        return self.compose()[self.stage]

    def open(self, config: RunConfig, make_tokens: bool = True) -> opening.Opened:
        """See `opening.open_run`."""
        return opening.open_run(config.stage, config.run, self.data_dir, self.tokenizer, make_tokens)

    def _of_this_run(self, config: RunConfig) -> RunConfig:
        run = dataclasses.replace(config.run, model_dir=self.model_dir, data=config.run.data or self.data)
        return dataclasses.replace(config, run=run)


def train(request: Request, init_from: Sequence[str], began: float) -> None:
    """Trains what is asked for, and prints where the parts are. Of all stages those that are finished are left out.

    Args:
      init_from: parts, finished stages, bundles or Hugging Face folders to start from.
      began: Unix time from which the start-up of the first stage counts.

    Raises:
      UserError: the configuration is wrong, or parents or data are missing.
      StoppedError: see `loop.train`.
    """
    configs = request.compose()
    starts = _starts(
        init_from, {name: config.stage for name, config in configs.items()}, storage.path(request.model_dir)
    )
    prepare_jax()
    if len(configs) > 1:
        opening.check_clips(next(iter(configs.values())).stage, request.data, request.data_dir)
    for name, config in configs.items():
        if len(configs) > 1 and _is_finished(storage.path(request.model_dir), name):
            print(f"{name}: finished before, {locate(storage.path(request.model_dir) / name)}")
            continue
        run = dataclasses.replace(config.run, init_from=(*config.run.init_from, *starts[name]), began=began)
        train_one(request, dataclasses.replace(config, run=run))
        began = time.time()
        # the next stage begins with the memory that this one had
        jax.clear_caches()
        gc.collect()


def train_one(request: Request, config: RunConfig) -> None:
    """Opens the run of one stage and trains it."""
    if jax.process_index() == 0:
        # TensorFlow is loaded, which takes a while.
        print(f"{config.stage.name}: opening {config.run.data}", flush=True)
    opened = request.open(config)
    data = opened.data()
    stage, run = opened.stage, opened.run
    with together():
        if jax.process_index() == 0:
            run.folder(stage.name).mkdir(parents=True, exist_ok=True)
            write_whole(run.folder(stage.name) / CONFIG_FILE, config.text)
            print(f"{stage.name}: {jax.device_count()} x {jax.devices()[0].device_kind}, mesh {run.mesh}", flush=True)
    part = loop.train(stage, data, run)
    if part is not None:
        print(f"{stage.name}: {part.parameters:,} parameters in {locate(run.folder(stage.name))}")


def _starts(directories: Sequence[str], stages: Mapping[str, Stage], model_dir: Path) -> dict[str, list[str]]:
    """Stage -> the parts that it starts from: of a bundle its own, and Hugging Face folders as imported into `model_dir`.

    Raises:
      UserError: none of these, or none of the stages has a place for it.
    """
    starts: dict[str, list[str]] = {name: [] for name in stages}
    for index, directory in enumerate(directories):
        folder = storage.path(directory)
        if (folder / BUNDLE_FILE).is_file():
            folders = [folder / name for name in stages if (folder / name / INFO_FILE).is_file()]
            if not folders:
                raise UserError(f"--init_from {directory} is a bundle that holds none of {', '.join(stages)}")
        elif (folder / "config.json").is_file() and not (locate(folder) / INFO_FILE).is_file():
            from melody_jax.interop import huggingface

            folders = [model_dir / "init_from" / str(index) / PART]
            huggingface.import_folder(storage.local(directory, "a Hugging Face folder"), folders[0])
        else:
            folders = [folder]
        for part in folders:
            kind = read_info(part)["name"]
            takers = [name for name, stage in stages.items() if kind in stage.starts]
            if not takers:
                raise UserError(f"--init_from {directory} is a {kind}: no stage of this run starts from it")
            for name in takers:
                starts[name].append(str(part))
    return starts


def _is_finished(model_dir: Path, name: str) -> bool:
    """Whether the stage's part is there and was made with the parents that are there now."""
    folder = locate(model_dir / name)
    if not (folder / INFO_FILE).is_file():
        return False
    parents = read_info(folder)["parents"]
    present = {parent: locate(model_dir / parent) for parent in parents}
    return all(
        (directory / INFO_FILE).is_file() and read_info(directory)["id"] == parents[parent]
        for parent, directory in present.items()
    )


def prepare_jax() -> None:
    """Compiled programs are kept from run to run; orbax's and XLA's own reports of what we report are not."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    sys.unraisablehook = _without_closed_loops
    keep_programs()


def _without_closed_loops(what: Any) -> None:
    """Prints what nobody can catch, but not what orbax's other writes say, in hundreds of lines, after one has failed."""
    if str(what.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(what)
