"""Composition of a run's configuration with gin: stage, size, hardware, then the user's files and bindings.

gin binds `stage` and `run` of `melody_jax.train.loop.train` and what they receive, by dynamic registration; no library below
knows of it.
"""

import ast
import dataclasses
import difflib
import inspect
import io
import json
import os
import re
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import gin
import jax
from gin import config as gin_config

import melody_jax
from melody_jax import config as config_lib
from melody_jax.errors import UserError, refuse_addresses
from melody_jax.files import read_text
from melody_jax.generate.settings import Settings, with_settings
from melody_jax.train import loop
from melody_jax.train.run import Run
from melody_jax.train.stage import Stage


def _opened(path: str) -> io.StringIO:
    """A gin file for gin, which takes its name from the attribute `name`."""
    text = io.StringIO(read_text(path))
    text.name = path  # pyright: ignore[reportAttributeAccessIssue]
    return text


# instead of `open`, which does not say what it cannot read
gin_config._FILE_READERS[0] = (_opened, os.path.isfile)  # pyright: ignore[reportArgumentType, reportCallIssue]

HARDWARE_MACROS = frozenset({"DTYPE"})
"""Macros of configs/hardware that a stage may leave unread."""

_TELLING = (
    ValueError,
    SyntaxError,
    TypeError,
    RuntimeError,
    ImportError,
    AttributeError,
    OSError,
)  # by their text alone
_TRAIN = f"{loop.__name__}.{loop.train.__name__}"


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """A composed configuration.

    Attributes:
      stage: the stage object.
      run: how it is trained.
      text: all of it as a gin file that makes the same run.
      ignored: those of the user's bindings that nobody reads in this run.
    """

    stage: Stage
    run: Run
    text: str
    ignored: frozenset[str]


def configs_directory() -> Path:
    """Where the gin files are: in the repository, or where the installed package put them."""
    repository = Path(melody_jax.__file__).parents[1] / "configs"
    installed = Path(sys.prefix) / "share" / "melody_jax" / "configs"
    for directory in (repository, installed):
        if (directory / "stages").is_dir():
            return directory
    raise UserError(f"the gin files are neither in {repository} nor in {installed}; install melody_jax again")


def sizes() -> list[str]:
    """Names of the sizes."""
    return sorted(path.parent.name for path in (configs_directory() / "sizes").glob("*/geometry.gin"))


def hardware_file(name: str) -> Path:
    """The file of configs/hardware of this name; for "auto" that of what there is.

    Raises:
      UserError: there is none.
    """
    folder = configs_directory() / "hardware"
    name = _detected() if name == "auto" else name
    _check_choice("hardware", name, sorted(path.stem for path in folder.glob("*.gin")))
    return folder / f"{name}.gin"


def _detected() -> str:
    backend = jax.default_backend()
    if backend != "cpu":
        return "tpu" if backend == "tpu" else "gpu"
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        flags = ""
    return "cpu_amx" if "amx_bf16" in flags else "cpu"


def gin_files(stage: str, size: str, hardware: str) -> list[Path]:
    """The files of a run, in the order in which they are read; later ones win.

    Raises:
      UserError: no such stage, size or hardware.
    """
    root = configs_directory()
    choices = {
        "stage": (stage, sorted(path.stem for path in (root / "stages").glob("*.gin"))),
        "size": (size, sizes()),
    }
    for kind, (name, known) in choices.items():
        _check_choice(kind, name, known)
    files = [
        root / "stages" / f"{stage}.gin",
        root / "sizes" / size / "geometry.gin",
        root / "sizes" / size / f"{stage}.gin",
        hardware_file(hardware),
    ]
    if not files[2].exists():
        raise UserError(f"stage {stage} has no configuration for size {size} ({files[2]} is missing)")
    return files


def find(file: str | Path) -> Path:
    """The gin file of this path, or of this path in configs/.

    Raises:
      UserError: there is neither.
    """
    for path in (Path(file), configs_directory() / file):
        if path.is_file():
            return path
    raise UserError(f"gin file {file} does not exist")


def sampling_defaults(size: str) -> dict[str, Any]:
    """The fields of `Settings` that configs/sizes/SIZE/sampling.gin binds; none without such a file.

    Raises:
      UserError: no such size, or a wrong file.
    """
    _check_choice("size", size, sizes())
    file = configs_directory() / "sizes" / size / "sampling.gin"
    if not file.exists():
        return {}
    gin.clear_config()
    explained(lambda: gin.parse_config_file(str(file)))
    return dict(explained(lambda: gin.get_bindings(Settings)))


def sampling_of(size: str | None, items: Sequence[str]) -> dict[str, Any]:
    """Defaults for sampling: the size's (`sampling_defaults`), and those of `--sampling name=value` items, values as in JSON.

    Raises:
      UserError: no such size, or no such setting.
    """
    chosen = sampling_defaults(size) if size else {}
    for item in items:
        name, equals, value = item.partition("=")
        if not equals:
            raise UserError(f"--sampling {item}: write NAME=VALUE")
        try:
            chosen[name] = json.loads(value)
        except ValueError:
            chosen[name] = value
    with_settings(Settings(), chosen)
    return chosen


def compose(
    files: Sequence[Path], user_files: Sequence[str] = (), bindings: Sequence[str] = (), *, partial: bool = False
) -> RunConfig:
    """Reads the files, then the user's, then the bindings "name = value", and builds what they describe.

    Replaces whatever gin held before.

    Args:
      partial: the user's bindings serve several stages, so names that this one does not know are no error here.

    Raises:
      UserError: a file is missing or wrong, a binding is no binding, names nothing or (unless `partial`) is read by
        nobody, a value is of a wrong type, or the training would end before the stage has begun (`Stage.check`).
    """
    gin.clear_config()
    for file in [*files, *map(Path, user_files)]:
        path = find(file)
        explained(lambda path=path: gin.parse_config_file(str(path.absolute())))
    for binding in bindings:
        _parse(binding, partial)
    explained(gin.finalize)
    config_lib.check_values(Run, explained(lambda: gin.get_bindings(loop.Run)))  # before it is made of them
    arguments = explained(lambda: gin.get_bindings(loop.train))
    if set(arguments) != {"stage", "run"}:
        raise UserError("the configuration binds no loop.train.stage or no loop.train.run")
    for name, kind in (("stage", Stage), ("run", Run)):
        if not isinstance(arguments[name], kind):
            raise UserError(f"loop.train.{name} is bound to {arguments[name]!r:.60}, which is no {kind.__name__}")
    ignored = frozenset(binding for binding in bindings if not _is_read(binding))
    if ignored and not partial:
        refuse_ignored(ignored)
    text = _text()
    refuse_addresses(re.sub(r"\\?\n\s+", " ", text).splitlines())  # a binding may take several lines
    config_lib.check_types(arguments["stage"])
    arguments["stage"].check(arguments["run"].total_steps)
    return RunConfig(**arguments, text=text, ignored=ignored)


def refuse_ignored(ignored: Collection[str]) -> None:
    """Raises UserError where there is a binding that nobody reads."""
    if ignored:
        name = min(ignored)
        raise UserError(f"nobody reads {name!r}{_nearest(name)}; melody config prints the names in use")


def _parse(binding: str, partial: bool) -> None:
    """Reads one binding; a name that gin does not know is answered with the nearest one that it does."""
    try:
        explained(lambda: gin.parse_config(binding, skip_unknown=partial))
    except UserError as error:
        unknown = "No configurable" in str(error) or "have a parameter" in str(error)
        raise UserError(f"{error}{_nearest(binding)}" if unknown else str(error)) from error


def _nearest(binding: str) -> str:
    """ " (did you mean NAME?)" where a parameter or macro of the configuration is called much like that of "name = value"."""
    known = {scope for scope, selector in gin_config._CONFIG if selector == "gin.macro"}
    for selector, configurable in gin_config._REGISTRY.items():
        if selector.startswith("gin."):
            continue
        owner = ".".join(selector.split(".")[-2:])
        known |= {f"{owner}.{parameter}" for parameter in inspect.signature(configurable.wrapped).parameters}
    name = binding.partition("=")[0].strip()
    found = difflib.get_close_matches(name, sorted(known - {name}), 1)
    return f" (did you mean {found[0]}?)" if found else ""


def unread() -> list[str]:
    """Configurables ("scope/selector") and macros that are bound, but that building the stage did not read."""
    # gin has no public view of these two tables; its own tests compare them too.
    keys = gin_config._CONFIG.keys() - gin_config._OPERATIVE_CONFIG.keys()
    names = {
        scope if selector == "gin.macro" else "/".join(filter(None, (scope, selector))) for scope, selector in keys
    }
    return sorted(names - {_TRAIN} - HARDWARE_MACROS)


def _check_choice(kind: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        raise UserError(f"unknown {kind} {name!r}; choose one of {', '.join(known)}")


def _is_read(binding: str) -> bool:
    """Whether building the stage, or calling the loop, reads the parameter or macro of "name = value"."""
    name = binding.partition("=")[0].strip()
    scope, _, selector = name.rpartition(".")[0].rpartition("/")
    if not selector:
        return (name, "gin.macro") in gin_config._OPERATIVE_CONFIG
    read = [full for known, full in gin_config._OPERATIVE_CONFIG if known == scope]
    return any(f".{full}".endswith(f".{selector}") for full in [*read, *([] if scope else [_TRAIN])])


def binding_of(argument: str) -> str:
    """The gin binding of `--set name=value`; a value that is no Python literal, @reference or %macro is a string.

    Raises:
      UserError: there is no "=".
    """
    name, equals, value = (word.strip() for word in argument.partition("="))
    if not equals or not name or not value:
        raise UserError(f"--set {argument!r}: expected binding=value")
    if not value.startswith(("@", "%")):
        try:
            ast.literal_eval(value)
        except (ValueError, SyntaxError):
            value = repr(value)
    return f"{name} = {value}"


def _text() -> str:
    """Everything that was read, with defaults, and the arguments of the loop."""
    whole = gin.config_str().split("\n# Parameters for ")
    own = [f"\n# Parameters for {section}" for section in whole if section.startswith("loop.train:")]
    return "\n".join([gin.operative_config_str().rstrip(), *own]) + "\n"


def explained(action: Callable[[], Any], what: str = "configuration") -> Any:
    """What `action` returns; gin's errors become a UserError of one sentence about `what`: the reason and the place."""
    try:
        return action()
    except UserError as error:
        raise UserError(str(error).partition("\n")[0]) from error  # gin has added where it was
    except Exception as error:  # a constructor may raise anything for a value that a user bound
        told = str(error) if isinstance(error, _TELLING) else repr(error)
        lines = [line.strip() for line in told.splitlines() if line.strip()]
        raise UserError(f"{what}: {' '.join(lines[:3])}") from error
