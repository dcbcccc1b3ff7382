"""The angle process and its schedules against plain NumPy, written from the paper's equations."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from melody_jax.dpd import angles
from melody_jax.errors import UserError


def _draw(seed=0, batch=2, frames=5, channels=3):
    rng = np.random.default_rng(seed)
    z, eps = (rng.standard_normal((batch, frames, channels)).astype(np.float32) for _ in range(2))
    delta = rng.uniform(0.05, math.pi / 2 - 0.05, (batch, frames)).astype(np.float32)
    return jnp.asarray(z), jnp.asarray(eps), jnp.asarray(delta)


def test_process_and_velocity_are_the_equations():
    z, eps, delta = _draw()
    noisy, v = np.empty_like(z), np.empty_like(z)
    for b in range(z.shape[0]):
        for frame in range(z.shape[1]):
            d = delta[b, frame]
            noisy[b, frame] = math.cos(d) * z[b, frame] + math.sin(d) * eps[b, frame]
            v[b, frame] = math.cos(d) * eps[b, frame] - math.sin(d) * z[b, frame]
    np.testing.assert_allclose(angles.diffuse(z, eps, delta), noisy, atol=1e-6)
    np.testing.assert_allclose(angles.velocity(z, eps, delta), v, atol=1e-6)


def test_velocity_is_the_derivative_of_the_process():
    z, eps, delta = _draw(1)
    _, slope = jax.jvp(lambda d: angles.diffuse(z, eps, d), (delta,), (jnp.ones_like(delta),))
    np.testing.assert_allclose(angles.velocity(z, eps, delta), slope, atol=1e-6)


def test_velocity_identities():
    z, eps, delta = _draw(2)
    noisy, v = angles.diffuse(z, eps, delta), angles.velocity(z, eps, delta)
    np.testing.assert_allclose(angles.clean_from_velocity(noisy, v, delta), z, atol=1e-6)
    np.testing.assert_allclose(angles.velocity_from_clean(noisy, z, delta), v, atol=1e-4)
    assert not np.any(angles.velocity_from_clean(noisy, z, jnp.zeros_like(delta)))


def test_ddim_step_lands_on_the_process():
    """With the true velocity, a step of omega from delta gives cos(delta - omega) z + sin(delta - omega) epsilon."""
    z, eps, delta = _draw(3)
    omega = delta * jax.random.uniform(jax.random.key(4), delta.shape)
    stepped = angles.ddim_step(angles.diffuse(z, eps, delta), angles.velocity(z, eps, delta), omega)
    rest = (delta - omega)[..., None]
    np.testing.assert_allclose(stepped, jnp.cos(rest) * z + jnp.sin(rest) * eps, atol=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 10, 20, 37, 100, 1000])
def test_schedules_sum_to_a_quarter_turn(steps):
    for name in angles.SCHEDULES:
        sizes = angles.schedule(name, steps)
        assert sizes.shape == (steps,) and np.all(sizes > 0)
        assert np.sum(sizes) == pytest.approx(math.pi / 2, abs=1e-12)


def test_schedules_by_hand():
    np.testing.assert_allclose(angles.schedule("uniform", 4), [math.pi / 8] * 4)
    # T = 2: pi/12 + pi t/9 for t = 2, 1
    np.testing.assert_allclose(angles.schedule("linear", 2), [11 * math.pi / 36, 7 * math.pi / 36])
    assert np.all(np.diff(angles.schedule("linear", 20)) < 0)  # large steps first


@pytest.mark.parametrize(("name", "steps"), [("cosine", 20), ("linear", 0), ("uniform", -3)])
def test_bad_schedules_are_refused(name, steps):
    with pytest.raises(UserError):
        angles.schedule(name, steps)


@pytest.mark.parametrize(("frames", "chunks"), [(2500, 4), (10, 4), (7, 3), (5, 5), (9, 1), (3, 4)])
def test_chunks_end_where_the_paper_says(frames, chunks):
    expected = np.empty(frames, int)
    for m in range(1, chunks + 1):
        expected[math.floor((m - 1) * frames / chunks) : math.floor(m * frames / chunks)] = m - 1
    np.testing.assert_array_equal(angles.chunk_index(frames, chunks), expected)


def test_training_angles_are_uniform_and_constant_within_a_chunk():
    drawn = np.asarray(angles.sample_angles(jax.random.key(0), 2000, 10, 4))
    assert drawn.dtype == np.float32 and drawn.min() >= 0 and drawn.max() <= math.pi / 2
    for first, end in [(0, 2), (2, 5), (5, 7), (7, 10)]:
        assert np.all(drawn[:, first:end] == drawn[:, first : first + 1])
        assert abs(drawn[:, first].mean() - math.pi / 4) < 0.05
    assert abs(np.corrcoef(drawn[:, 0], drawn[:, 9])[0, 1]) < 0.1  # chunks draw independently
