"""Exported models: parts (weights + config + geometry + lineage) and bundles (parts that belong together)."""

from melody_jax.bundle.bundle import Bundle, export
from melody_jax.bundle.card import Card
from melody_jax.bundle.lineage import check_lineage
from melody_jax.bundle.part import Part, load_part, save_part

__all__ = ["Bundle", "Card", "Part", "check_lineage", "export", "load_part", "save_part"]
