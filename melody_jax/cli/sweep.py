"""`melody sweep FILE`: trials of one training command with other bindings each, and what they reached."""

import argparse
import dataclasses
import shlex
import sys
import types
import typing
from pathlib import Path
from typing import Any

import gin
import jax

from melody_jax import stages
from melody_jax.bundle.part import INFO_FILE, locate, read_info
from melody_jax.cli import configuration
from melody_jax.cli.launch import TARGETS
from melody_jax.cli.train import TOKEN_STAGES
from melody_jax.errors import UserError
from melody_jax.sweep import report
from melody_jax.sweep.config import Sweep
from melody_jax.sweep.listed import ListedTrials
from melody_jax.sweep.ranges import extremes, text
from melody_jax.sweep.run import run as run_trials
from melody_jax.sweep.study import StudyTrials
from melody_jax.sweep.trial import Trial, Trials, folder
from melody_jax.train import loop

MELODY = (sys.executable, "-m", "melody_jax.cli.main")


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser(
        "sweep",
        help="train with many settings and compare what they reach",
        epilog="Started again, it goes on with what is left. Exit code 1: no trial finished.",
    )
    parser.set_defaults(run=run)
    parser.add_argument("file", metavar="FILE", help="a gin file that binds Sweep, as configs/sweeps/lm_tiny.gin")
    parser.add_argument("--sweep_dir", metavar="DIR", help="everything is written here (default runs/sweeps/NAME)")
    parser.add_argument("--set", action="append", default=[], metavar="BINDING=VALUE", help="a binding of the file")
    for name, text_ in {
        "data": "name of the data set",
        "data_dir": "where data sets lie",
        "parents_dir": "model folder whose finished stages and tokens the trials use; it is only read",
        "storage": "URL of Optuna's database, for workers on many hosts",
    }.items():
        parser.add_argument(f"--{name}", help=f"{text_} (default: the file's)")
    parser.add_argument("--workers", type=int, default=1, help="trials beside one another (default 1)")
    parser.add_argument(
        "--launch",
        nargs=2,
        metavar=("TARGET", "FILE"),
        help="each trial through `melody launch TARGET --config FILE` (tpu-vm, gke, slurm)",
    )
    parser.add_argument("--dry_run", action="store_true", help="print the trials, start none")


def run(args: argparse.Namespace) -> int:
    """Runs the trials that are left, prints the table, and writes results.csv and results.png.

    Returns:
      0 if a trial has finished, 1 if none has, 130 or 143 if a signal stopped the sweep.

    Raises:
      UserError: a wrong file, bindings that nobody reads or of a wrong type, missing parents, data or tokens, or a folder
        with trials of another sweep.
    """
    if args.workers < 1:
        raise UserError(f"--workers must be at least 1, got {args.workers}")
    if args.launch:
        _check_launch(*args.launch)
    jax.config.update("jax_platforms", "cpu")  # accelerators are the trials'
    sweep = read(args.file, args.set)
    given = {name: getattr(args, name) for name in ("data", "data_dir", "parents_dir", "storage")}
    sweep = dataclasses.replace(sweep, **{name: value for name, value in given.items() if value is not None})
    name = Path(args.file).stem
    directory = Path(args.sweep_dir or f"runs/sweeps/{name}")
    proposals = [] if sweep.kind == "optuna" else sweep.proposals()
    _try_out(sweep, proposals)
    if args.dry_run:
        _print_plan(sweep, proposals, directory)
        return 0
    _check_inputs(sweep)
    sweep.keep_record(directory)
    trials = StudyTrials(directory, name, sweep) if sweep.kind == "optuna" else ListedTrials(directory, proposals)
    return _run(args, sweep, trials, directory)


def read(file: str, bindings: list[str]) -> Sweep:
    """The sweep of a gin file, or of configs/FILE, with further bindings.

    Raises:
      UserError: there is no such file, it is wrong, or something in it has no effect.
    """
    path = configuration.find(file)

    def parsed() -> Sweep:
        gin.clear_config()
        gin.parse_config_file(str(path.absolute()))
        gin.parse_config([configuration.binding_of(binding) for binding in bindings])
        gin.finalize()
        return gin.get_configurable(Sweep)()

    sweep = configuration.explained(parsed, str(path))
    unread = configuration.unread()
    if unread:
        raise UserError(f"{path}: nobody reads the bindings of {unread[0]}")
    return sweep


def _run(args: argparse.Namespace, sweep: Sweep, trials: Trials, directory: Path) -> int:
    def command(trial: Trial, model_dir: Path) -> list[str]:
        _link_parents(sweep, model_dir)
        train = train_command(sweep, trial, model_dir)
        if not args.launch:
            return [*MELODY, *train]
        target, file = args.launch
        return launch_command(target, file, trial, model_dir, ["melody", *train])

    def ended(trial: Trial) -> None:
        reached = "" if trial.value is None else f", {sweep.metric} {trial.value:.5g}"
        print(f"trial {trial.number} {trial.key}: {trial.state}{reached}, {trial.seconds:.0f} s", flush=True)
        report.write_csv(sweep, trials.all(), directory)

    stopped = run_trials(sweep, trials, directory, command, args.workers, ended)
    made = trials.all()
    print(report.table(sweep, made))
    written = [report.write_csv(sweep, made, directory), report.plot(sweep, made, directory)]
    print("written:", *filter(None, written))
    if stopped:
        print(f"error: sweep: stopped by a signal; the same command goes on in {directory}", file=sys.stderr)
        return 128 + stopped
    return 0 if any(trial.state == "finished" for trial in made) else 1


def train_command(sweep: Sweep, trial: Trial, model_dir: Path) -> list[str]:
    """The command line of a trial, without `melody`."""
    options = ["--size", sweep.size, "--data", sweep.data, "--data_dir", sweep.data_dir]
    options += ["--hardware", sweep.hardware, "--model_dir", str(model_dir)]
    options += [word for file in sweep.gin_files for word in ("--gin_file", file)]
    options += [word for binding in [*sweep.fixed(), *trial.arguments] for word in ("--set", binding)]
    return ["train", sweep.stage, *options]


def launch_command(target: str, file: str, trial: Trial, model_dir: Path, command: list[str]) -> list[str]:
    """`melody launch` with a description of the trial's own: that of `file`, but for its name and its command.

    The launcher of a SLURM job waits for its end.
    """
    import yaml

    description = yaml.safe_load(Path(file).read_text())
    description |= {"name": f"{description['name'][:31].rstrip('-')}-{trial.key}", "command": command}
    if target == "slurm":
        description["slurm"] |= {"wait": True}
    own = model_dir / "launch.yaml"
    own.write_text(yaml.safe_dump(description, sort_keys=False))
    return [*MELODY, "launch", target, "--config", str(own), "--out", str(model_dir / "launch")]


def _check_launch(target: str, file: str) -> None:
    """Raises UserError where trials cannot be run by this target, or the description is wrong."""
    from launch import job

    if target not in TARGETS:
        raise UserError(f"--launch: {target!r} is none of {', '.join(TARGETS)}")
    if getattr(job.read(file), TARGETS[target]) is None:
        raise UserError(f"--launch {target}: the key `{TARGETS[target]}` is missing in {file}")


def _try_out(sweep: Sweep, proposals: list[dict[str, str]]) -> None:
    """Composes the configuration of every trial; where they are not known yet, with each value by itself.

    Raises:
      UserError: one of them cannot be made, nobody reads a binding, or it has a wrong type.
    """
    hardware = configuration.detect_hardware() if sweep.hardware == "auto" else sweep.hardware
    files = configuration.gin_files(sweep.stage, sweep.size, hardware, sweep.data)
    alone = [{name: text(value)} for name, values in sweep.space.items() for value in extremes(values)]
    for bindings in proposals or alone:
        chosen = [f"{name}={value}" for name, value in bindings.items()]
        composed = configuration.compose(files, sweep.gin_files, [*sweep.fixed(), *chosen])
        if composed.stage.name != sweep.stage:
            raise UserError(f"the configuration is one of the stage {composed.stage.name}, not of {sweep.stage}")
        _check_types(composed.stage)
        _check_arguments(composed.train)


def _check_types(config: Any) -> None:
    """Raises UserError where a field of a config dataclass, or of one in it, is not of the type that it declares."""
    hints = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            _check_types(value)
        elif not _fits(hints[field.name], value):
            raise UserError(
                f"{type(config).__name__}.{field.name} is {value!r}, which is no {_called(hints[field.name])}"
            )


def _check_arguments(arguments: dict[str, Any]) -> None:
    """The same for the arguments of the training loop."""
    hints = typing.get_type_hints(loop.train)
    for name, value in arguments.items():
        if not _fits(hints[name], value):
            raise UserError(f"loop.train.{name} is {value!r}, which is no {_called(hints[name])}")


def _fits(hint: Any, value: Any) -> bool:
    """Whether a value is of a plain type, or of one of a union's; of other types nothing is known."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return any(_fits(one, value) for one in typing.get_args(hint))
    if hint in (int, float):
        return isinstance(value, (int, hint)) and not isinstance(value, bool)
    return isinstance(value, hint) if hint in (bool, str, type(None)) else True


def _called(hint: Any) -> str:
    return getattr(hint, "__name__", str(hint))


def _check_inputs(sweep: Sweep) -> None:
    """Raises UserError where the parents, the data set or its tokens are not there: no trial may make them."""
    from data_pipelines import read
    from melody_jax.generate.represent import NEEDED

    audio = read.metadata(read.audio_directory(sweep.data_dir, sweep.data))
    needed = NEEDED if sweep.stage in TOKEN_STAGES else stages.PARENTS.get(sweep.stage, ())
    if needed and not sweep.parents_dir:
        raise UserError(f"a sweep of {sweep.stage} needs --parents_dir, a model folder with {', '.join(needed)}")
    parents = {name: locate(Path(sweep.parents_dir) / name) for name in needed}
    missing = [name for name, part in parents.items() if not (part / INFO_FILE).is_file()]
    if missing:
        raise UserError(f"{sweep.parents_dir} holds no finished {missing[0]}; run melody train {missing[0]} first")
    if sweep.stage in TOKEN_STAGES:
        directory = read.tokens_directory(sweep.parents_dir, sweep.data)
        made = read.metadata(directory) if (directory / "metadata.json").is_file() else {}
        lineage = {name: read_info(part)["id"] for name, part in parents.items()}
        if made.get("lineage") != lineage or made.get("source") != audio["id"]:
            command = f"melody tokenize --model_dir {sweep.parents_dir} --data {sweep.data}"
            raise UserError(f"{directory} holds no tokens of this data by these parts; run {command} first")


def _link_parents(sweep: Sweep, model_dir: Path) -> None:
    """Finished stages and tokens appear in the trial's model folder as links.

    Each link names the very folder: what would replace the tokens fails at the link and leaves them alone.
    """
    from data_pipelines import read

    if not sweep.parents_dir:
        return
    names = [name for name in stages.ORDER if name != sweep.stage]
    links = {model_dir / name: Path(sweep.parents_dir) / name for name in names}
    tokens = read.tokens_directory(str(model_dir), sweep.data)
    links[tokens] = read.tokens_directory(sweep.parents_dir, sweep.data)
    for link, target in links.items():
        if target.is_dir() and not link.is_symlink():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(target.resolve(), target_is_directory=True)


def _print_plan(sweep: Sweep, proposals: list[dict[str, str]], directory: Path) -> None:
    for number, bindings in enumerate(proposals):
        trial = Trial(number, bindings)
        print(f"trial {number} {trial.key}: {', '.join(trial.arguments)}")
    if sweep.kind == "optuna":
        print(f"{sweep.trials} trials, each chosen by the results before it, of")
        for name, values in sweep.space.items():
            print(f"  {name}: {values}")
    first = {name: text(extremes(values)[0]) for name, values in sweep.space.items()}
    example = Trial(0, proposals[0] if proposals else first)
    print(f"in {directory}, each as")
    print(shlex.join(["melody", *train_command(sweep, example, folder(directory, example))]))
