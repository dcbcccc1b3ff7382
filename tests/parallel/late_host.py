"""A host of a pod, of which the last is slower than the patience of Gloo. Run by `test_hosts.py`."""

import time

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from melody_jax.parallel import hosts
from melody_jax.parallel.init import place
from melody_jax.parallel.mesh import make_mesh

PATIENCE = 30  # seconds


def late() -> None:
    if jax.process_index():
        time.sleep(PATIENCE + 5)


def total(x):
    late()  # in tracing
    return jnp.sum(x)


if __name__ == "__main__":
    hosts.join()
    mesh = make_mesh("data=2,fsdp=2")
    late()
    assert hosts.everywhere(True)
    x = place(np.arange(4.0), NamedSharding(mesh, PartitionSpec("data")))
    program = jax.jit(total, out_shardings=NamedSharding(mesh, PartitionSpec()))
    print("total", hosts.compiled(program, x)(x).addressable_data(0), flush=True)
