"""The command lines of a sweep's trials, and what is looked at before the first one is started."""

import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import gin

from melody_jax import graph
from melody_jax.errors import UserError
from melody_jax.files import read_text
from melody_jax.operations import configuration, opening, tokens
from melody_jax.operations.sweep.config import Sweep
from melody_jax.operations.sweep.ranges import extremes, text
from melody_jax.operations.sweep.trial import Trial, folder

MELODY = (sys.executable, "-m", "melody_jax.cli.main")


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


def try_out(sweep: Sweep, proposals: list[dict[str, str]]) -> None:
    """Composes the configuration of every trial; where they are not known yet, with each value by itself.

    Raises:
      UserError: one of them cannot be made, nobody reads a binding, or it has a wrong type.
    """
    files = configuration.gin_files(sweep.stage, sweep.size, sweep.hardware)
    alone = [{name: text(value)} for name, values in sweep.space.items() for value in extremes(values)]
    for bindings in proposals or alone:
        chosen = [f"{name}={value}" for name, value in bindings.items()]
        composed = configuration.compose(files, sweep.gin_files, [*sweep.fixed(), *chosen])
        if composed.stage.name != sweep.stage:
            raise UserError(f"the configuration is one of the stage {composed.stage.name}, not of {sweep.stage}")


def check_inputs(sweep: Sweep) -> None:
    """Refuses a sweep whose parents, data set or tokens are not there: no trial may make them.

    Raises:
      UserError: see above.
    """
    needed = graph.needed_by(sweep.stage)
    for name in opening.rates_of(sweep.data):
        opening.data_directory("", "", name, sweep.data_dir)  # the audio, of which tokens are made too
    if needed and not sweep.parents_dir:
        raise UserError(f"a sweep of {sweep.stage} needs --parents_dir, a model folder with {', '.join(needed)}")
    tokens.finished(sweep.parents_dir, needed)
    for name in opening.rates_of(sweep.data) if sweep.stage in graph.READ_TOKENS else ():
        tokens.check(sweep.parents_dir, name, sweep.data_dir)


def starter(sweep: Sweep, launch: Sequence[str] | None = None) -> Callable[[Trial, Path], list[str]]:
    """What starts a trial: its parents are linked into its folder, and its command line is returned.

    Args:
      launch: (target, file) of `melody launch`, through which each trial runs; None for a process of this machine.
    """

    def command(trial: Trial, model_dir: Path) -> list[str]:
        link_parents(sweep, model_dir)
        train = train_command(sweep, trial, model_dir)
        if launch is None:
            return [*MELODY, *train]
        target, file = launch
        return launch_command(target, file, trial, model_dir, ["melody", *train])

    return command


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

    description = yaml.safe_load(read_text(file))
    description |= {"name": f"{description['name'][:31].rstrip('-')}-{trial.key}", "command": command}
    if target == "slurm":
        description["slurm"] |= {"wait": True}
    own = model_dir / "launch.yaml"
    own.write_text(yaml.safe_dump(description, sort_keys=False))
    return [*MELODY, "launch", target, "--config", str(own), "--out", str(model_dir / "launch")]


def link_parents(sweep: Sweep, model_dir: Path) -> None:
    """Finished stages and tokens appear in the trial's model folder as links.

    Each link names the very folder: what would replace the tokens fails at the link and leaves them alone.
    """
    from data_pipelines import read

    if not sweep.parents_dir:
        return
    names = [name for name in graph.ORDER if name != sweep.stage]
    links = {model_dir / name: Path(sweep.parents_dir) / name for name in names}
    for data in opening.rates_of(sweep.data):
        link, target = (Path(read.tokens_directory(str(folder), data)) for folder in (model_dir, sweep.parents_dir))
        links[link] = target
    for link, target in links.items():
        if target.is_dir() and not link.is_symlink():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(target.resolve(), target_is_directory=True)


def plan(sweep: Sweep, proposals: list[dict[str, str]], directory: Path) -> Iterator[str]:
    """Lines that say what the sweep would do."""
    for number, bindings in enumerate(proposals):
        trial = Trial(number, bindings)
        yield f"trial {number} {trial.key}: {', '.join(trial.arguments)}"
    if sweep.kind == "optuna":
        yield f"{sweep.trials} trials, each chosen by the results before it, of"
        for name, values in sweep.space.items():
            yield f"  {name}: {values}"
    first = {name: text(extremes(values)[0]) for name, values in sweep.space.items()}
    example = Trial(0, proposals[0] if proposals else first)
    yield f"in {directory}, each as"
    yield shlex.join(["melody", *train_command(sweep, example, folder(directory, example))])
