"""Communication and memory as read from compiled programs whose answer is known."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from melody_jax.ahead.program import bytes_per_chip, collectives_of, cost_of
from melody_jax.parallel.mesh import make_mesh


def compiled(function, *shapes, mesh, specs, out=None):
    layouts = [NamedSharding(mesh, spec) for spec in specs]
    arguments = [
        jax.ShapeDtypeStruct(shape, jnp.float32, sharding=layout) for shape, layout in zip(shapes, layouts, strict=True)
    ]
    return jax.jit(function, out_shardings=NamedSharding(mesh, out or PartitionSpec())).lower(*arguments).compile()


def test_a_sum_over_devices_is_one_reduction_of_its_result():
    program = compiled(
        lambda x, w: x @ w,
        (16, 64),
        (64, 32),
        mesh=make_mesh("tensor=8"),
        specs=[PartitionSpec(None, "tensor"), PartitionSpec("tensor", None)],
    )
    assert cost_of(program).collectives == {"all-reduce": (1, 16 * 32 * 4)}


def test_a_parameter_that_is_gathered_counts_whole():
    program = compiled(
        lambda x, w: x @ w,
        (16, 64),
        (64, 32),
        mesh=make_mesh("fsdp=8"),
        specs=[PartitionSpec("fsdp"), PartitionSpec("fsdp")],
        out=PartitionSpec("fsdp"),
    )
    assert cost_of(program).collectives == {"all-gather": (1, 64 * 32 * 4)}


def test_what_a_loop_sends_counts_as_often_as_it_runs():
    def loop(x, w):
        return jax.lax.scan(lambda carry, one: (jnp.tanh(carry @ one), None), x, w)[0]

    program = compiled(
        loop,
        (16, 64),
        (5, 64, 64),
        mesh=make_mesh("tensor=8"),
        specs=[PartitionSpec(), PartitionSpec(None, "tensor", None)],
    )
    found = cost_of(program).collectives
    assert found["all-reduce"] == (5, 5 * 16 * 64 * 4)


def test_an_asynchronous_collective_counts_once_and_by_its_result():
    text = """HloModule m

ENTRY %main (p: f32[8,4]) -> f32[32,4] {
  %p = f32[8,4]{1,0} parameter(0)
  %s = (f32[8,4]{1,0}, f32[32,4]{1,0}) all-gather-start(f32[8,4]{1,0} %p), replica_groups={}, dimensions={0}
  ROOT %d = f32[32,4]{1,0} all-gather-done((f32[8,4]{1,0}, f32[32,4]{1,0}) %s)
}
"""
    assert collectives_of(text) == {"all-gather": (1, 32 * 4 * 4)}


def test_bytes_of_a_state_are_those_of_one_chip():
    mesh = make_mesh("fsdp=4,tensor=2")
    split = jax.ShapeDtypeStruct((8, 6), np.float32, sharding=NamedSharding(mesh, PartitionSpec("fsdp", "tensor")))
    whole = jax.ShapeDtypeStruct((10,), np.dtype("bfloat16"), sharding=NamedSharding(mesh, PartitionSpec()))
    assert bytes_per_chip({"a": split, "b": whole}) == 2 * 3 * 4 + 10 * 2


def test_memory_is_arguments_results_and_what_lies_between():
    mesh = make_mesh("data=1", jax.devices()[:1])
    specs = [PartitionSpec()]
    cost = cost_of(compiled(lambda x: jnp.sort(x @ x.T, axis=0)[:4], (256, 256), mesh=mesh, specs=specs))
    assert cost.argument_bytes == 256 * 256 * 4
    assert cost.output_bytes == 4 * 256 * 4
    assert cost.peak_bytes == cost.argument_bytes + cost.output_bytes + cost.temporary_bytes
    assert cost.temporary_bytes >= 256 * 256 * 4
    assert cost.flops >= 2 * 256**3
