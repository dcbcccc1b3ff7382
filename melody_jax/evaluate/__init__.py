"""Measuring trained stages and bundles on held-out music, each figure beside a stated baseline."""
