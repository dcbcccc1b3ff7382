"""k-means: assignment, seeding, learning, dead centres, devices."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from melody_jax.codes import kmeans

KEY = jax.random.PRNGKey(0)
update = jax.jit(kmeans.update, static_argnames=("decay", "dead_below"))


def blobs(centres=6, points=40, width=5, seed=0):
    """Well separated clusters: [centres, width] and [centres * points, width], shuffled."""
    rng = np.random.default_rng(seed)
    middle = rng.normal(size=(centres, width)) * 10
    x = (middle[:, None] + 0.1 * rng.normal(size=(centres, points, width))).reshape(-1, width)
    return middle.astype(np.float32), rng.permutation(x).astype(np.float32)


def test_assign_is_the_nearest_centre():
    rng = np.random.default_rng(0)
    centres, x = rng.normal(size=(7, 4)).astype(np.float32), rng.normal(size=(3, 11, 4)).astype(np.float32)
    want = ((x[:, :, None] - centres[None, None]) ** 2).sum(-1).argmin(-1)
    found = kmeans.assign(jnp.asarray(centres), jnp.asarray(x))
    assert found.dtype == jnp.int32
    np.testing.assert_array_equal(found, want)


def test_seeding_draws_valid_points_and_spreads_them():
    middle, x = blobs()
    valid = jnp.arange(len(x)) < 200
    seeds = jax.jit(kmeans.seed, static_argnums=2)(KEY, jnp.asarray(x), 6, valid)
    assert all((x[:200] == row).all(1).any() for row in np.asarray(seeds))
    owner = ((np.asarray(seeds)[:, None] - middle[None]) ** 2).sum(-1).argmin(-1)
    assert len(set(owner.tolist())) == 6


def test_it_finds_separated_clusters():
    middle, x = blobs()
    state = kmeans.start(jax.jit(kmeans.seed, static_argnums=2)(KEY, jnp.asarray(x), 6), float(len(x)))
    for step in range(5):
        result = update(state, jnp.asarray(x), jax.random.PRNGKey(step), decay=0.2, dead_below=0.1)
        state = result.state
    distance = np.sqrt(((np.asarray(state.centres)[:, None] - middle[None]) ** 2).sum(-1))
    assert distance.min(0).max() < 0.2
    assert float(result.error) < 0.1 and float(result.used) == 1.0 and float(result.dead) == 0.0


def test_lloyd_step_against_numpy_and_invalid_points_do_not_count():
    rng = np.random.default_rng(1)
    x, centres = rng.normal(size=(50, 3)).astype(np.float32), rng.normal(size=(4, 3)).astype(np.float32)
    valid = np.arange(50) < 30
    result = update(
        kmeans.start(jnp.asarray(centres), 30.0),
        jnp.asarray(x),
        KEY,
        decay=0.0,
        dead_below=0.0,
        valid=jnp.asarray(valid),
    )
    distance = ((x[:30, None] - centres[None]) ** 2).sum(-1)
    codes = distance.argmin(-1)
    want = np.stack([x[:30][codes == c].mean(0) if (codes == c).any() else centres[c] for c in range(4)])
    np.testing.assert_allclose(result.state.centres, want, atol=1e-5)
    np.testing.assert_allclose(result.error, distance.min(-1).mean(), rtol=1e-5)
    np.testing.assert_array_equal(result.codes[:30], codes)


def test_dead_centres_move_to_points():
    _, x = blobs()
    centres = jnp.concatenate([jnp.asarray(x[:5]), jnp.full((1, 5), 1e3)])
    state = kmeans.start(centres, float(len(x)))
    result = update(state, jnp.asarray(x), KEY, decay=0.0, dead_below=0.1)
    assert float(result.dead) == np.float32(1 / 6)
    assert (x == np.asarray(result.state.centres[5])).all(1).any()
    kept = update(state, jnp.asarray(x), KEY, decay=0.0, dead_below=0.0)
    np.testing.assert_array_equal(kept.state.centres[5], centres[5])


def test_sharded_points_give_the_same_update():
    _, x = blobs()
    state = kmeans.start(jnp.asarray(x[:6]), float(len(x)))
    rows = NamedSharding(Mesh(np.array(jax.devices()[:8]), ("data",)), PartitionSpec("data"))
    alone = update(state, jnp.asarray(x), KEY, decay=0.5, dead_below=0.3)
    spread = update(state, jax.device_put(x, rows), KEY, decay=0.5, dead_below=0.3)
    for a, b in zip(jax.tree.leaves(spread), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4)
