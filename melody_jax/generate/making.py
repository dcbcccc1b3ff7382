"""From sentences or sound files to files of music: a bundle is loaded, `Melody` called, each piece written when it exists.

Imports no jax before there is something to make.
"""

import dataclasses
import os
import pathlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from melody_jax import storage
from melody_jax.codes.control_words import from_sidecar
from melody_jax.codes.controls import Controls
from melody_jax.errors import UserError
from melody_jax.files import read_json
from melody_jax.generate.files import Files
from melody_jax.generate.replay import Call, controls_in
from melody_jax.generate.sound_file import check_music, read_music

if TYPE_CHECKING:
    from melody_jax.generate import Melody, Result


@dataclasses.dataclass(frozen=True)
class Making:
    """What makes music, and where it goes.

    Attributes:
      bundle: its folder.
      adapters: folder -> weight of adapters that are added.
      files: where each piece goes.
      show: gets every file of music that was written, and its piece.
      keep: says where compiled programs are kept.
    """

    bundle: str | os.PathLike
    adapters: Mapping[str, float]
    files: Files
    show: Callable[[Any, "Result"], None]
    keep: Callable[[], storage.Path | None]

    def make(self, method: str, sources: Sequence[str], music: bool, seeds: Sequence[int], **options: Any) -> None:
        """Calls a method of `Melody` for the pieces that are wanted.

        Args:
          sources: one for each piece: a file of music, if that is what the method takes, else a sentence.
          seeds: one for each piece.
          options: further arguments of the method.
        """
        melody, wanted = self._melody(), self.files.wanted
        some: Sequence[Any] = [sources[i] for i in wanted]
        given: dict[str, Any] = {"prompts": some}
        if music:
            given = {"audio": [read_music(file, melody.sample_rate) for file in some]}
        if music and method != "generate":
            given["heard"] = [told_beside(file) for file in some]

        def each(index: int, result: "Result") -> None:
            source = str(pathlib.Path(some[index]).resolve()) if music else None
            self._write(melody, wanted[index], result, source)

        getattr(melody, method)(**given, **options, seed=[seeds[i] for i in wanted], progress=True, each=each)

    def make_again(self, info: Mapping[str, Any], sound: str | None) -> None:
        """Makes the piece that the JSON `info` tells of, from the music in `sound` where it was made from music."""
        melody = self._melody()
        audio = None if sound is None else read_music(sound, melody.sample_rate)
        self._write(melody, 0, melody.replay(info, audio, progress=True), sound)

    def _melody(self) -> "Melody":
        from melody_jax.generate import Melody

        return Melody.load(self.bundle, adapters=self.adapters, programs=self.keep())

    def _write(self, melody: "Melody", index: int, result: "Result", source: str | None) -> None:
        for place, piece in self.files.write(melody, index, result, source):
            self.show(place, piece)


def told_beside(sound: str) -> Controls | None:
    """What the JSON beside a sound file says of its tempo, metre and downbeat: ours, or a sidecar; None without one. One that
    cannot be read is a warning."""
    file = storage.path(sound).with_suffix(".json")
    if not file.is_file():
        return None
    try:
        info = read_json(file)
        call = info.get("call") if isinstance(info, dict) else None
        return controls_in(call) if isinstance(call, dict) else from_sidecar(info)
    except UserError as error:
        warnings.warn(f"the tempo and metre that {file} tells cannot be read: {error}", stacklevel=2)
        return None


def music_of(call: Call, given: str | None, said_by: str) -> str | None:
    """The file of the music that a piece was made from: `given`, or the one that the call names. None: from none.

    Raises:
      UserError: it is not known, or cannot be read. `said_by` is the file that holds the call.
    """
    if call.sha256 is None:
        return None
    sound = given or call.file
    if sound is None:
        raise UserError(f"{said_by} was made from music; name that file with --music")
    check_music(sound)
    return sound
