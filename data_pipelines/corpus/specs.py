"""Chooses what to render: for every clip a tune, a window of it, and the choices that describe the arrangement.

A spec is cheap, the same for the same seed, and complete: each clip can be rendered by itself, in any order, by any
process. The first n clips of a split are the same however many are asked for.
"""

import dataclasses
import math
import os

import numpy as np

from data_pipelines.corpus import index, scores, theory
from data_pipelines.corpus.instruments import FAMILIES
from data_pipelines.corpus.sources import COLLECTIONS

# Shares of the textures among clips of one family and among mixed ones. "scored" has the parts of a real score.
_ONE_FAMILY = {"solo": 0.35, "duet": 0.15, "chords": 0.25, "ensemble": 0.08, "scored": 0.17}
_MIXED = {"duet": 0.15, "chords": 0.5, "ensemble": 0.1, "scored": 0.25}
ONE_FAMILY_SHARE = 0.55
DRUM_SHARE = 0.2  # of all clips; all of them mixed, and with an accompaniment
_SLOW = {"air", "lullaby", "lament", "chorale", "motet", "medieval song", "madrigal", "song"}
_DANCES = {"reel", "jig", "double jig", "slip jig", "hornpipe", "polka", "clog dance", "highland fling", "march"}
_GENRES = {collection.name: collection.genre for collection in COLLECTIONS}
_KINDS = {collection.name: collection.kind for collection in COLLECTIONS}
_TRIES = 40


@dataclasses.dataclass(frozen=True)
class ClipSpec:
    """Everything that determines one clip.

    Attributes:
        id: split and number, e.g. "train-000012".
        split: where the clip stands.
        seed: of the arrangement's own choices.
        tune: the tune's identity; no tune stands in two splits.
        title, source, licence: of the piece.
        rhythm: dance or genre.
        numerator, denominator: metre.
        tonic, mode: key of the excerpt as written, before transposition.
        bpm: counted beats per minute.
        excerpt: (part, onset, duration, pitch) in ticks of scores.TICKS to a quarter note, from a downbeat at 0.
        seconds: length for which the excerpt suffices.
        family: of the leading instrument.
        one_family: whether all instruments are of that family.
        texture: "solo", "duet", "chords", "ensemble" (harmonised by rule) or "scored" (the score's own parts).
        drums: whether drums play.
    """

    id: str
    split: str
    seed: int
    tune: str
    title: str
    source: str
    licence: str
    rhythm: str
    numerator: int
    denominator: int
    tonic: int
    mode: str
    bpm: int
    excerpt: tuple[tuple[int, int, int, int], ...]
    seconds: float
    family: str
    one_family: bool
    texture: str
    drums: bool


def specify(
    seed: int,
    clips: dict[str, int],
    folder: str | os.PathLike,
    seconds: float = 10.0,
    restricted: bool = False,
    workers: int | None = None,
) -> list[ClipSpec]:
    """Chooses the clips of each split.

    Families are drawn evenly; every tune of a split is used once before any is used again.

    Args:
        seed: determines everything.
        clips: number of clips of each split ("train", "validation", "test").
        folder: where the parsed corpus lies or is to be written (see index.load).
        seconds: length of a clip.
        restricted: also use collections whose licence is non-commercial or unclear.
        workers: processes that parse the corpus where it is not parsed yet.

    Raises:
        ValueError: an unknown split, or one whose pieces do not suffice.
    """
    return specify_entries(index.load(folder, restricted, workers), seed, clips, seconds)


def specify_entries(
    entries: list[index.Entry], seed: int, clips: dict[str, int], seconds: float = 10.0
) -> list[ClipSpec]:
    """As `specify`, of pieces that are at hand."""
    unknown = set(clips) - set(index.SPLITS)
    if unknown:
        raise ValueError(f"unknown split {sorted(unknown)[0]!r}; the splits are {', '.join(index.SPLITS)}")
    specs = []
    for split, count in clips.items():
        number = list(index.SPLITS).index(split)
        decks = {}
        for k, kind in enumerate(("tunes", "scores")):
            cards = [e for e in entries if e.split == split and _KINDS[e.piece.collection] == kind]
            decks[kind] = _Deck(cards, (seed, number, k))
        for clip in range(count):
            rng = np.random.default_rng((seed, number, 7, clip))
            family = FAMILIES[np.random.default_rng((seed, number, 8, clip // 7)).permutation(7)[clip % 7]]
            specs.append(_clip(f"{split}-{clip:06d}", split, rng, family, decks, seconds))
    return specs


class _Deck:
    """Entries in a shuffled order that deals every tune once before it deals one again."""

    def __init__(self, entries: list[index.Entry], seed: tuple[int, ...]):
        self._tunes: dict[str, list[index.Entry]] = {}
        for entry in entries:
            self._tunes.setdefault(entry.tune, []).append(entry)
        self._rng = np.random.default_rng(seed)
        self._order: list[str] = []

    def deal(self) -> index.Entry | None:
        """The next entry; None of an empty deck."""
        if not self._tunes:
            return None
        if not self._order:
            names = list(self._tunes)
            self._order = [names[i] for i in self._rng.permutation(len(names))]
        versions = self._tunes[self._order.pop()]
        return versions[self._rng.integers(len(versions))]


def _clip(name: str, split: str, rng, family: str, decks, seconds: float) -> ClipSpec:
    one_family = bool(rng.random() < ONE_FAMILY_SHARE)
    shares = _ONE_FAMILY if one_family else _MIXED
    texture = str(rng.choice(list(shares), p=list(shares.values())))
    drums_here = DRUM_SHARE / (1 - ONE_FAMILY_SHARE) / (1 - _MIXED["duet"])
    drums = bool(not one_family and texture != "duet" and rng.random() < drums_here)
    for _ in range(_TRIES):
        entry = decks["scores" if texture == "scored" else "tunes"].deal()
        if entry is None:
            break
        piece = entry.piece
        bpm = _tempo(rng, piece)
        window = _window(rng, piece, bpm, seconds)
        if window is None:
            continue
        excerpt, key = window
        return ClipSpec(
            id=name,
            split=split,
            seed=int(rng.integers(2**31)),
            tune=entry.tune,
            title=piece.title,
            source=f"corpus/{piece.source}",
            licence=piece.licence,
            rhythm=_rhythm(piece, bpm),
            numerator=piece.numerator,
            denominator=piece.denominator,
            tonic=key.tonic,
            mode=key.mode,
            bpm=bpm,
            excerpt=tuple((part, onset, duration, pitch) for part, onset, duration, pitch in excerpt.tolist()),
            seconds=seconds,
            family=family,
            one_family=one_family,
            texture=texture,
            drums=drums,
        )
    raise ValueError(f"no piece of the split {split!r} suits a clip of {seconds} s with texture {texture!r}")


def _tempo(rng, piece: scores.Piece) -> int:
    """Beats per minute, usual for the kind of piece two times in three; within 0.9 to 7 notes a second."""
    genre = piece.rhythm or _GENRES[piece.collection]
    low, high = (84, 152) if genre in _DANCES else (52, 104) if genre in _SLOW else (60, 140)
    if rng.random() < 1 / 3:
        low, high = 54, 152
    bpm = low * (high / low) ** rng.random()
    parts, counts = np.unique(piece.notes[:, 0], return_counts=True)
    beat = scores.beat_ticks(piece.numerator, piece.denominator)
    span = (piece.notes[:, 1].max() - piece.notes[:, 1].min()) / beat
    per_beat = counts.max() / max(span, 1)
    return round(min(max(bpm, 60 * 0.9 / per_beat, 44), 60 * 7.0 / per_beat, 184))


def _window(rng, piece: scores.Piece, bpm: int, seconds: float):
    """A window of whole bars that sounds all the time, and its key; None where a few attempts find none.

    Where the piece is too short it is played again from its first bar.
    """
    beat = scores.beat_ticks(piece.numerator, piece.denominator)
    bar = piece.bar
    length = math.ceil(seconds * bpm / 60 * beat)
    notes = piece.notes
    bars = math.ceil(int((notes[:, 1] + notes[:, 2]).max()) / bar)
    for _ in range(4):
        start = int(rng.integers(0, max(bars - math.ceil(length / bar), 0) + 1)) * bar
        rounds = math.ceil((start + length) / (bars * bar))
        played = np.concatenate([notes + np.array([0, number * bars * bar, 0, 0]) for number in range(rounds)])
        played = played[np.argsort(played[:, 1], kind="stable")]
        excerpt = _cut(played, start, length)
        if _KINDS[piece.collection] == "tunes" and len(excerpt):
            excerpt = excerpt[excerpt[:, 0] == np.bincount(excerpt[:, 0]).argmax()]
        if not _sounds(excerpt, length, beat, bpm, _KINDS[piece.collection] == "scores"):
            continue
        key, confidence = theory.settle_key(theory.pitch_class_weights(excerpt), piece.key)
        if confidence >= 0.05:
            return excerpt, key
    return None


def _cut(notes: np.ndarray, start: int, length: int) -> np.ndarray:
    ends = np.minimum(notes[:, 1] + notes[:, 2], start + length)
    onsets = np.maximum(notes[:, 1], start)
    kept = (ends - onsets >= 30) & (notes[:, 1] < start + length)
    return np.stack([notes[:, 0], onsets - start, ends - onsets, notes[:, 3]], -1)[kept]


def _sounds(excerpt: np.ndarray, length: int, beat: int, bpm: int, several: bool) -> bool:
    """Whether a window begins with sound, has no gap over 0.9 s in its leading part, and enough notes."""
    if len(excerpt) < 8:
        return False
    parts = [excerpt[excerpt[:, 0] == part] for part in np.unique(excerpt[:, 0])]
    if several and sum(len(part) >= 5 for part in parts) < 2:
        return False
    top = max((part for part in parts if len(part) >= 5), key=lambda part: part[:, 3].mean(), default=None)
    if top is None:
        return False
    ends = np.maximum.accumulate(np.concatenate([[0], top[:, 1] + top[:, 2]]))
    gaps = np.append(top[:, 1], length) - ends
    longest = gaps.max() / beat * 60 / bpm
    return bool(longest <= 0.9 and excerpt[:, 1].min() == 0 and top[0, 1] / beat * 60 / bpm <= 0.25)


def _rhythm(piece: scores.Piece, bpm: int) -> str:
    """The stated dance or genre, else what the metre and tempo make of it, else what its collection holds."""
    if piece.rhythm:
        return piece.rhythm
    if _KINDS[piece.collection] == "tunes":
        metre = (piece.numerator, piece.denominator)
        if metre in ((3, 4), (3, 8)):
            return "waltz"
        if metre == (9, 8) and bpm >= 84:
            return "slip jig"
        if metre == (6, 8) and bpm >= 84:
            return "jig"
    return _GENRES[piece.collection]
