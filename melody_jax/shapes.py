"""The legend of dimension letters, and jaxtyping's annotations under one roof.

    B batch            T waveform samples     L latent frames        D latent channels
    N moments          H hidden width         S segments             K frames per segment
    Q MuLan levels     R semantic levels      C codebook entries     E joint-embedding width
    W text or LM tokens                       V vocabulary           F spectral frames   M mel bands

Annotations are documentation in production and are checked at run time in the tests (see tests/conftest.py).
"""

from jaxtyping import Array, Bool, Complex, Float, Int, PRNGKeyArray, Shaped, UInt32

__all__ = ["Array", "Bool", "Complex", "Float", "Int", "PRNGKeyArray", "Shaped", "UInt32"]
