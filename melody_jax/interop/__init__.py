"""Weights and models of other libraries."""
