"""Residual VQ: every level helps, decoding is a sum, devices agree."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from melody_jax.codes import kmeans, rvq

KEY = jax.random.PRNGKey(0)
X = jax.random.normal(jax.random.PRNGKey(1), (256, 6))
update = jax.jit(rvq.update, static_argnames=("decay", "dead_below"))
encode = jax.jit(rvq.encode)
decode = jax.jit(rvq.decode)


def learnt(levels=4, entries=8, steps=8):
    state = kmeans.start(jax.jit(rvq.seed, static_argnums=(2, 3))(KEY, X, levels, entries), 256.0)
    for step in range(steps):
        result = update(state, X, jax.random.PRNGKey(step), decay=0.3)
        state = result.state
    return state.centres, result


def test_the_residual_shrinks_with_every_level():
    codebooks, result = learnt()
    codes = encode(codebooks, X)
    left = [float(jnp.mean(jnp.sum(jnp.square(X - decode(codebooks, codes[:, :q])), -1))) for q in (1, 2, 3, 4)]
    assert left[0] < 6.0 and all(b < 0.8 * a for a, b in zip(left, left[1:], strict=False))
    assert result.error.shape == (4,) and bool(jnp.all(jnp.diff(result.error) < 0))


def test_decode_is_the_sum_of_the_entries():
    codebooks = jax.random.normal(KEY, (3, 5, 6))
    codes = jax.random.randint(KEY, (2, 7, 3), 0, 5)
    want = sum(np.asarray(codebooks[q])[np.asarray(codes[..., q])] for q in range(3))
    np.testing.assert_allclose(decode(codebooks, codes), want, atol=1e-6)


def test_encode_is_greedy_on_the_residual():
    codebooks = np.asarray(jax.random.normal(KEY, (3, 5, 6)))
    found, left = np.asarray(encode(jnp.asarray(codebooks), X[:20])), np.asarray(X[:20])
    for q in range(3):
        want = ((left[:, None] - codebooks[q][None]) ** 2).sum(-1).argmin(-1)
        np.testing.assert_array_equal(found[:, q], want)
        left = left - codebooks[q][want]


def test_sharded_points_give_the_same_update():
    state = kmeans.start(jax.jit(rvq.seed, static_argnums=(2, 3))(KEY, X, 3, 8), 256.0)
    rows = NamedSharding(Mesh(np.array(jax.devices()[:8]), ("data",)), PartitionSpec("data"))
    alone, spread = (update(state, x, KEY, decay=0.5) for x in (X, jax.device_put(X, rows)))
    for a, b in zip(jax.tree.leaves(spread), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4)
