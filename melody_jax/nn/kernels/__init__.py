"""Pallas kernels for TPUs, of the operations that take most of a training step under XLA; they compute what the plain
code does."""
