"""The import law: what may import what. ARCHITECTURE.md draws it; this file holds it."""

import ast
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "melody_jax"
MAP = (ROOT / "ARCHITECTURE.md").read_text()
# Top to bottom; the names of one line never import each other.
LAYERS = [
    {"errors", "libtpu", "shapes", "graph", "samples", "__init__"},
    {"storage"},
    {"files", "lock"},
    {"precompiled"},
    {"config", "geometry", "dsp"},
    {"parallel"},
    {"nn"},
    {"autoencoder", "mulan", "semantic"},
    {"codes"},
    {"lm"},
    {"dpd"},
    {"bundle"},
    {"system"},
    {"watch"},
    {"train"},
    {"stages"},
    {"interop"},
    {"generate"},
    {"evaluate", "serve"},
    {"listening"},
    {"operations"},
    {"cli"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
FILES = sorted(PACKAGE.rglob("*.py"))
T5X = PACKAGE / "interop" / "t5x.py"
# Given music, uploads and data sets have one reader, which needs no TensorFlow.
READERS = {PACKAGE / "generate" / "sound_file.py", PACKAGE / "serve" / "upload.py"}
DRAINS = {"utils", "util", "common", "misc", "helpers"}


def _imports(path: pathlib.Path) -> set[str]:
    """Full dotted names of all that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def _unit(path: pathlib.Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_only_point_up(path):
    own = _unit(path)
    assert own in LEVEL, f"{own} has no place in the order of layers"
    for name in _imports(path):
        parts = name.split(".")
        if parts[0] != "melody_jax" or len(parts) < 2 or parts[1] == own:
            continue
        target = parts[1] if parts[1] in LEVEL else "__init__"
        assert LEVEL[target] < LEVEL[own], f"{path.name} ({own}) imports {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_tensorflow_and_gin_only_in_operations(path):
    banned = {
        "tensorflow",
        "tensorflow_datasets",
        "tensorflow_text",
        "seqio",
        "gin",
        "data_pipelines",
        "launch",
        "clu",
        "t5x",
    }
    if _unit(path) == "operations":
        banned -= {"gin", "data_pipelines"}
    if _unit(path) == "cli":
        banned -= {"data_pipelines", "launch"}
    if path in READERS:
        banned -= {"data_pipelines"}
    if path == T5X:
        banned -= {"t5x"}
    found = {name.split(".")[0] for name in _imports(path)} & banned
    assert not found, f"{path.name} imports {found}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_file_that_needs_t5x_is_imported_by_gin_files_only(path):
    """T5X imports TensorFlow and gin itself: nothing of ours may bring it in."""
    assert not {name for name in _imports(path) if f"{name}.".startswith("melody_jax.interop.t5x.")}


@pytest.mark.parametrize("path", sorted((ROOT / "launch").glob("*.py")), ids=lambda path: path.stem)
def test_launchers_start_without_jax(path):
    ours = {name for name in _imports(path) if name.split(".")[0] in {"melody_jax", "data_pipelines", "jax"}}
    light = ("melody_jax.config.", "melody_jax.errors.", "melody_jax.files.", "melody_jax.libtpu.")
    foreign = {name for name in ours if not f"{name}.".startswith(light)}
    assert not foreign, f"{path.name} imports {foreign}"


def test_every_folder_of_code_is_installed():
    """A folder without __init__.py works in a clone and is missing after `pip install`."""
    files = [path for folder in ("data_pipelines", "launch", "melody_jax") for path in (ROOT / folder).rglob("*.py")]
    assert {path.parent for path in files if not (path.parent / "__init__.py").is_file()} == set()


def test_no_drains():
    folders = [PACKAGE, ROOT / "data_pipelines", ROOT / "launch", ROOT / "tests"]
    names = [path for folder in folders for path in folder.rglob("*") if path.stem in DRAINS]
    assert not names, f"name these after what they hold: {names}"


def _files_named(path: str) -> list[pathlib.Path]:
    folders = ("configs", "data_pipelines", "docs", "launch", "melody_jax", "tests")
    found = [file for folder in folders for file in (ROOT / folder).rglob(pathlib.Path(path).name)]
    return [file for file in found if str(file).endswith(f"/{path}")]


def test_the_map_names_files_that_are_there():
    named = {path for path in re.findall(r"`([\w./]+\.(?:py|gin|md))`", MAP) if path == path.lower()}  # STAGE is any
    assert len(named) > 150
    assert sorted(path for path in named if not _files_named(path)) == []


def test_the_map_names_functions_that_are_there():
    """As `dpd/sampler.sample` names them."""
    named = set(re.findall(r"`(?:\w+/)+\w+\.(?!py`|gin`|md`)\w+`", MAP))
    assert len(named) > 10
    absent = []
    for module, name in (word.strip("`").rsplit(".", 1) for word in named):
        files = _files_named(f"{module}.py")
        if not any(re.search(rf"^(?: {{4}})?(?:def |class )?{name}\b", file.read_text(), re.M) for file in files):
            absent.append(f"{module}.{name}")
    assert absent == []
