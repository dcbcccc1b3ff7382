"""From a clip's spec to its score: who plays what, in which key, how fast, how loud; and the truth about it."""

import dataclasses
from typing import TypeVar

import numpy as np

from data_pipelines.clip import Truth
from data_pipelines.corpus import harmony, instruments, patterns, scores
from data_pipelines.corpus.instruments import DRUMS, Instrument
from data_pipelines.corpus.specs import ClipSpec
from data_pipelines.corpus.theory import Key

Line = TypeVar("Line")

_VELOCITY = {"soft": 60, "moderate": 82, "loud": 106}
_PLAYED_BY_HAND = {"plucked", "mallets", "keyboard"}  # chords that ring rather than sustain


@dataclasses.dataclass(frozen=True)
class Track:
    """What one player plays.

    Attributes:
        instrument: the sound.
        role: "lead", "harmony", "bass" or "drums".
        notes: float64 [n, 4]: onset (seconds), duration (seconds), pitch, velocity; sorted by onset.
    """

    instrument: Instrument
    role: str
    notes: np.ndarray


@dataclasses.dataclass(frozen=True)
class Arrangement:
    """A clip's score, ready to be rendered and described.

    Attributes:
        tracks: the players, the lead first.
        truth: what is true of the sound.
        dynamics: "soft", "moderate" or "loud".
        pace: word for the tempo as it is felt.
        ensemble: name of the group ("string quartet"), or "".
        metre: numerator and denominator.
        seconds: length for which the tracks suffice.
    """

    tracks: tuple[Track, ...]
    truth: Truth
    dynamics: str
    pace: str
    ensemble: str
    metre: tuple[int, int]
    seconds: float


@dataclasses.dataclass
class _Voice:
    """A line before performance: who plays it and its notes [n, 3 or 4] (onset, duration in ticks, pitch, velocity)."""

    instrument: Instrument
    role: str
    notes: np.ndarray


def arrange(spec: ClipSpec) -> Arrangement:
    """The arrangement of a spec: a pure function of it."""
    rng = np.random.default_rng(spec.seed)
    lines = _lines(np.array(spec.excerpt, np.int32))
    key = Key(spec.tonic, spec.mode)
    ensemble, cast = _cast(spec, rng, len(lines))
    if spec.texture == "scored":
        lines = _reduce(lines, len(cast))
    else:
        lines = lines[:1]
    voices = [_Voice(player, "harmony", line) for player, line in zip(cast, lines, strict=False)]
    voices[0].role = "lead"
    if len(voices) > 2:
        voices[-1].role = "bass"
    shift = _transposition(rng, voices)
    key = key.transposed(shift)
    for voice in voices:
        voice.notes = _placed(voice, shift)
    if spec.texture in ("duet", "chords", "ensemble"):
        voices += _accompaniment(spec, rng, cast, voices[0].notes, key)
    if spec.drums:
        bar, beat = _bar(spec), _beat(spec)
        voices.append(_Voice(DRUMS, "drums", patterns.drum_part(rng, _length(spec), beat, bar)))
    dynamics = str(rng.choice(list(_VELOCITY), p=(0.25, 0.5, 0.25)))
    tracks = tuple(_perform(rng, voice, spec, dynamics) for voice in voices)
    tracks = tuple(track for track in tracks if len(track.notes))
    pace = _pace(tracks[0], spec)
    truth = Truth(
        instruments=tuple(dict.fromkeys(track.instrument.name for track in tracks)),
        family=spec.family,
        families=tuple(dict.fromkeys(track.instrument.family for track in tracks if track.instrument.family)),
        tempo=float(spec.bpm),
        key=key.name,
        mode=key.mode,
        rhythm=spec.rhythm,
        texture=_texture(spec, tracks),
        mood=_mood(rng, pace, key, dynamics, tracks[0]),
        metre=f"{spec.numerator}/{spec.denominator}",
        downbeat=0.0,  # excerpts begin with a bar
        notes=_pitched_notes(tracks),
    )
    metre = (spec.numerator, spec.denominator)
    return Arrangement(tracks, truth, dynamics, pace, ensemble, metre, spec.seconds)


def _beat(spec: ClipSpec) -> int:
    return scores.beat_ticks(spec.numerator, spec.denominator)


def _bar(spec: ClipSpec) -> int:
    return scores.bar_ticks(spec.numerator, spec.denominator)


def _length(spec: ClipSpec) -> int:
    return int(np.ceil(spec.seconds * spec.bpm / 60 * _beat(spec)))


def _lines(excerpt: np.ndarray) -> list[np.ndarray]:
    """The parts of an excerpt as [n, 3] (onset, duration, pitch), highest first: the first is the one that leads.

    Doublings (also in octaves) and parts of fewer than five notes are left out.
    """
    parts = [excerpt[excerpt[:, 0] == part][:, 1:] for part in np.unique(excerpt[:, 0])]
    parts = sorted((part for part in parts if len(part) >= 5), key=lambda part: -part[:, 2].mean())
    kept: list[np.ndarray] = []
    heard: list[set] = []
    for part in parts:
        notes = {(onset, pitch % 12) for onset, _, pitch in part.tolist()}
        if all(len(notes & other) < 0.8 * len(notes) for other in heard):
            kept.append(part)
            heard.append(notes)
    return kept


def _reduce(lines: list[Line], count: int) -> list[Line]:
    """At most `count` lines or players: the top, the bottom, and those between from the top."""
    return lines if len(lines) <= count else [*lines[: count - 1], lines[-1]]


def _cast(spec: ClipSpec, rng, lines: int) -> tuple[str, list[Instrument]]:
    """Name of the ensemble ("" for none) and its players, the lead first, then from high to low."""
    if spec.texture in ("ensemble", "scored"):
        count = 4 if spec.texture == "ensemble" else min(lines, 4)
        name, players = _ensemble(rng, spec.family)
        if not spec.one_family:
            lead = _choose(rng, instruments.leads_of(spec.family))
            others = [family for family in instruments.FAMILIES if family != spec.family]
            players = [lead, *_ensemble(rng, str(rng.choice(others)))[1][1:]]
            name = ""
        return name if count == 4 else "", _reduce(players, count)
    lead = _choose(rng, instruments.leads_of(spec.family))
    if spec.texture == "solo":
        return "", [lead]
    if spec.texture == "duet":
        family = spec.family
        if not spec.one_family:
            family = str(rng.choice([name for name in instruments.FAMILIES if name != spec.family]))
        second = lead if spec.one_family and rng.random() < 0.4 else _choose(rng, instruments.leads_of(family))
        return "", [lead, second]
    return "", [lead, *_accompanists(spec, rng, lead)]


def _accompanists(spec: ClipSpec, rng, lead: Instrument) -> list[Instrument]:
    """Who plays the chords and, most times, the bass."""
    if spec.one_family:
        names = instruments.FAMILY_CHORDS[spec.family]
        chords = lead.name if lead.name in names and rng.random() < 0.6 else str(rng.choice(names))
        basses = instruments.FAMILY_BASS[spec.family]
        bass = chords if chords in basses else str(rng.choice(basses))
    else:
        names = [n for n in instruments.CHORD_PLAYERS if instruments.BY_NAME[n].family != spec.family]
        chords, bass = str(rng.choice(names)), str(rng.choice(instruments.BASS_PLAYERS))
        if rng.random() < 0.3:
            bass = chords  # the left hand
    with_bass = rng.random() < 0.7
    return [instruments.BY_NAME[name] for name in ((chords, bass) if with_bass else (chords,))]


def _choose(rng, candidates) -> Instrument:
    weights = np.array([candidate.weight for candidate in candidates])
    return candidates[int(rng.choice(len(candidates), p=weights / weights.sum()))]


def _ensemble(rng, family: str) -> tuple[str, list[Instrument]]:
    options = instruments.ENSEMBLES[family]
    weights = np.array([weight for _, weight, _ in options])
    name, _, players = options[int(rng.choice(len(options), p=weights / weights.sum()))]
    return name or "", [instruments.BY_NAME[player] for player in players]


def _compass(voice: _Voice) -> tuple[int, int]:
    """An instrument with chords has a left hand, an octave below what it leads with."""
    low = voice.instrument.low
    return (low - 12 if voice.role != "lead" and voice.instrument.chords else low), voice.instrument.high


def _transposition(rng, voices: list[_Voice]) -> int:
    """Semitones, -6 to 5, drawn evenly from those that leave the fewest notes outside the players' compass."""
    costs = []
    for shift in range(-6, 6):
        cost = 0.0
        for voice in voices:
            low, high = _compass(voice)
            pitches = voice.notes[:, 2] + shift + _octaves(voice, shift)
            cost += (3 if voice.role == "lead" else 1) * np.mean((pitches < low) | (pitches > high))
        costs.append(cost)
    best = np.flatnonzero(np.array(costs) <= min(costs) + 0.02)
    return int(rng.choice(best)) - 6


def _octaves(voice: _Voice, shift: int) -> int:
    """The whole octaves by which a line moves to fit its player's compass, as few as possible."""
    low, high = _compass(voice)
    pitches = voice.notes[:, 2] + shift
    options = sorted(range(-36, 37, 12), key=abs)
    outside = [np.mean((pitches + o < low) | (pitches + o > high)) for o in options]
    return options[int(np.argmin(outside))]


def _placed(voice: _Voice, shift: int) -> np.ndarray:
    """The line transposed; single notes outside the compass move by octaves."""
    notes = voice.notes.copy()
    notes[:, 2] += shift + _octaves(voice, shift)
    return _folded(notes, *_compass(voice))


def _folded(notes: np.ndarray, low: int, high: int) -> np.ndarray:
    notes[:, 2] += 12 * np.maximum(0, -((notes[:, 2] - low) // 12)) * (notes[:, 2] < low)
    notes[:, 2] -= 12 * np.maximum(0, -((high - notes[:, 2]) // 12)) * (notes[:, 2] > high)
    return notes


def _accompaniment(spec: ClipSpec, rng, cast, melody: np.ndarray, key: Key) -> list[_Voice]:
    """The voices that the arrangement adds to a melody."""
    beat, bar, length = _beat(spec), _bar(spec), _length(spec)
    step = bar // 2 if bar // beat == 4 or (bar // beat == 2 and spec.bpm < 72) else bar
    chords = harmony.harmonise(melody, key, length, step)
    if spec.texture == "duet":
        second = _Voice(cast[1], "harmony", harmony.second_voice(melody, key))
        if rng.random() < 0.5 or cast[1].high < 76:
            second.notes = patterns.bass_part(chords, str(rng.choice(["off-beat", "sustained"])), beat, bar, 48)
        second.notes = _placed(second, 0)
        return [second]
    centre = int(np.clip(melody[:, 2].mean() - 9, 50, 64)) if melody[:, 2].mean() >= 57 else 62
    if spec.texture == "ensemble":
        voices = [_Voice(cast[n], "harmony", np.zeros((0, 3), np.int32)) for n in (1, 2)]
        block = patterns.chord_part(chords, "sustained", beat, bar, centre)
        for number, voice in enumerate(voices):
            voice.notes = _placed(_Voice(voice.instrument, voice.role, block[2 - number :: 3]), 0)
        low = max(cast[3].low - (12 if cast[3].chords else 0), 36)
        bass = patterns.bass_part(chords, str(rng.choice(["sustained", "off-beat"])), beat, bar, low)
        return [*voices, _Voice(cast[3], "bass", bass)]
    style = _style(rng, cast[1])
    voices = [_Voice(cast[1], "harmony", patterns.chord_part(chords, style, beat, bar, centre))]
    voices[0].notes = _folded(voices[0].notes, *_compass(voices[0]))
    if len(cast) > 2:
        low = max(cast[2].low - (12 if cast[2].chords else 0), 28)
        voices.append(_Voice(cast[2], "bass", patterns.bass_part(chords, style, beat, bar, low)))
    return voices


def _style(rng, player: Instrument) -> str:
    rings = player.family in _PLAYED_BY_HAND
    return str(rng.choice(patterns.STYLES, p=(0.1, 0.3, 0.4, 0.2) if rings else (0.5, 0.25, 0.05, 0.2)))


def _perform(rng, voice: _Voice, spec: ClipSpec, dynamics: str) -> Track:
    """Ticks become seconds, with accents on the beat, small irregularities of time and force, and an articulation."""
    notes = voice.notes[np.argsort(voice.notes[:, 0], kind="stable")]
    beat, bar = _beat(spec), _bar(spec)
    second = 60 / (spec.bpm * beat)
    onset = notes[:, 0] * second
    late = np.clip(rng.normal(0, 0.006, len(notes)), -0.015, 0.015) * (onset > 0)
    length = float(rng.choice((1.0, 0.92, 0.75), p=(0.4, 0.4, 0.2))) if voice.role == "lead" else 0.97
    velocity = notes[:, 3] if notes.shape[1] == 4 else np.full(len(notes), 82)
    velocity = velocity + _VELOCITY[dynamics] - 82 + rng.normal(0, 4, len(notes))
    velocity = velocity + 6 * (notes[:, 0] % bar == 0) - 4 * (notes[:, 0] % beat != 0)
    rows = np.stack([onset + late, notes[:, 1] * second * length, notes[:, 2], np.clip(velocity.round(), 30, 124)], -1)
    return Track(voice.instrument, voice.role, rows[(onset < spec.seconds) & (rows[:, 1] > 0)])


def _pitched_notes(tracks: tuple[Track, ...]) -> tuple[tuple[float, float, int, int], ...]:
    """`Truth.notes` of tracks, to the millisecond, by onset."""
    pitched = [track for track in tracks if track.role != "drums"]
    rows = [
        (round(onset, 3), round(duration, 3), int(pitch), number)
        for number, track in enumerate(pitched)
        for onset, duration, pitch, _ in track.notes.tolist()
    ]
    return tuple(sorted(rows))


def _texture(spec: ClipSpec, tracks) -> str:
    pitched = [track for track in tracks if track.role != "drums"]
    if spec.texture == "chords":
        name = "melody with chords and bass" if len(pitched) > 2 else "melody with chords"
    elif len(pitched) == 1:
        name = "solo"
    elif spec.texture == "duet":
        name = "duet"
    else:
        name = {2: "two-part", 3: "three-part", 4: "four-part"}[len(pitched)]
    if not spec.drums:
        return name
    return f"{name.replace(' and ', ', ')} and drums" if name.startswith("melody") else f"{name} with drums"


def _pace(lead: Track, spec: ClipSpec) -> str:
    """Word for the felt tempo: the mean of the counted beat and half the notes a minute, in the sense of ratios.

    With two notes to a beat, as usual, it is the counted tempo itself.
    """
    onsets = np.unique(lead.notes[:, 0].round(2))
    felt = np.sqrt(spec.bpm * 30 * len(onsets) / spec.seconds)
    words = (("very slow", 48), ("slow", 68), ("moderate", 96), ("lively", 122), ("fast", 150), ("very fast", np.inf))
    return next(word for word, limit in words if felt < limit)


_MOODS = {
    ("slow", False): ("peaceful", "calm", "gentle", "warm", "serene", "tender"),
    ("slow", True): ("melancholic", "sad", "mournful", "sombre", "lonely", "reflective"),
    ("moderate", False): ("pleasant", "graceful", "bright", "friendly", "relaxed"),
    ("moderate", True): ("wistful", "thoughtful", "plaintive", "nostalgic", "mysterious"),
    ("fast", False): ("cheerful", "joyful", "energetic", "playful", "happy", "sprightly"),
    ("fast", True): ("restless", "urgent", "spirited", "dramatic", "driving", "tense"),
}


def _mood(rng, pace: str, key: Key, dynamics: str, lead: Track) -> tuple[str, ...]:
    """Two or three words: from tempo and mode, then from force, else from the register."""
    speed = {"very slow": "slow", "slow": "slow", "moderate": "moderate"}.get(pace, "fast")
    words = rng.choice(_MOODS[speed, key.minor_third], size=1 + int(rng.integers(2)), replace=False)
    first = [str(word) for word in words]
    height = lead.notes[:, 2].mean()
    if dynamics != "moderate":
        words = ("soft", "delicate", "quiet") if dynamics == "soft" else ("bold", "powerful", "strong")
    else:
        words = ("deep", "mellow") if height < 55 else ("light", "sparkling") if height > 79 else ()
    return (*first, *([str(rng.choice(words))] if words else []))
