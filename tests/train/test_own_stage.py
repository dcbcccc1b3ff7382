"""docs/stage.md, executed."""

import pathlib
import re

from melody_jax.bundle.part import load_part
from melody_jax.files import read_lines

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "stage.md"


def test_the_stage_of_the_page_trains_and_learns(tmp_path):
    names = {"model_dir": str(tmp_path), "__name__": __name__}
    for block in re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL):
        exec(block, names)
    folder = tmp_path / "loudness"
    assert load_part(folder).id == names["part"].id
    losses = [record["loss"] for record in read_lines(folder / "metrics.jsonl") if record["split"] == "train"]
    assert len(losses) == 4 and losses[-1] < 0.5 * losses[0]
