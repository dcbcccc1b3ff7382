"""docs/sampler.md, executed."""

import pathlib
import re

import jax.numpy as jnp

from melody_jax.dpd import angles, sampler

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "sampler.md"


def test_the_sampler_of_the_page_is_of_second_order():
    names = {}
    for block in re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL):
        exec(block, names)
    miss, noise, denoise = names["miss"], names["noise"], names["gaussian"](0.3)
    ours = {
        count: float(jnp.abs(sampler.sample(denoise, noise, angles.schedule("uniform", count)) - 0.3 * noise).max())
        for count in miss
    }
    assert miss[4] > 3 * miss[8] > 9 * miss[16]
    assert ours[4] > 1.5 * ours[8] > 2.25 * ours[16] and ours[8] < 3 * ours[16]
    assert miss[16] < 0.2 * ours[16]
