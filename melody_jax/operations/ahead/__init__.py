"""Ahead of time: compiling for TPU slices on a machine that has none, and reading what the compiler says of them."""
