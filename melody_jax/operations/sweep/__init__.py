"""Sweeps: many trials of one training command, each with other bindings; what they reached, compared."""
