"""Parallelism: the device mesh, the table from logical to mesh axes, sharded initialisation, batch placement."""
