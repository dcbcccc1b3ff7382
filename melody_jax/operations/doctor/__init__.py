"""What an engineer looks at before a long training: inputs and their lineage, one step, one batch by heart, the disk."""
