"""What makes music and what hears it, as evaluations see them; music made for captions of held-out clips."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from melody_jax.evaluate.truth import choose_prompts
from melody_jax.geometry import Geometry

VARIED, SEEDS = 6, 4  # prompts of which several pieces are made, and how many of each


@runtime_checkable
class Player(Protocol):
    """What makes music; generate.Melody is one."""

    def perform(self, tokens: Any, mulan: Any, controls: Any, *, seed: int, progress: bool) -> np.ndarray:
        """Music [n, T] of semantic tokens [n, W], of clips with these MuLan codes [n, Q] and controls [n, controls] or None."""
        ...

    def decode(self, latents: Any) -> np.ndarray:
        """Waveforms [n, T] of latents [n, L, D]."""
        ...

    def generate(self, prompts: Any = None, **options: Any) -> Sequence[Any]:
        """A piece with `audio` [T], `tokens` [W] and `lufs` for each sentence, or for each clip given as `audio`."""
        ...


@runtime_checkable
class Listener(Protocol):
    """What represents music, as arrays; system.Loaded is one."""

    def reconstruct(self, audio: Any) -> Any:
        """Music [B, T] through the autoencoder and back."""
        ...

    def embed_music(self, audio: Any) -> Any:
        """MuLan embeddings [B, E] of music."""
        ...

    def embed_text(self, sentences: Any) -> Any:
        """MuLan embeddings [B, E] of sentences."""
        ...


@dataclasses.dataclass(frozen=True)
class Made:
    """Music for captions of held-out clips.

    Attributes:
      rows: of each piece the clip whose caption it was made for.
      sentences: the captions.
      pieces: as `Player.generate` gives them.
      again: of the first VARIED sentences, SEEDS - 1 more pieces each, sentence by sentence.
    """

    rows: list[int]
    sentences: list[str]
    pieces: Sequence[Any]
    again: Sequence[Any]


def make_music(
    geometry: Geometry,
    melody: Player,
    clips: Sequence[Any],
    known: bool,
    prompts: int,
    seed: int = 0,
    progress: bool = True,
) -> Made:
    """Music for captions of at most `prompts` held-out clips.

    Args:
      geometry: of the pieces, which are as long as a clip.
      melody: makes them.
      clips: held-out ones, with truth or without.
      known: whether captions are chosen by what is true of the clips.
      prompts: how many at most.
      seed: of the first piece; the others count on.
      progress: whether a bar is shown.
    """
    chosen = []
    if known:
        chosen = choose_prompts([clip.captions for clip in clips], [clip.truth for clip in clips], prompts)
    if not chosen:
        chosen = [(i, clip.captions[i % len(clip.captions)]) for i, clip in enumerate(clips[:prompts])]
    rows, sentences = [row for row, _ in chosen], [sentence for _, sentence in chosen]
    wanted = sentences + [sentence for sentence in sentences[:VARIED] for _ in range(SEEDS - 1)]
    seeds = [seed + i for i in range(len(wanted))]
    pieces = melody.generate(wanted, seed=seeds, seconds=geometry.clip_seconds, progress=progress)
    return Made(rows, sentences, pieces[: len(rows)], pieces[len(rows) :])
