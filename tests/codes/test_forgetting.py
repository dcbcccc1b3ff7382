"""What training hides of a condition: shares, and that the rest stays as it is."""

import jax
import jax.numpy as jnp
import numpy as np

from melody_jax.codes import controls
from melody_jax.codes.forgetting import choose_codes, forget_condition
from melody_jax.codes.vocabulary import Vocabulary

VOCABULARY = Vocabulary(mulan_tokens=3, mulan_codes=5, semantic_codes=7, controls=controls.SIZES)
KEY = jax.random.PRNGKey(2)


def test_the_share_of_captions_is_kept():
    chosen = np.asarray(choose_codes(KEY, jnp.zeros((2000, 3), jnp.int32), jnp.ones((2000, 3), jnp.int32), 0.3))
    np.testing.assert_array_equal(chosen, np.repeat(chosen[:, :1], 3, axis=1))  # a clip's codes are never mixed
    np.testing.assert_allclose(chosen.mean(), 0.3, atol=0.04)


def test_shares_of_what_is_hidden():
    codes = jnp.ones((4000, len(controls.SLOTS)), jnp.int32)
    condition = VOCABULARY.condition(jnp.ones((4000, 3), jnp.int32), controls=codes)
    left = np.asarray(forget_condition(VOCABULARY, KEY, condition, 0.1, 0.0, 0.2))
    nothing = np.asarray(VOCABULARY.without_condition(condition))
    gone = left != np.asarray(condition)
    np.testing.assert_array_equal(left[gone], nothing[gone])  # what is hidden is "not known", the rest as it was
    assert not gone[:, 0].any()
    np.testing.assert_allclose(gone[:, 1:4].all(axis=1).mean(), 0.1, atol=0.02)
    np.testing.assert_allclose(gone[:, 4:].mean(axis=0), 1 - 0.9 * 0.9 * 0.8, atol=0.03)
    np.testing.assert_allclose(gone[:, 4:].all(axis=1).mean(), 1 - 0.9 * 0.9, atol=0.02)
    assert np.all(gone[:, 4:].all(axis=1)[gone[:, 1:4].all(axis=1)])  # with the codes all controls go


def test_nothing_is_hidden_unasked():
    condition = VOCABULARY.condition(jnp.ones((8, 3), jnp.int32))
    np.testing.assert_array_equal(forget_condition(VOCABULARY, KEY, condition, 0.0, 0.0, 0.0), condition)
