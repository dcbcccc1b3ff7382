"""Mesh specifications, the table of rules, sharded initialisation and batch placement on 8 virtual devices."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import PartitionSpec

from melody_jax.errors import UserError
from melody_jax.parallel.batch import HostShard, host_shard, place_batch
from melody_jax.parallel.init import gathered, place, sharded_init, spread
from melody_jax.parallel.mesh import make_mesh, parse_mesh
from melody_jax.parallel.rules import shardings, spec_for


@pytest.mark.parametrize(
    ("spec", "sizes"),
    [
        ("", (1, 1, 1, 1)),
        ("data=-1", (1, 8, 1, 1)),
        ("data=-1,fsdp=4,tensor=2", (1, 1, 4, 2)),
        ("replica=2, fsdp=2, data=2", (2, 2, 2, 1)),
        ("tensor=-1,data=2", (1, 2, 1, 4)),
    ],
)
def test_mesh_is_parsed(spec, sizes):
    assert tuple(parse_mesh(spec, 1 if not spec else 8).values()) == sizes


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("dat=2", "unknown axis 'dat'; the axes are replica, data, fsdp, tensor"),
        ("data=2,data=4", "axis data is given twice"),
        ("data=two", "the size of data is 'two', not an integer"),
        ("data", "the size of data is '', not an integer"),
        ("data=0", "must be positive"),
        ("data=-1,fsdp=-1", "only one axis can be -1, not data and fsdp"),
        ("data=4", "needs 4 devices and there are 8"),
        ("data=-1,fsdp=3", "needs a multiple of 3 devices and there are 8"),
        ("data=-1,fsdp=16", "needs a multiple of 16 devices and there are 8"),
    ],
)
def test_a_bad_mesh_is_explained(spec, message):
    with pytest.raises(UserError, match=message):
        parse_mesh(spec, 8)


@dataclasses.dataclass(frozen=True)
class SliceDevice:
    """What mesh_utils asks of a device."""

    id: int
    slice_index: int
    platform: str = "gpu"
    device_kind: str = "a chip without neighbours"
    process_index: int = 0


@pytest.mark.parametrize(("spec", "axis"), [("replica=2,fsdp=4", 0), ("data=4,tensor=2", 1), ("replica=4,data=2", 0)])
def test_slices_lie_along_replica_or_data(spec, axis):
    """In whatever order the devices come, the slow network is crossed along one axis alone."""
    devices = [SliceDevice(id, id % 2) for id in range(8)]
    grid = make_mesh(spec, devices).devices
    index = np.vectorize(lambda device: device.slice_index)(grid)
    halves = np.split(index, 2, axis=axis)
    assert (halves[0] == 0).all() and (halves[1] == 1).all()


def test_slices_that_fit_no_axis_are_refused():
    devices = [SliceDevice(id, id // 4) for id in range(8)]
    with pytest.raises(UserError, match="2 slices want replica=2, or a multiple of it on data"):
        make_mesh("fsdp=8", devices)


def test_rules_refuse_collisions_and_unknown_axes():
    assert spec_for(("layers", "embed", "mlp")) == PartitionSpec(None, "fsdp", "tensor")
    assert spec_for(("batch", None)) == PartitionSpec(("replica", "data", "fsdp"), None)
    with pytest.raises(UserError, match="lm/kernel .*'mlp' and 'heads' both lie on mesh axis tensor"):
        spec_for(("mlp", "heads"), parameter="lm/kernel")
    with pytest.raises(UserError, match="'width' is not in the table"):
        spec_for(("width",))


def _init(key):
    def kernel(shape, *names):
        return nn.LogicallyPartitioned(jax.random.normal(key, shape), names)

    return {"block": {"in": kernel((8, 12), "embed", "mlp"), "bias": kernel((12,), "mlp")}, "step": jnp.int32(0)}


def test_a_dimension_that_does_not_divide_is_named_in_one_sentence():
    abstract = jax.eval_shape(_init, jax.random.PRNGKey(0))
    with pytest.raises(UserError) as error:
        shardings(abstract, make_mesh("tensor=8"))
    assert str(error.value) == "block/bias: dimension 0 (mlp) of size 12 does not divide over tensor=8"


def test_a_dimension_of_one_stays_whole():
    box = nn.LogicallyPartitioned(jax.ShapeDtypeStruct((4, 1, 16), jnp.float32), ("time", "conv_in", "conv_out"))
    assert shardings(box, make_mesh("fsdp=4,tensor=2")).spec == PartitionSpec(None, None, "tensor")


def test_sharded_init_splits_every_array_and_keeps_the_numbers():
    key = jax.random.PRNGKey(3)
    state = sharded_init(_init, key, make_mesh("data=1,fsdp=2,tensor=4"))
    assert state["block"]["in"].addressable_shards[0].data.shape == (4, 3)
    assert state["block"]["bias"].addressable_shards[0].data.shape == (3,)
    assert state["step"].sharding.is_fully_replicated
    np.testing.assert_allclose(state["block"]["in"], nn.unbox(_init(key))["block"]["in"], rtol=1e-6)


def test_place_splits_host_arrays_and_keeps_what_lies_right():
    mesh = make_mesh("fsdp=8")
    sharding = jax.sharding.NamedSharding(mesh, PartitionSpec("fsdp"))
    placed = place(np.arange(16), sharding)
    np.testing.assert_array_equal(placed, np.arange(16))
    assert placed.addressable_shards[0].data.shape == (2,)
    assert place(placed, sharding) is placed


@pytest.mark.parametrize(
    ("spec", "axes", "split"),
    [
        ("data=8", (None, None), True),
        ("data=4,fsdp=2", ("fsdp", None), True),
        ("replica=2,data=2,fsdp=2", (None, "fsdp"), True),
        ("fsdp=8", ("fsdp", None), True),
        ("data=4,fsdp=2", (None, "fsdp"), True),
        ("data=8", (), False),
    ],
)
def test_spread_arrays_lie_once_on_the_mesh_and_are_gathered_again(spec, axes, split):
    sharding = jax.sharding.NamedSharding(make_mesh(spec), PartitionSpec(*axes))
    array = np.arange(16.0 * 24).reshape(16, 24) if axes else np.array(3.0)
    once = spread(sharding, array.shape)
    assert len(set(map(str, once.devices_indices_map(array.shape).values()))) == (8 if split else 1)
    (again,) = gathered({"x": place(array, once)}, {"x": sharding}).values()
    assert again.sharding.is_equivalent_to(sharding, array.ndim)
    np.testing.assert_array_equal(again, array)


def test_batches_are_split_over_all_but_tensor():
    mesh = make_mesh("replica=2,fsdp=2,tensor=2")
    assert host_shard(mesh) == HostShard(index=0, count=1)
    placed = place_batch({"x": np.arange(24).reshape(8, 3)}, mesh)["x"]
    assert placed.addressable_shards[0].data.shape == (2, 3)
    np.testing.assert_array_equal(placed, np.arange(24).reshape(8, 3))
    with pytest.raises(UserError, match="a global batch of 6 does not divide over replica=2 x fsdp=2"):
        place_batch({"x": np.zeros((6, 3))}, mesh)
