"""The collections of music21's corpus: where each lies, what it is, and whether its licence lets us use it."""

import dataclasses
import importlib.util
import pathlib
import re

from melody_jax.errors import lacking


@dataclasses.dataclass(frozen=True)
class Collection:
    """One folder of the corpus.

    Attributes:
        name: the folder.
        pattern: glob of its files, relative to the folder.
        kind: "tunes" (ABC melodies) or "scores" (MusicXML or Humdrum, several parts).
        genre: what its pieces are called where no rhythm is stated.
        licence: the terms as the collection states them.
        restricted: True where non-commercial or unclear terms keep it out unless the caller asks for it.
    """

    name: str
    pattern: str
    kind: str
    genre: str
    licence: str
    restricted: bool = False


_PERMITTED = "public-domain music; encoding distributed by music21 (BSD) with the encoder's permission"
_ESSEN = "permission for non-commercial distribution only (essenFolksong/license.txt)"
_CCARH = "all rights to derivative electronic formats reserved (embedded licensing agreement)"

COLLECTIONS = (
    Collection("oneills1850", "*.abc", "tunes", "Irish tune", _PERMITTED),
    Collection("ryansMammoth", "*.abc", "tunes", "fiddle tune", _PERMITTED),
    Collection("airdsAirs", "*.abc", "tunes", "Scottish air", _PERMITTED),
    Collection("miscFolk", "*.abc", "tunes", "folk tune", _PERMITTED),
    Collection("bach", "*.mxl", "scores", "chorale", _PERMITTED),
    Collection("monteverdi", "*.mxl", "scores", "madrigal", _PERMITTED),
    Collection("trecento", "*.xml", "scores", "medieval song", _PERMITTED),
    Collection("mozart", "**/*.mxl", "scores", "classical chamber music", _PERMITTED),
    Collection("haydn", "**/*.mxl", "scores", "classical chamber music", _PERMITTED),
    Collection("beethoven", "**/*.mxl", "scores", "classical chamber music", _PERMITTED),
    Collection("schumann_robert", "**/*.mxl", "scores", "romantic chamber music", _PERMITTED),
    Collection("schumann_clara", "**/*.mxl", "scores", "romantic chamber music", "CC BY-SA 4.0 (embedded)"),
    Collection("corelli", "**/*.xml", "scores", "trio sonata", "CC BY (embedded)"),
    Collection("lusitano", "*.mxl", "scores", "motet", "CC0 (embedded)"),
    Collection("essenFolksong", "*.abc", "tunes", "folk song", _ESSEN, restricted=True),
    Collection("palestrina", "*.krn", "scores", "motet", _CCARH, restricted=True),
)

# Words inside a file by which its owner forbids what the rest of its collection allows.
FORBIDDEN = re.compile(r"all rights reserved|non-?commercial|licensing agreement|ut\s?orpheus", re.IGNORECASE)


def corpus_root() -> pathlib.Path:
    """The folder of music21's corpus, found without importing music21.

    Raises:
        UserError: music21 is not installed.
    """
    spec = importlib.util.find_spec("music21")
    if spec is None or spec.origin is None:
        raise lacking("data", "the built-in corpus", "no music21")
    return pathlib.Path(spec.origin).parent / "corpus"


def chosen(restricted: bool) -> tuple[Collection, ...]:
    """The collections in use: the free ones, and the restricted ones where asked for."""
    return tuple(c for c in COLLECTIONS if restricted or not c.restricted)
