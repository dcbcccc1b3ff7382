"""The arrows of sampling, without a bundle."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from melody_jax.lm.decode import Sampling
from melody_jax.system import System
from tests.generate.conftest import AUTOENCODER, DIFFUSION, GEOMETRY, LM, MULAN, random_weights

CONFIG = {
    "autoencoder": AUTOENCODER,
    "mulan": MULAN,
    "lm": dataclasses.replace(LM, dtype="bfloat16"),
    "dpd": dataclasses.replace(DIFFUSION, dtype="bfloat16"),
}
TOKENS, LATENTS = jnp.zeros((2, 10), jnp.int32), jnp.zeros((2, GEOMETRY.clip_frames, GEOMETRY.latent_channels))


@pytest.mark.parametrize("name", ["lm", "dpd"])
def test_weights_in_the_compute_dtype_give_the_same_samples(name):
    """What is kept in bfloat16 would have been rounded to it by every product: nothing changes, and most weights are."""
    system = System(CONFIG, GEOMETRY)
    keys = jax.vmap(jax.random.PRNGKey)(jnp.arange(2))
    if name == "lm":
        params = random_weights(system.lm, TOKENS)
        condition = system.vocabulary.condition(jnp.arange(2 * GEOMETRY.mulan_tokens).reshape(2, -1))
        sampling = Sampling(top_k=8, guidance=2.0)

        def sample(params):
            return system.write_tokens(params, condition, TOKENS, keys, length=10, sampling=sampling)
    else:
        params = random_weights(system.dpd, LATENTS, jnp.zeros(LATENTS.shape[:2]), TOKENS)
        mask = jnp.zeros((1, GEOMETRY.clip_frames), bool)

        def sample(params):
            return system.diffuse(params, TOKENS, keys, LATENTS, mask, steps=2, schedule="linear", scale=2.0, clip=1.0)

    kept = jax.tree_util.tree_map_with_path(lambda path, leaf: leaf.astype(system.kept_dtype(name, path)), params)
    narrow = sum(leaf.size for leaf in jax.tree.leaves(kept) if leaf.dtype == jnp.bfloat16)
    assert narrow > 0.9 * sum(leaf.size for leaf in jax.tree.leaves(kept))
    whole, halved = (np.asarray(jax.jit(sample)(weights)) for weights in (params, kept))
    np.testing.assert_array_equal(whole, halved)
    assert len(np.unique(whole)) > 4


def test_other_parts_are_kept_in_float32():
    system = System(CONFIG, GEOMETRY)
    for name in ("autoencoder", "mulan"):
        assert system.kept_dtype(name, (jax.tree_util.DictKey("kernel"),)) == jnp.float32
    assert system.kept_dtype("lm", (jax.tree_util.DictKey("scale"),)) == jnp.float32
