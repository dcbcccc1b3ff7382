"""Exported models: parts (weights + config + geometry + lineage) and bundles (parts that belong together)."""
