"""Pallas kernels for TPUs, of what XLA spends most of a training step's time on; equal to the plain code beside them."""
