"""The programs of sampling, without a bundle."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from melody_jax.generate.programs import Programs
from melody_jax.lm.decode import Sampling
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
    programs = Programs(CONFIG, GEOMETRY)
    keys = jax.vmap(jax.random.PRNGKey)(jnp.arange(2))
    if name == "lm":
        params = random_weights(programs.lm, TOKENS)
        condition = programs.vocabulary.condition(jnp.arange(2 * GEOMETRY.mulan_tokens).reshape(2, -1))
        sampling = Sampling(top_k=8, guidance=2.0)

        def sample(params):
            return programs.continue_tokens(params, condition, TOKENS, keys, 10, sampling)
    else:
        params = random_weights(programs.dpd, LATENTS, jnp.zeros(LATENTS.shape[:2]), TOKENS)
        mask = jnp.zeros((1, GEOMETRY.clip_frames), bool)

        def sample(params):
            return programs.diffuse_window(params, TOKENS, keys, LATENTS, mask, 2, "linear", 2.0, 1.0)

    kept = jax.tree_util.tree_map_with_path(lambda path, leaf: leaf.astype(programs.kept_dtype(name, path)), params)
    narrow = sum(leaf.size for leaf in jax.tree.leaves(kept) if leaf.dtype == jnp.bfloat16)
    assert narrow > 0.9 * sum(leaf.size for leaf in jax.tree.leaves(kept))
    whole, halved = (np.asarray(jax.jit(sample)(weights)) for weights in (params, kept))
    np.testing.assert_array_equal(whole, halved)
    assert len(np.unique(whole)) > 4


def test_other_parts_are_kept_in_float32():
    programs = Programs(CONFIG, GEOMETRY)
    for name in ("autoencoder", "mulan"):
        assert programs.kept_dtype(name, (jax.tree_util.DictKey("kernel"),)) == jnp.float32
    assert programs.kept_dtype("lm", (jax.tree_util.DictKey("scale"),)) == jnp.float32
