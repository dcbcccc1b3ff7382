"""What a data set is made of: everything that decides its content, and nothing else."""

import dataclasses
import os
from typing import Any

from data_pipelines.decode import ClipFormat
from melody_jax import storage
from melody_jax.errors import UserError

KINDS = ("corpus", "folder", "manifest", "musiccaps")


@dataclasses.dataclass(frozen=True)
class Request:
    """Settings of one audio data set; two equal requests on equal inputs give equal bytes.

    Attributes:
        kind: "corpus" (built-in scores, rendered), "folder", "manifest" or "musiccaps" (the user's own music).
        path: the folder, the jsonl manifest or the MusicCaps CSV, in a bucket too; "" for the corpus.
        audio: folder of the clips of a MusicCaps CSV, else "".
        clips: how many clips the corpus renders, all splits together; the other kinds take all there is.
        seed: of the corpus; the same seed gives the same data set.
        font: an SF2 or SF3 sound font that the corpus is played with; "" takes TimGM6mb from the package pretty_midi.
        restricted: the corpus takes collections with non-commercial or unclear terms too; never for a bundle that is
            passed on.
        sample_rate: Hz.
        seconds: length of a clip.
        min_seconds: shorter files are rejected; see `ClipFormat`.
        quota: the build fails above this share of rejected files.
        licence: of files that state none themselves.
        validation, test: share of the tunes or files.
    """

    kind: str
    path: str = ""
    audio: str = ""
    clips: int = 0
    seed: int = 0
    font: str = ""
    restricted: bool = False
    sample_rate: int = 24_000
    seconds: float = 10.0
    min_seconds: float = 9.5
    quota: float = 0.05
    licence: str = ""
    validation: float = 0.05
    test: float = 0.05

    def __post_init__(self):
        if self.kind not in KINDS:
            raise UserError(f"a data set is one of {', '.join(KINDS)}, not {self.kind!r}")
        if self.kind == "corpus" and self.clips < 1:
            raise UserError(f"the corpus needs at least 1 clip, got {self.clips}")
        if self.seconds <= 0 or not 1_000 <= self.sample_rate <= 192_000:
            raise UserError(f"clips of {self.seconds:g} s at {self.sample_rate} Hz cannot be made")
        if not 0 < self.min_seconds <= self.seconds:
            raise UserError(f"min_seconds must lie between 0 and {self.seconds:g}, got {self.min_seconds:g}")
        if not 0 <= self.quota <= 1:
            raise UserError(f"the quota of rejected files must lie between 0 and 1, got {self.quota:g}")
        if self.validation < 0 or self.test < 0 or self.validation + self.test >= 1:
            raise UserError(f"validation {self.validation:g} and test {self.test:g} leave nothing to train on")

    @property
    def form(self) -> ClipFormat:
        return ClipFormat(self.sample_rate, self.seconds, self.min_seconds)


def request(hours: float | None = None, **given: Any) -> Request:
    """The request for the fields that are given, as a command line gives them.

    Args:
        hours: of music that the corpus renders, instead of clips.
        given: fields of `Request`; None for those that are not given. Paths count from the working directory. If
          `min_seconds` is not given, it is 0.95 of a clip; the corpus's clips are whole.

    Raises:
        UserError: fields that do not go together, or less than one clip.
    """
    given = {name: value for name, value in given.items() if value is not None}
    paths = [name for name in ("path", "audio", "font") if given.get(name) and not storage.in_bucket(given[name])]
    given |= {name: os.path.abspath(given[name]) for name in paths}
    seconds = given["seconds"]
    if given["kind"] != "corpus":
        return Request(**{"min_seconds": 0.95 * seconds} | given)
    if hours is not None:
        if hours * 3600 < seconds:
            raise UserError(f"--hours {hours:g} is less than one clip of {seconds:g} s")
        given["clips"] = round(hours * 3600 / seconds)
    return Request(**given, min_seconds=seconds)
