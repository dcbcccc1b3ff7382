"""`melody train STAGE` and `melody train all`: configuration, data and the training loop."""

import argparse
import dataclasses
import gc
import logging
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import jax

from melody_jax import stages
from melody_jax.bundle.part import INFO_FILE, locate, read_info
from melody_jax.cli import configuration
from melody_jax.cli.configuration import RunConfig
from melody_jax.errors import UserError
from melody_jax.parallel import hosts
from melody_jax.parallel.batch import host_shard
from melody_jax.parallel.mesh import DEFAULT, make_mesh
from melody_jax.train import loop
from melody_jax.train.goodput import process_began
from melody_jax.train.hooks import StoppedError, together
from melody_jax.train.profile import traced_steps
from melody_jax.train.stage import Stage

CONFIG_FILE = "config.gin"
TOKEN_STAGES = ("lm", "dpd")  # the others read audio


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser(
        "train",
        help="train one stage, or all of them in order",
        epilog="--gin.NAME=value binds as --set NAME=value does, but strings need their quotes.",
    )
    parser.set_defaults(run=run)
    add_configuration(parser, f"{', '.join(stages.ORDER)}, or all")
    parser.add_argument("--total_steps", type=int, help="instead of the configuration's")
    parser.add_argument(
        "--init_from",
        action="append",
        default=[],
        metavar="DIR",
        help="start from weights: a part, a finished stage, or a Hugging Face folder; may be given several times",
    )
    parser.add_argument("--precompiled", metavar="DIR", help="executables written by melody precompile --save")
    parser.add_argument("--profile", metavar="FIRST:LAST", help="trace these steps (for XProf) into DIR/STAGE/profile")


def add_configuration(parser: argparse.ArgumentParser, choices: str) -> None:
    """The arguments that say what is trained (`choices` of STAGE), on what, and where."""
    parser.add_argument("stage", metavar="STAGE", help=choices)
    parser.add_argument("--size", required=True, help="a folder of configs/sizes: tiny, small, paper")
    parser.add_argument("--data", required=True, metavar="NAME", help="name of the data set, as given to melody data")
    parser.add_argument("--model_dir", required=True, metavar="DIR", help="everything is written to DIR/STAGE")
    parser.add_argument("--data_dir", default="./data", metavar="DIR", help="where data sets lie (default ./data)")
    parser.add_argument("--set", action="append", default=[], metavar="BINDING=VALUE", help="a gin binding")
    parser.add_argument("--gin_file", action="append", default=[], metavar="FILE", help="a further gin file")
    parser.add_argument("--mesh", help="device mesh, as data=-1,fsdp=4,tensor=2 (default: by hardware)")
    parser.add_argument("--hardware", default="auto", help="a file of configs/hardware (default: by what there is)")
    parser.add_argument("--seed", type=int, help="of parameters, step randomness and data order (default 0)")
    parser.add_argument("--tokenizer", metavar="FILE", help="tokenizer.json of a MuLan text tower of your own")


def run(args: argparse.Namespace) -> int:
    """Trains, and prints where the parts are.

    Raises:
      UserError: unknown names, bindings that nobody reads, missing data or parents.
    """
    began = process_began()
    hosts.join()
    names = stages.ORDER if args.stage == "all" else (args.stage,)
    configs = compose(args, names, bindings_of(args))  # all of them, before any work can be lost
    starts = _starts(args.init_from, {name: config.stage for name, config in configs.items()}, Path(args.model_dir))
    prepare_jax()
    try:
        for name in names:
            if args.stage == "all" and _is_finished(Path(args.model_dir), name):
                print(f"{name}: finished before, {locate(Path(args.model_dir) / name)}")
                continue
            _train(args, configs[name], starts[name], began)
            began = time.time()
            # the next stage begins with the memory that this one had
            jax.clear_caches()
            gc.collect()
    except StoppedError as stopped:
        print(f"error: {stopped}", file=sys.stderr, flush=True)
        hosts.part()
        return stopped.exit_code
    return 0


def bindings_of(args: argparse.Namespace) -> list[str]:
    """What only `melody train` binds.

    Raises:
      UserError: an empty --profile, or no step to take.
    """
    bindings = []
    if args.precompiled is not None:
        bindings.append(f"loop.train.precompiled_dir = {args.precompiled!r}")
    if args.profile is not None:
        if not traced_steps(args.profile):
            raise UserError("--profile is empty; expected FIRST:LAST, as 10:15")
        bindings.append(f"loop.train.profile = {args.profile!r}")
    if args.total_steps is not None:
        if args.total_steps < 1:
            raise UserError(f"--total_steps must be at least 1, got {args.total_steps}")
        bindings.append(f"TOTAL_STEPS = {args.total_steps}")
    return bindings


def compose(args: argparse.Namespace, names: Sequence[str], further: Sequence[str] = ()) -> dict[str, RunConfig]:
    """Stage -> its configuration, by the arguments of `add_configuration` and further bindings "name = value".

    Raises:
      UserError: unknown arguments or names, or bindings that no stage reads.
    """
    foreign = [argument for argument in args.unknown if not argument.startswith("--gin.") or "=" not in argument]
    if foreign:
        raise UserError(f"unknown arguments: {' '.join(foreign)} (see melody {args.command} --help)")
    bindings = [configuration.binding_of(item) for item in args.set]
    bindings += [argument.removeprefix("--gin.") for argument in args.unknown]
    if args.mesh is not None:
        bindings.append(f"loop.train.mesh = {args.mesh!r}")
    if args.seed is not None:
        bindings.append(f"loop.train.seed = {args.seed}")
    bindings += further
    hardware = configuration.detect_hardware() if args.hardware == "auto" else args.hardware
    configs = {}
    for name in names:
        files = configuration.gin_files(name, args.size, hardware, args.data)
        configs[name] = configuration.compose(files, args.gin_file, bindings, partial=len(names) > 1)
    configuration.refuse_ignored(frozenset.intersection(*(config.ignored for config in configs.values())))
    return configs


def _starts(directories: list[str], stages_: dict[str, Stage], model_dir: Path) -> dict[str, list[str]]:
    """Stage -> the parts that it starts from. Hugging Face folders are imported into the model folder first.

    Raises:
      UserError: neither a part nor a Hugging Face folder, or none of the stages has a place for it.
    """
    starts: dict[str, list[str]] = {name: [] for name in stages_}
    for index, directory in enumerate(directories):
        folder = Path(directory)
        if (folder / "config.json").is_file() and not (locate(folder) / INFO_FILE).is_file():
            from melody_jax.interop import huggingface

            folder = model_dir / "init_from" / str(index) / loop.PART
            huggingface.import_folder(directory, folder)
        kind = read_info(folder)["name"]
        takers = [name for name, stage in stages_.items() if kind in stage.starts]
        if not takers:
            raise UserError(f"--init_from {directory} is a {kind}: no stage of this run starts from it")
        for name in takers:
            starts[name].append(str(folder))
    return starts


def _train(args: argparse.Namespace, config: RunConfig, init_from: list[str], began: float) -> None:
    stage = with_parents(config.stage, args.model_dir)
    if stage.name in TOKEN_STAGES:
        _tokenize(args)
    mesh, seed = config.train.get("mesh", DEFAULT), config.train.get("seed", 0)
    batches, held_out = open_data(args, stage, mesh, seed)
    with together():
        if jax.process_index() == 0:
            folder = Path(args.model_dir) / stage.name
            folder.mkdir(parents=True, exist_ok=True)
            (folder / CONFIG_FILE).write_text(config.text)
            print(f"{stage.name}: {jax.device_count()} x {jax.devices()[0].device_kind}, mesh {mesh}", flush=True)
    settings = {"data": args.data, "began": began} | config.train
    if init_from:
        settings["init_from"] = (*settings.get("init_from", ()), *init_from)
    part = loop.train(stage, batches, held_out, model_dir=args.model_dir, **settings)
    if part is not None:
        print(f"{stage.name}: {part.parameters:,} parameters in {locate(Path(args.model_dir) / stage.name)}")


def with_parents(stage: Stage, model_dir: str) -> Stage:
    """Parents come from the same model folder unless the configuration names another one."""
    if getattr(stage, "parents_dir", None) != "":
        return stage
    for parent in stages.PARENTS.get(stage.name, ()):
        if not (locate(Path(model_dir) / parent) / INFO_FILE).is_file():
            raise UserError(f"{stage.name} needs a finished {parent} in {model_dir}; run melody train {parent} first")
    return dataclasses.replace(stage, parents_dir=model_dir)  # pyright: ignore[reportArgumentType]


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


def open_data(args: argparse.Namespace, stage: Stage, mesh: str, seed: int):
    """(training batches, held-out batches) of this host."""
    from data_pipelines import read

    if stage.name in TOKEN_STAGES:
        directory = read.tokens_directory(args.model_dir, args.data)
    else:
        directory = read.audio_directory(args.data_dir, args.data)
    read.metadata(directory)  # a missing data set is said before TensorFlow takes seconds to start
    try:
        from data_pipelines import batches
    except ImportError as error:
        raise UserError(f"melody train needs the extra `data` (pip install 'melody_jax[data]'): {error}") from None
    shard = host_shard(make_mesh(mesh))
    options = {"tokenizer": args.tokenizer, "shard": shard.index, "shards": shard.count}
    training = batches.for_stage(stage, stage.geometry, directory, seed=seed, **options)
    return training, batches.held_out_for_stage(stage, stage.geometry, directory, **options)


def _tokenize(args: argparse.Namespace) -> None:
    """The tokenised data set of the parts in the model folder, made unless it is there."""
    from melody_jax.cli import tokenize

    tokenize.of_model_dir(args.model_dir, args.data, args.data_dir, tokenizer=args.tokenizer)


def prepare_jax() -> None:
    """Compiled programs are kept from run to run; orbax's and XLA's own reports of what we report are not."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    sys.excepthook = _without_closed_loops
    if not jax.config.jax_compilation_cache_dir:  # pyright: ignore[reportAttributeAccessIssue]
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(cache / "melody_jax" / "xla"))


def _without_closed_loops(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Prints what nobody caught, but not what orbax's other writes say, in hundreds of lines, after one has failed."""
    if str(error) != "Event loop is closed":
        sys.__excepthook__(kind, error, trace)
