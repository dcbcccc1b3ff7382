"""What sampling gives and says while it works."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from melody_jax.codes.controls import Controls
from melody_jax.generate.replay import controls_in
from melody_jax.generate.settings import Settings
from melody_jax.shapes import Float, Int


@dataclasses.dataclass(frozen=True)
class Result:
    """One piece of music.

    Attributes:
      prompt: the sentence, or "" where there was none.
      audio: [T] float32, true peaks below -1 dB where the loudness was chosen, else in [-1, 1].
      sample_rate: Hz.
      mulan: [Q] MuLan codes of the prompt.
      tokens: [N R] semantic codes, R for each of N moments.
      latent_frames: L.
      settings: how it was sampled.
      seed: of this piece.
      times: seconds of work by step, for the whole batch that this piece was made in; the first use of a shape includes
        its compilation.
      batch: number of pieces in that batch.
      similarity: cosine of the MuLan embeddings of prompt and music, where there were several candidates.
      candidate: which one it is; 0 is the first.
      lufs: loudness before and after it was brought to the one that was chosen.
      call: what was called, with all that makes the same piece again but the given sound itself; JSON-able
        (`Melody.replay`).
      others: the candidates that were not chosen, where they were asked for.
    """

    prompt: str
    audio: Float[np.ndarray, " T"]
    sample_rate: int
    mulan: Int[np.ndarray, " Q"]
    tokens: Int[np.ndarray, " N"]
    latent_frames: int
    settings: Settings
    seed: int
    times: dict[str, float]
    batch: int
    similarity: float | None = None
    candidate: int = 0
    lufs: tuple[float, float] | None = None
    call: dict[str, Any] = dataclasses.field(default_factory=dict)
    others: tuple["Result", ...] = ()

    @property
    def controls(self) -> Controls | None:
        """What was asked for and read from the sentence; None where the language model knows no controls."""
        return controls_in(self.call)

    @property
    def seconds(self) -> float:
        """Length."""
        return len(self.audio) / self.sample_rate


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a call has come.

    Attributes:
      done: steps of work that are done.
      total: of so many.
      step: name of the step just done: "prompt", "language model", "diffusion", "decoder", "choice".
      pieces: how many pieces are finished.
    """

    done: int
    total: int
    step: str
    pieces: int


ProgressCallback = Callable[[Progress], None]


class Cancelled(Exception):  # noqa: N818  it is no error
    """The caller wanted no more.

    Attributes:
      results: the pieces that were finished before.
    """

    def __init__(self, results: Sequence[Result]):
        super().__init__(f"cancelled; {len(results)} pieces were finished")
        self.results = list(results)
