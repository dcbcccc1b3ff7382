"""The keywords that all calls of `Melody` share."""

from collections.abc import Callable, Sequence
from typing import Any

from melody_jax.codes.controls import Controls
from melody_jax.errors import UserError
from melody_jax.generate.result import ProgressCallback, Result
from melody_jax.generate.settings import Changes, Settings


class Options(Changes, total=False):
    """How a call is made; the other fields are those of `Settings`, which change the bundle's defaults.

    Attributes:
      settings: instead of the bundle's defaults.
      seed: of the first piece, from which the others' are derived, or one for each piece; 0 if not given.
      batch_size: how many pieces are worked on at once, as many on every chip; 16 if not given.
      progress: True for a bar on stderr, or a function that is told.
      cancel: asked after every step whether to stop, `threading.Event().is_set` for example.
      each: gets (index, piece) as soon as a piece is finished.
      candidate: of several candidates this one alone, which `Result.candidate` names.
      controls: tempo, key, metre, drums and instruments that are wanted, whatever the sentence says; what is not set here is
        read from the sentence. One for all pieces, or one (or None) for each. For bundles whose language model knows them.
      heard: tempo, metre and downbeat of music that is given; they count where neither controls nor sentence say a tempo. One
        for all pieces, or one (or None) for each. A `Result` that is given says its own.
      keep_all: whether `Result.others` holds the candidates that were not chosen.
    """

    settings: Settings | None
    seed: int | Sequence[int]
    batch_size: int
    progress: bool | ProgressCallback
    cancel: Callable[[], bool] | None
    each: Callable[[int, Result], Any] | None
    candidate: int | None
    controls: Controls | Sequence[Controls | None] | None
    heard: Controls | Sequence[Controls | None] | None
    keep_all: bool


TOLD = ("batch_size", "progress", "cancel", "each", "keep_all")
"""Options of the loop over batches."""
RUN = ("settings", "seed", "candidate", "controls", "heard", *TOLD)
"""Options that are no fields of `Settings`."""


def controls_of(controls: Controls | Sequence[Controls | None] | None, count: int) -> list[Controls | None]:
    """The controls of each of `count` pieces.

    Raises:
      UserError: not one for each.
    """
    if controls is None or isinstance(controls, Controls):
        return [controls] * count
    if len(controls) != count:
        raise UserError(f"{len(controls)} controls for {count} pieces")
    return [*controls]
