"""The legend of dimension letters holds every letter that annotations use, and no others."""

import ast
import pathlib
import re

from melody_jax import shapes

PACKAGE = pathlib.Path(shapes.__file__).parent
TYPES = {"Bool", "Complex", "Float", "Int", "Shaped", "UInt32"}


def _letters(path: pathlib.Path) -> set[str]:
    """Single capitals in the shapes of a file's annotations."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Subscript) and ast.unparse(node.value) in TYPES and isinstance(node.slice, ast.Tuple):
            shape = ast.literal_eval(node.slice.elts[-1])
            found |= set(re.findall(r"\b[A-Z]\b", shape))
    return found


def test_the_legend_is_whole():
    legend = re.findall(r"(?:^ {4}| {2,}|, )([A-Z])\b", shapes.__doc__, re.MULTILINE)
    assert len(legend) == len(set(legend))
    assert set(legend) == set.union(*(_letters(path) for path in PACKAGE.rglob("*.py")))
