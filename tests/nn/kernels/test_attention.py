"""The attention kernel, interpreted, against the plain code beside it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from melody_jax.nn import attention
from melody_jax.nn.kernels import attention as kernel
from melody_jax.parallel import activations, rules
from melody_jax.parallel.mesh import make_mesh


def arrays(batch, width, keys, channels, dtype="float32"):
    shapes = [(batch, width, channels), (batch, keys, channels), (batch, keys, channels), (batch, width, channels)]
    draws = jax.random.split(jax.random.key(0), len(shapes))
    return [jax.random.normal(key, shape).astype(dtype) for key, shape in zip(draws, shapes, strict=True)]


def both(query, key, value, gradient, dim, monkeypatch, **kinds):
    """(result, gradients of query, key and value) of the plain code and of the kernel."""

    def run(query, key, value):
        return attention.multi_head(query, key, value, dim, **kinds)

    found = []
    for fused in (False, True):
        with monkeypatch.context() as patch:
            patch.setattr(activations, "kernels_run", lambda fused=fused: fused)
            patch.setattr(kernel, "fits", lambda *_: True)  # float32 too, which tells more
            y, pull = jax.vjp(run, query, key, value)
            found.append([y, *pull(gradient)])
    return found


CASES = {
    "causal": (2, 12, 12, 128, 32, {"causal": True, "turned": True}),
    "cross": (3, 7, 10, 128, 64, {"turned": True}),
    "masked": (2, 9, 9, 256, 128, {"masked": True}),
    "padded": (2, 9, 9, 128, 64, {"masked": True, "causal": True, "turned": "rows"}),
}


# All queries in a step of the grid, and in steps that do not divide them.
@pytest.mark.parametrize(("name", "block"), [*[(name, 4) for name in CASES], ("cross", 256), ("padded", 256)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_equals_the_plain_code_forwards_and_backwards(name, block, dtype, monkeypatch):
    monkeypatch.setattr(kernel, "BLOCK", block)
    monkeypatch.setattr(kernel, "SCORES", 4096 if block > 4 else 0)
    batch, width, keys, channels, dim, kinds = CASES[name]
    asked = {"causal": kinds.get("causal", False)}
    if kinds.get("turned"):
        rows = jnp.arange(batch if kinds["turned"] == "rows" else 1, dtype=jnp.int32)[:, None]
        asked["positions"] = tuple(3 * rows + jnp.arange(size, dtype=jnp.int32)[None] for size in (width, keys))
    if kinds.get("masked"):
        asked["mask"] = (jnp.arange(keys)[None] < keys - 2 - jnp.arange(batch)[:, None])[:, None, None]
    plain, fused = both(*arrays(batch, width, keys, channels, dtype), dim, monkeypatch, **asked)
    for ours, expected in zip(fused, plain, strict=True):
        assert ours.dtype == expected.dtype
        scale = float(jnp.max(jnp.abs(expected.astype(jnp.float32))))
        tolerance = (2e-5 if dtype == "float32" else 2e-2) * scale
        np.testing.assert_allclose(ours.astype(jnp.float32), expected.astype(jnp.float32), rtol=0, atol=tolerance)


def test_short_rows_share_a_step_and_long_ones_are_cut():
    def layout(batch, width):
        query = jax.ShapeDtypeStruct((batch, width, 256), jnp.bfloat16)
        return kernel._layout(kernel.Spec(64, False, False, False), query, query)

    assert layout(16, 262) == (1, 262, 128, (16, 2, 1))
    assert layout(16, 80) == (2, 80, 128, (8, 2, 1))  # 3 rows would fit, but 16 is no multiple of 3
    assert layout(8, 1190) == (1, 256, 128, (8, 2, 5))


def test_heads_that_do_not_fill_lanes_stay_with_xla():
    def fits(width, dim, keys, dtype="bfloat16"):
        return kernel.fits(width, dim, keys, dtype)

    mesh = make_mesh("tensor=2", jax.devices()[:2])
    assert not fits(256, 64, 100, "float32")
    assert fits(256, 64, 100) and fits(128, 32, 100) and fits(256, 256, 100)
    assert not fits(256, 64, 2049) and not fits(256, 32, 1025)
    assert not fits(96, 48, 100) and not fits(64, 32, 100) and not fits(192, 64, 100)
    with activations.placed(mesh, tuple(rules.RULES.items())):
        assert fits(256, 64, 100)
        assert not fits(128, 64, 100), "one chip would hold half of the lanes"


def test_each_chip_runs_it_on_the_rows_and_heads_that_it_holds(monkeypatch):
    query, key, value, gradient = arrays(4, 6, 6, 256)
    at = jnp.arange(6, dtype=jnp.int32)[None]
    asked = {"causal": True, "positions": (at, at), "mask": (at < 5)[:, None, None]}

    def run(query, key, value, gradient):
        y, pull = jax.vjp(lambda *x: attention.multi_head(*x, 64, **asked), query, key, value)
        return y, *pull(gradient)

    plain = run(query, key, value, gradient)
    mesh = make_mesh("data=2,tensor=2", jax.devices()[:4])
    monkeypatch.setattr(activations, "kernels_run", lambda: True)
    monkeypatch.setattr(kernel, "fits", lambda *_: True)
    split = jax.jit(rules.on_mesh(run, mesh))(query, key, value, gradient)
    for ours, expected in zip(split, plain, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=2e-5)
    assert split[0].sharding.spec == jax.sharding.PartitionSpec("data", None, "tensor")


def test_kernels_run_on_tpus_whose_mesh_is_known(monkeypatch):
    assert not activations.kernels_run(), "there are only CPUs here"
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert activations.on_tpu() and not activations.kernels_run(), (
        "eight devices, and nobody tells how arrays are split"
    )
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    assert activations.kernels_run()
    with activations.off_tpu():
        assert not activations.kernels_run()
    with activations.placed(make_mesh("data=2", jax.devices()[:2]), tuple(rules.RULES.items())):
        assert not activations.kernels_run(), "the mesh is of CPUs"
