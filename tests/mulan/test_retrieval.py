"""Recall and rank on an example worked out by hand."""

import numpy as np
import pytest

from melody_jax.mulan.retrieval import retrieval

# Rows: the cosine of each text with clips 0, 1, 2 (the clips are the unit axes).
TEXT = np.array([[0.9, 0.1, 0.0], [0.8, 0.5, 0.1], [0.6, 0.5, 0.4]], np.float32)
MUSIC = np.eye(3, dtype=np.float32)


def test_ranks_counted_by_hand():
    first = retrieval(TEXT, MUSIC, k=1)  # texts rank their clips 1, 2, 3; clips rank their texts 1, 1 (tie), 1
    assert first.text_to_music == pytest.approx(1 / 3)
    assert first.median_rank == 2
    assert first.chance == pytest.approx(1 / 3)
    assert retrieval(TEXT, MUSIC, k=2).text_to_music == pytest.approx(2 / 3)
    assert retrieval(TEXT, MUSIC, k=3).text_to_music == 1


def test_the_other_way_round_and_ties():
    # Clip 0: texts at .9 .8 .6 -> rank 1. Clip 1: .1 .5 .5 -> a tie counts against it, rank 2. Clip 2: 0 .1 .4 -> rank 1.
    assert retrieval(TEXT, MUSIC, k=1).music_to_text == pytest.approx(2 / 3)
    assert retrieval(TEXT, MUSIC, k=2).music_to_text == 1


def test_constant_embeddings_find_nothing():
    same = np.ones((50, 4), np.float32) / 2
    result = retrieval(same, same, k=10)
    assert result.text_to_music == 0 and result.chance == pytest.approx(0.2)


def test_what_is_not_paired_is_refused():
    with pytest.raises(ValueError, match="not pairs"):
        retrieval(TEXT, MUSIC[:2])
