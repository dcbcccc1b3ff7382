"""wav2vec2-Conformer: self-supervised features of music at the semantic token rate."""
