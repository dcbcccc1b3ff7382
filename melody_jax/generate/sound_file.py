"""Sound files: reading music that a user gives, writing music with what made it inside. Imports no jax."""

import dataclasses
import io
import os
import pathlib
import unicodedata
import warnings
from collections.abc import Callable, Mapping

import numpy as np

from melody_jax import __version__, storage
from melody_jax.errors import UserError
from melody_jax.files import whole_file
from melody_jax.shapes import Float

SUBTYPES: Mapping[str, Mapping[int, str]] = {
    "wav": {16: "PCM_16", 24: "PCM_24", 32: "FLOAT"},
    "flac": {16: "PCM_16", 24: "PCM_24"},
    "ogg": {16: "VORBIS"},
    "mp3": {16: "MPEG_LAYER_III"},
}
"""Kind -> bits -> what libsndfile calls it; ogg and mp3 have no bits of their own."""
RATES = (24_000, 44_100, 48_000)


@dataclasses.dataclass(frozen=True)
class SoundFormat:
    """What a sound file is like.

    Attributes:
      kind: "wav", "flac", "ogg" or "mp3".
      bits: of a sample; 32 are floating-point.
      rate: Hz; None for the music's own.

    Raises:
      UserError: there is no such file.
    """

    kind: str = "wav"
    bits: int = 16
    rate: int | None = None

    def __post_init__(self):
        if self.kind not in SUBTYPES:
            raise UserError(f"music is written as {', '.join(SUBTYPES)}, not as {self.kind!r}")
        if self.bits not in SUBTYPES[self.kind]:
            known = ", ".join(str(bits) for bits in SUBTYPES[self.kind])
            raise UserError(f"{self.kind} files are written with {known} bits, not {self.bits}")
        if self.rate is not None and self.rate not in RATES:
            raise UserError(f"files are written at {', '.join(str(rate) for rate in RATES)} Hz, not {self.rate}")


def write_sound(
    audio: Float[np.ndarray, " T"],
    sample_rate: int,
    path: str | os.PathLike,
    form: SoundFormat = SoundFormat(),  # noqa: B008  it is frozen
    tags: Mapping[str, str] | None = None,
    new: bool = False,
) -> None:
    """Writes mono music. The same samples give the same bytes in wav and flac files of 16 and 24 bits.

    A file of 16 bits that is read and written again keeps its samples.

    Args:
      tags: names of soundfile ("title", "comment", "software", ...) -> text.
      new: raise FileExistsError where there is such a file by then.

    Raises:
      OSError: it cannot be written.
    """
    import soundfile

    content = io.BytesIO()  # libsndfile does not say why a disk refuses
    try:
        with open_sound(content, sample_rate, form, tags) as file:
            file.write(samples_of(audio, sample_rate, form))
    except soundfile.SoundFileError as error:
        raise OSError(str(error)) from None
    with whole_file(storage.path(path), new) as scratch:
        scratch.write_bytes(content.getvalue())


def open_sound(
    file: pathlib.Path | io.BytesIO, sample_rate: int, form: SoundFormat, tags: Mapping[str, str] | None = None
):
    """An open `soundfile.SoundFile` of that form with the tags in it."""
    import soundfile

    rate = form.rate or sample_rate
    subtype = SUBTYPES[form.kind][form.bits]
    opened = soundfile.SoundFile(file, "w", rate, 1, subtype, format=form.kind.upper())
    for name, text in (tags or {}).items():
        if form.kind == "mp3":  # libsndfile writes its tags as Latin-1
            text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
        if text:
            setattr(opened, name, text)
    return opened


def stream_to(
    path: str, form: SoundFormat, tags: Mapping[str, str], overwrite: bool, sample_rate: int
) -> tuple[Callable[[np.ndarray], None], Callable[[], None]]:
    """(writes the next samples to the file, closes it); the file grows, and is a whole one once it is closed.

    Raises:
      OSError: it cannot be written, or is there and may not be overwritten.
    """
    place = pathlib.Path(path)
    place.parent.mkdir(parents=True, exist_ok=True)
    if not overwrite:
        place.open("xb").close()
    file = open_sound(place, sample_rate, form, {**tags, "software": f"melody_jax {__version__}"})
    return lambda chunk: file.write(samples_of(chunk, sample_rate, form)), file.close


def samples_of(audio: Float[np.ndarray, " T"], sample_rate: int, form: SoundFormat) -> np.ndarray:
    """Samples as `open_sound(...).write` takes them: at the file's rate, whole numbers where the file holds such."""
    import soxr

    if form.rate not in (None, sample_rate):
        audio = soxr.resample(audio.astype(np.float32), sample_rate, form.rate, "VHQ")
    subtype = SUBTYPES[form.kind][form.bits]
    if not subtype.startswith("PCM"):
        return np.clip(audio, -1.0, 1.0) if subtype != "FLOAT" else audio
    largest = 2 ** (form.bits - 1)
    whole = np.clip(np.round(audio.astype(np.float64) * largest), -largest, largest - 1).astype(np.int64)
    return whole.astype(np.int16) if form.bits == 16 else (whole << 8).astype(np.int32)


def check_music(path: str | os.PathLike) -> None:
    """Finds out whether a file begins like one that `read_music` reads.

    Raises:
      UserError: it does not, or is not there.
    """
    from data_pipelines import decode

    try:
        decode.length_of(os.fspath(path), enough=0.0)
    except decode.UnusableError as error:
        raise UserError(f"cannot read the music in {path}: {error}") from None


def read_music(path: str | os.PathLike, sample_rate: int) -> Float[np.ndarray, " T"]:
    """A sound file of any kind as mono float32 at `sample_rate`: all that is there, whatever its header states. What is odd
    about it is a warning.

    Raises:
      UserError: the file cannot be read, or is none that a data set would use; the reason as in its rejected.jsonl.
    """
    from data_pipelines import decode

    notes = []
    try:
        audio = decode.whole_of(os.fspath(path), sample_rate, notes=notes)
    except decode.UnusableError as error:
        raise UserError(f"cannot read the music in {path}: {error}") from None
    for note in notes:
        warnings.warn(f"{path}, after {note.start:.2f} s: {note.reason}", stacklevel=2)
    return audio
