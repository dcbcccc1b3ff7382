"""The contrastive loss against NumPy, and over a sharded batch."""

import jax
import jax.numpy as jnp
import numpy as np

from melody_jax.mulan.loss import contrast
from melody_jax.parallel.batch import place_batch
from melody_jax.parallel.mesh import make_mesh


def pairs(count=16, width=6):
    rng = np.random.default_rng(0)
    music, text = rng.normal(size=(2, count, width)).astype(np.float32)
    text = text + music
    return tuple(x / np.linalg.norm(x, axis=1, keepdims=True) for x in (music, text))


def test_loss_equals_numpy():
    music, text = (x.astype(np.float64) for x in pairs())
    scale = 1 / 0.1
    total = 0.0
    for i in range(16):
        by_text = np.exp(scale * text[i] @ music.T)
        by_music = np.exp(scale * music[i] @ text.T)
        total -= np.log(by_text[i] / by_text.sum()) + np.log(by_music[i] / by_music.sum())
    result = contrast(*(jnp.asarray(x, jnp.float32) for x in (music, text)), jnp.float32(np.log(scale)))
    np.testing.assert_allclose(result.loss, total / 32, rtol=1e-5)
    nearest = (text @ music.T).argmax(1)
    np.testing.assert_allclose(result.text_to_music, np.mean(nearest == np.arange(16)), rtol=1e-6)


def test_equal_embeddings_cost_the_logarithm_of_the_batch():
    same = jnp.ones((8, 4)) / 2
    np.testing.assert_allclose(contrast(same, same, jnp.float32(2.0)).loss, np.log(8), rtol=1e-6)


def test_the_scale_is_bounded():
    music, text = pairs()
    bounded, far = (contrast(jnp.asarray(music), jnp.asarray(text), jnp.float32(s)).loss for s in (4.6052, 9.0))
    np.testing.assert_allclose(bounded, far, rtol=1e-5)


def test_sharded_batch_has_the_loss_and_gradients_of_the_whole():
    music, text = pairs()
    loss = jax.jit(jax.value_and_grad(lambda m, t, s: contrast(m, t, s).loss, argnums=(0, 1, 2)))
    scale = jnp.float32(2.5)
    whole = loss(jnp.asarray(music), jnp.asarray(text), scale)
    mesh = make_mesh("data=4,fsdp=2")
    placed = place_batch({"music": music, "text": text}, mesh)
    assert len(placed["music"].sharding.device_set) == 8
    sharded = loss(placed["music"], placed["text"], scale)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), whole, sharded)
