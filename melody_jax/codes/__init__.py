"""Discrete codes: k-means on semantic features, residual VQ on MuLan embeddings, and their layout as LM tokens."""
