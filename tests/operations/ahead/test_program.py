"""Communication and memory as read from compiled programs whose answer is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from melody_jax.operations.ahead.program import Program, bytes_per_chip, cost_of
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
    assert cost_of(program).collectives == {
        "all-reduce": (1, round(2 * 7 / 8 * 16 * 32 * 4))
    }  # there and back around the ring


def test_a_parameter_that_is_gathered_counts_whole():
    program = compiled(
        lambda x, w: x @ w,
        (16, 64),
        (64, 32),
        mesh=make_mesh("fsdp=8"),
        specs=[PartitionSpec("fsdp"), PartitionSpec("fsdp")],
        out=PartitionSpec("fsdp"),
    )
    assert cost_of(program).collectives == {"all-gather": (1, 64 * 32 * 4 * 7 // 8)}  # its own eighth it has


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
    assert found["all-reduce"] == (5, 5 * round(2 * 7 / 8 * 16 * 64 * 4))


# What the TPU compiler writes, shortened: a gather that is sent piece by piece in fusions beside products, one of them in a
# loop of 24 rounds, whose bound only its condition tells; a ring of permutations of a loop in the loop.
TPU = """HloModule m, is_scheduled=true, num_partitions=16

%async_collective_fusion.1 (p: f32[8,4]) -> f32[32,4] {
  %p = f32[8,4]{1,0} parameter(0)
  ROOT %g = f32[32,4]{1,0} all-gather(%p), channel_id=7, replica_groups=[4,4]<=[16], dimensions={0}
}

%all-reduce-scatter.2 (p: f32[16,8]) -> f32[16,2] {
  %p = f32[16,8]{1,0} parameter(0)
  %whole = f32[16,8]{1,0} all-reduce(%p), channel_id=1, replica_groups={{0,1,2,3}}, to_apply=%add
  ROOT %own = f32[16,2]{1,0} dynamic-slice(%whole, %zero, %i)
}

%inner.condition (c: (u32[])) -> pred[] {
  %four = u32[]{:T(128)} constant(4)
  %c = (u32[]{:T(128)}) parameter(0)
  %count = u32[]{:T(128)} get-tuple-element(%c), index=0
  ROOT %less = pred[]{:T(512)} compare(%count, %four), direction=LT
}

%inner (i: (u32[])) -> (u32[]) {
  %i = (u32[]) parameter(0)
  %send = (bf16[16,4]{1,0}, bf16[16,4]{1,0}) collective-permute-start(%x), channel_id=9, source_target_pairs={{0,1}}
  %product = bf16[16,4]{1,0} fusion(%i), kind=kOutput, calls=%other, backend_config={"estimated_cycles":"10"}
  ROOT %r = (u32[]) tuple(%i)
}

%other (o: u32[]) -> bf16[16,4] {
  %o = u32[] parameter(0)
  ROOT %b = bf16[16,4]{1,0} broadcast(%o), backend_config={"estimated_cycles":"99"}
}

%condition (c: (s32[])) -> pred[] {
  %rounds = s32[]{:T(128)} constant(24)
  %c = (s32[]{:T(128)}) parameter(0)
  %count = s32[]{:T(128)} get-tuple-element(%c), index=0
  ROOT %less = pred[]{:T(512)} compare(%count, %rounds), direction=LT
}

%body (b: (s32[])) -> (s32[]) {
  %b = (s32[]) parameter(0)
  %f = f32[32,4]{1,0} fusion(%b), kind=kCustom, calls=%async_collective_fusion.1, backend_config={"estimated_cycles":"100"}
  %w = (u32[]) while(%b), condition=%inner.condition, body=%inner
  ROOT %r = (s32[]) tuple(%b)
}

ENTRY %main (p: f32[8,4]) -> f32[32,4] {
  %p = f32[8,4]{1,0} parameter(0)
  %first = f32[32,4]{1,0} fusion(%p), kind=kCustom, calls=%async_collective_fusion.1, backend_config={"estimated_cycles":"1000"}
  %s = (f32[8,4]{1,0}, f32[32,4]{1,0}) all-gather-start(%p), replica_groups={{0,1,2,3}}, dimensions={0}
  %sort = f32[6]{0} fusion(%p), kind=kLoop, calls=%other, backend_config={"estimated_cycles":"9223372036854775807"}
  %shares = f32[16,2]{1,0} fusion(%p), kind=kCustom, calls=%all-reduce-scatter.2
  %sum = (f32[6]{0}, f32[]) all-reduce(%p, %q), channel_id=8, replica_groups=mesh['a'=2,'b'=8] {'b'}, to_apply=%add
  %all = f32[30]{0} all-reduce(%p), channel_id=10, replica_groups={}, to_apply=%add
  %turned = f32[64]{0} all-reduce(%p), channel_id=11, replica_groups=mesh['a'=2,'b'=8], device_ids=([8,2]T(1,0)) {'a'}
  %loop = (s32[]) while(%p), condition=%condition, body=%body
  ROOT %d = f32[32,4]{1,0} all-gather-done(%s)
}
"""


def test_what_a_tpu_does_at_once_and_in_loops_counts_as_often_as_it_runs():
    program = Program(TPU)
    # what a fusion's parts would cost alone is not added to it; one operation has no estimate
    assert program.cycles() == (1000 + 24 * (100 + 4 * 10), 1)
    gathered = 2 * round(32 * 4 * 4 * 3 / 4)  # the asynchronous one, and the one in pieces, once each
    assert program.collectives() == {
        "all-gather": (2, gathered),
        "all-reduce": (3, round(2 * 7 / 8 * 7 * 4) + round(2 * 15 / 16 * 30 * 4) + 64 * 4),  # of 8, of all 16, of 2
        "reduce-scatter": (1, 16 * 8 * 4 * 3 // 4),
        "collective-permute": (24 * 4, 24 * 4 * 16 * 4 * 2),
    }
    # the gathers and permutations stand in asynchronous fusions or have a start: beside them something runs
    assert program.collectives(blocking=True) == {
        kind: found for kind, found in program.collectives().items() if kind in ("all-reduce", "reduce-scatter")
    }
    assert program.network_bytes() == 0


# What it writes of a sum over slices: through the hosts, of what a chip has left of it within its slice.
SLICES = """HloModule m, is_scheduled=true, num_partitions=32

ENTRY %main (p: f32[256,8,128]) -> f32[256,8,128] {
  %send = (f32[256,8,128]{2,1,0}, u32[], token[]) send(%p, %after), channel_id=2, is_host_transfer=true, ATTRIBUTES
  %recv = (f32[256,8,128]{2,1,0}, u32[], token[]) recv(%after), channel_id=1, is_host_transfer=true, ATTRIBUTES
  %done = (f32[256,8,128]{2,1,0}, token[]) recv-done(%recv), channel_id=1, is_host_transfer=true, ATTRIBUTES
}
"""


@pytest.mark.parametrize(("slices", "times"), [("1,2", 1.0), ("1:4", 1.5), ("1,2,3", 4 / 3)])
def test_what_goes_between_slices_is_counted_by_itself(slices, times):
    attributes = (
        'frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime",'
        f'_xla_megascale_reduce_operation="SUM",_xla_megascale_target="{{{slices}}}x{{0:15}}"}}'
    )
    program = Program(SLICES.replace("ATTRIBUTES", attributes))
    assert program.network_bytes() == round(times * 256 * 8 * 128 * 4)
    assert program.collectives() == {}


KERNEL = """HloModule m

%body (p: (s32[])) -> (s32[]) {
  %attention_forward_8_steps.3 = bf16[4,8,128]{2,1,0} custom-call(%a, %b), CALL
}

%condition (p: (s32[])) -> pred[] {
  %c = s32[]{:T(128)} constant(24)
  ROOT %lt = pred[]{:T(512)} compare(%i, %c), direction=LT
}

ENTRY %main (p: f32[8,4]) -> f32[32,4] {
  %loop = (s32[]) while(%p), condition=%condition, body=%body
  ROOT %other = f32[2]{0} custom-call(%p), custom_call_target="tpu_custom_call", operand_layout_constraints={f32[2]{0}}
}
""".replace(
    "CALL",
    'custom_call_target="tpu_custom_call", operand_layout_constraints={bf16[4,8,128]{2,1,0}, f32[1,8,128]{2,1,0}}, '
    'frontend_attributes={kernel_metadata={}}, backend_config={"custom_call_config":{"body":"f32[1000]"}}',
)


def test_a_kernel_takes_its_schedule_or_the_time_of_its_bytes():
    moved = 4 * 8 * 128 * 2 * 2 + 8 * 128 * 4  # what it is given and what it returns
    program, kernels = Program(KERNEL), {"attention_forward_8_steps": 900}
    assert program.cycles() == (0, 2)
    assert program.cycles(kernels) == (24 * 900, 1)
    assert program.cycles(kernels, bytes_per_cycle=10.0) == (24 * round(moved / 10), 1)


def test_operations_are_told_by_their_place_in_the_model():
    names = {
        "first": "jit(train_step)/jvp(LM)/LM._forward/while/body/closed_call/layers/mlp/in/in.parts/dot_general",
        "inner": "jit(train_step)/transpose(jvp(LM))/LM._forward/while/body/closed_call/layers/mlp/in/dot_general",
        "body": "jit(train_step)/jvp()/jit(_uniform)/add.12",
    }
    cycles = {"first": '"1000"', "inner": '"10"', "body": '"100"'}  # as in TPU: run 1, 24 x 4 and 24 times
    text = TPU
    for key, name in names.items():
        estimate = f'backend_config={{"estimated_cycles":{cycles[key]}}}'
        assert text.count(estimate) == 1
        text = text.replace(estimate, f'metadata={{op_type="x" op_name="{name}"}}, {estimate}')
    assert Program(text).costliest(3) == (
        ("add", 24, 2400),
        ("LM/layers/mlp/in dot_general", 1, 1000),
        ("LM/layers/mlp/in dot_general backwards", 96, 960),
    )
    assert Program(TPU).costliest(9) == (("elsewhere", 24 + 1 + 96 + 1, 2400 + 1000 + 960),)


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
    assert cost.cycles == 0  # CPUs have no estimate
