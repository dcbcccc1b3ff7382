"""The legend of dimension letters, and jaxtyping's annotations under one roof.

    B batch            T waveform samples     L latent frames        D latent channels
    N moments          H hidden width         S segments             K frames per segment
    Q MuLan levels     R semantic levels      C codebook entries     E joint-embedding width
    W text or LM tokens                       V vocabulary           U keys of an attention
    F spectral frames  M mel bands            P points of k-means    G groups of a quantiser
    I, O width before and after a layer

What has no letter has a word ("heads", "controls", "prefix"). Rows that are no training batch are n and m, and `*b` stands
for any leading axes. Inside convolutions T is the axis of time, whatever its rate.

Annotations are documentation in production and are checked at run time in the tests (see tests/conftest.py).
"""

from typing import TYPE_CHECKING, Any

import jaxtyping
from jaxtyping import Bool, Complex, Float, Int, Shaped, UInt32

if TYPE_CHECKING:
    from jaxtyping import Array, PRNGKeyArray

__all__ = ["Array", "Bool", "Complex", "Float", "Int", "PRNGKeyArray", "Shaped", "UInt32"]


def __getattr__(name: str) -> Any:
    """`Array` and `PRNGKeyArray` are jax's: imported when first used, so that what is about numpy alone starts fast."""
    if name not in ("Array", "PRNGKeyArray"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(jaxtyping, name)
