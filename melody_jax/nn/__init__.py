"""Layers shared by the models: each one a small linen module with logical axis names on every parameter."""
