"""Controls: what one may fix about a piece beside its sentence, as a few tokens that stand before the semantic ones.

A piece has one code in each of SLOTS; 0 is "unknown" in every slot, so that absent controls and dropped ones are the
same thing. Tokens of different slots are different ids of the language model (codes/vocabulary.py).

Tempo, metre and phase together say where in its beat and in its bar every moment stands (`Vocabulary.beats`): a language
model with `LMConfig.beats` knows when the next one is due.
"""

import dataclasses
import math
from typing import Any

import numpy as np

from melody_jax.codes.instruments import NAMES

UNKNOWN = 0
"""The code of what is not known, in every slot."""
MOST_INSTRUMENTS = 4
SLOTS: tuple[str, ...] = (
    "tempo", "key", "metre", "drums", "phase", *(f"instrument_{n + 1}" for n in range(MOST_INSTRUMENTS)),
)  # fmt: skip
SLOWEST, FASTEST = 40.0, 208.0
"""Tempi that can be asked for, beats per minute."""
FARTHEST = 1e6
"""Seconds from the start, before it or behind it, within which a downbeat must lie."""
BEATS: dict[str, int] = {
    "2/4": 2, "3/4": 3, "4/4": 4, "6/8": 2, "9/8": 3, "12/8": 4, "3/8": 1, "2/2": 2, "3/2": 3, "4/2": 4, "6/4": 2,
    "5/4": 5, "7/8": 7, "5/8": 5, "other": 0,
}  # fmt: skip
"""{metre: counted beats in a bar, dotted ones in compound metres; 0 where unknown}."""
METRES: tuple[str, ...] = tuple(BEATS)
PHASE_STEPS = 24
"""Steps of a beat in which the phase is told."""
TONICS: dict[str, tuple[str, ...]] = {
    "major": ("C", "D-flat", "D", "E-flat", "E", "F", "F-sharp", "G", "A-flat", "A", "B-flat", "B"),
    "minor": ("C", "C-sharp", "D", "E-flat", "E", "F", "F-sharp", "G", "G-sharp", "A", "B-flat", "B"),
}
"""{mode: the usual spelling of each tonic}."""
MODES: tuple[str, ...] = tuple(TONICS)
_NO_MORE = len(NAMES) + 1  # no further instrument, which is known
SIZES: tuple[int, ...] = (
    1 + round(FASTEST - SLOWEST) + 1, 1 + 12 * len(MODES), 1 + len(METRES), 1 + 2, 1 + PHASE_STEPS * max(BEATS.values()),
    *(1 + len(NAMES) + 1,) * MOST_INSTRUMENTS,
)  # fmt: skip
"""Number of codes in each slot, "unknown" among them."""


@dataclasses.dataclass(frozen=True)
class Controls:
    """What is known or wanted of a piece; None or () is unknown.

    Attributes:
        tempo: beats per minute, SLOWEST to FASTEST.
        key: tonic (pitch class, C = 0) and one of MODES.
        metre: one of METRES.
        drums: whether a drum kit plays.
        instruments: some of instruments.NAMES without repeats, the leading one first; the drum kit is not among them.
        only: whether nothing but `instruments` (and drums) plays. False leaves it open who joins them.
        downbeat: seconds from the start to the first beat of a bar. It counts where the tempo is known; where the metre is
            not, it is any beat.

    Raises:
        ValueError: a value outside these.
    """

    tempo: float | None = None
    key: tuple[int, str] | None = None
    metre: str | None = None
    drums: bool | None = None
    instruments: tuple[str, ...] = ()
    only: bool = True
    downbeat: float | None = None

    def __post_init__(self):
        if self.tempo is not None and not SLOWEST <= self.tempo <= FASTEST:
            raise ValueError(f"a tempo of {self.tempo} bpm")
        if self.key is not None and not (self.key[0] in range(12) and self.key[1] in MODES):
            raise ValueError(f"a key {self.key}")
        if self.metre is not None and self.metre not in METRES:
            raise ValueError(f"a metre {self.metre}")
        if len(set(self.instruments)) < len(self.instruments) or not set(self.instruments) <= set(NAMES):
            raise ValueError(f"instruments {self.instruments}")
        if self.downbeat is not None and not -FARTHEST <= self.downbeat <= FARTHEST:
            raise ValueError(f"a downbeat after {self.downbeat} seconds")

    def __bool__(self) -> bool:
        """Whether anything is known."""
        return self != Controls(only=self.only)


def encode(controls: Controls) -> np.ndarray:
    """The codes of a piece, int32 [len(SLOTS)]. Of more than MOST_INSTRUMENTS instruments the first ones count.

    The tempo is told in whole beats per minute, the phase in 1 / PHASE_STEPS beats.
    """
    tempo = key = metre = drums = phase = UNKNOWN
    if controls.tempo is not None:
        tempo = 1 + round(controls.tempo - SLOWEST)
        if controls.downbeat is not None:
            bar = max(BEATS.get(controls.metre or "", 0), 1)
            phase = 1 + round(-controls.downbeat * controls.tempo / 60 * PHASE_STEPS) % (bar * PHASE_STEPS)
    if controls.key is not None:
        key = 1 + controls.key[0] + 12 * MODES.index(controls.key[1])
    if controls.metre is not None:
        metre = 1 + METRES.index(controls.metre)
    if controls.drums is not None:
        drums = 1 + int(controls.drums)
    players = [1 + NAMES.index(name) for name in controls.instruments[:MOST_INSTRUMENTS]]
    rest = _NO_MORE if players and controls.only else UNKNOWN
    players += [rest] * (MOST_INSTRUMENTS - len(players))
    return np.array([tempo, key, metre, drums, phase, *players], np.int32)


def decode(codes: np.ndarray) -> Controls:
    """What codes [len(SLOTS)] say; of downbeats the first that is not before the start.

    Raises:
        ValueError: not one code for each slot, or one that its slot has not.
    """
    if codes.shape != (len(SLOTS),) or np.any(codes < 0) or np.any(codes >= SIZES):
        raise ValueError(f"codes of controls are {len(SLOTS)} numbers below {SIZES}, got {codes}")
    tempo, key, metre, drums, phase, *players = (int(code) for code in codes)
    names = [NAMES[code - 1] for code in players if code not in (UNKNOWN, _NO_MORE)]
    open_end = bool(names) and len(names) < MOST_INSTRUMENTS and _NO_MORE not in players
    bpm = SLOWEST + tempo - 1
    bar = max(BEATS[METRES[metre - 1]] if metre else 0, 1)
    return Controls(
        tempo=bpm if tempo else None,
        key=((key - 1) % 12, MODES[(key - 1) // 12]) if key else None,
        metre=METRES[metre - 1] if metre else None,
        drums=drums == 2 if drums else None,
        instruments=tuple(dict.fromkeys(names)),
        only=not open_end,
        downbeat=(1 - phase) % (bar * PHASE_STEPS) / PHASE_STEPS * 60 / bpm if tempo and phase else None,
    )


def merge(flags: Controls, sentence: Controls) -> tuple[Controls, list[str]]:
    """What is wanted when both say something: flags win, and each contradiction is said in one line.

    Instruments are taken from one of the two as a whole.
    """
    contradictions = []
    for name in ("tempo", "key", "metre", "drums"):
        wanted, said = getattr(flags, name), getattr(sentence, name)
        agree = abs(math.log(wanted / said)) < 0.04 if name == "tempo" and wanted and said else wanted == said
        if wanted is not None and said is not None and not agree:
            contradictions.append(_contradiction(name, to_json(flags)[name], to_json(sentence)[name]))
    if flags.instruments and not set(sentence.instruments) <= set(flags.instruments):
        wanted, said = (", ".join(controls.instruments) for controls in (flags, sentence))
        contradictions.append(_contradiction("instruments", wanted, said))
    players = flags if flags.instruments else sentence
    merged = Controls(
        tempo=sentence.tempo if flags.tempo is None else flags.tempo,
        key=flags.key or sentence.key,
        metre=flags.metre or sentence.metre,
        drums=sentence.drums if flags.drums is None else flags.drums,
        instruments=players.instruments,
        only=players.only,
        downbeat=sentence.downbeat if flags.downbeat is None else flags.downbeat,
    )
    return merged, contradictions


def _contradiction(name: str, wanted: Any, said: Any) -> str:
    words = {True: "yes", False: "no"}
    wanted, said = (
        words[v] if isinstance(v, bool) else f"{v:g}" if isinstance(v, float) else v for v in (wanted, said)
    )
    return f"{name}: {wanted}, as asked for; the sentence says {said}"


def key_name(key: tuple[int, str]) -> str:
    """A key as one says it: "B-flat major", "D minor"."""
    return f"{TONICS[key[1]][key[0]]} {key[1]}"


def to_json(controls: Controls) -> dict[str, Any]:
    """What is known, as plain JSON values: {"tempo": 96.0, "key": "D minor", "instruments": ["violin"], ...}.

    "others" is true where further instruments may join those named.
    """
    known: dict[str, Any] = {}
    if controls.tempo is not None:
        known["tempo"] = controls.tempo
    if controls.key is not None:
        known["key"] = key_name(controls.key)
    if controls.metre is not None:
        known["metre"] = controls.metre
    if controls.drums is not None:
        known["drums"] = controls.drums
    if controls.downbeat is not None:
        known["downbeat"] = controls.downbeat
    if controls.instruments:
        known |= {"instruments": list(controls.instruments), "others": not controls.only}
    return known
