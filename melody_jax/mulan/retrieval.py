"""Retrieval between two sets of paired embeddings: recall at k and median rank, both ways. NumPy: it judges, it does not train."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Retrieval:
    """Figures of one evaluation over `count` pairs.

    Attributes:
      text_to_music: share of the texts whose own clip is among the k nearest clips.
      music_to_text: share of the clips whose own text is among the k nearest texts.
      median_rank: of a text's own clip among the clips, 1 is best.
      chance: recall of guessing, k / count.
      count: number of pairs.
      k: how many candidates count as found.
    """

    text_to_music: float
    music_to_text: float
    median_rank: float
    chance: float
    count: int
    k: int


def retrieval(text_embeddings: np.ndarray, music_embeddings: np.ndarray, k: int = 10) -> Retrieval:
    """Ranks every clip for every text by the inner product; row i of one belongs to row i of the other.

    Args:
      text_embeddings: [B, E], unit norm.
      music_embeddings: [B, E], unit norm.
      k: candidates that count as found.

    Raises:
      ValueError: the two have different shapes.
    """
    text, music = (np.asarray(x, np.float32) for x in (text_embeddings, music_embeddings))
    if text.shape != music.shape or text.ndim != 2:
        raise ValueError(f"retrieval: {text.shape} texts and {music.shape} clips are not pairs of [B, E] embeddings")
    similarity = text @ music.T
    clips, texts = _ranks(similarity), _ranks(similarity.T)
    count = len(text)
    return Retrieval(
        text_to_music=float(np.mean(clips <= k)),
        music_to_text=float(np.mean(texts <= k)),
        median_rank=float(np.median(clips)),
        chance=min(1.0, k / count),
        count=count,
        k=k,
    )


def _ranks(similarity: np.ndarray) -> np.ndarray:
    """Rank (1 = first) of the diagonal in each row [B, B]; ties count against it, so that constant embeddings do not score."""
    return np.sum(similarity >= np.diagonal(similarity)[:, None], axis=1)
