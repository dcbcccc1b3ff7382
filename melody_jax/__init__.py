"""melody_jax: train and sample MeLoDy (Lam et al., "Efficient Neural Music Generation", NeurIPS 2023) in JAX."""

__version__ = "0.1.0"
