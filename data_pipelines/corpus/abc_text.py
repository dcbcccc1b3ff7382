"""What the text of an ABC tune says beside its notes: fields, key, rhythm, and how long the pickup is.

The notes themselves are read by symusic; its result has no rhythm, no mode, and no place of the first bar line.
"""

import re
from fractions import Fraction

from data_pipelines.corpus.theory import Key

_LETTERS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
_MODES = {
    "": "major",
    "maj": "major",
    "ion": "major",
    "m": "minor",
    "min": "minor",
    "aeo": "minor",
    "dor": "dorian",
    "mix": "mixolydian",
}
# Order matters: the more particular word first.
_RHYTHMS = (
    ("slip jig", r"slip[\s-]?jig|hop jig"),
    ("double jig", r"double jig"),
    ("jig", r"\bjigg?s?\b|\bgigg?a?\b|\bslide\b"),
    ("strathspey", r"strathspey"),
    ("hornpipe", r"horn\s?pipe"),
    ("highland fling", r"fling"),
    ("reel", r"\breels?\b|\breele\b"),
    ("waltz", r"wal(t|s)z|walzer"),
    ("minuet", r"min+uet|menuet"),
    ("gavotte", r"gavot"),
    ("polka", r"\bpolka"),
    ("march", r"\bmarch|\bmarsch|quick\s?step|grenadier"),
    ("clog dance", r"\bclog"),
    ("cotillion", r"cotill?ion"),
    ("lullaby", r"lullaby|wiegenlied|cradle"),
    ("lament", r"\blament"),
    ("country dance", r"country dance|\bdance\b|tanz"),
    ("air", r"\bairs?\b"),
)
_NOTE = re.compile(r"[_^=]*[A-Ga-gxzZ][,']*(\d*)(/*)(\d*)")
_TUPLET = re.compile(r"\((\d)(?::(\d*))?(?::(\d*))?")


def split_tunes(text: str) -> list[str]:
    """The tunes of an ABC file, each from its X: field to the blank line that ends it, without comments."""
    text = text.replace("\r", "")
    tunes = []
    for chunk in re.split(r"(?m)^(?=X:)", text)[1:]:
        lines = []
        for line in chunk.split("\n"):
            if not line.strip():
                if any(done.startswith("K:") for done in lines):
                    break
                continue
            if not line.startswith("%"):
                lines.append(line)
        tunes.append("\n".join(lines) + "\n")
    return tunes


def field(tune: str, letter: str) -> str:
    """The first value of an information field ("T", "K", ...), without its comment; "" where it is missing."""
    match = re.search(rf"(?m)^{letter}:([^%\n]*)", tune)
    return match.group(1).strip() if match else ""


def parse_key(text: str) -> Key | None:
    """The key of a K: field, or None where it states none, or a mode that is not in theory.SCALES."""
    match = re.match(r"([A-G])(#|b)?\s*([A-Za-z]*)", text.strip())
    if not match or text.strip().startswith(("Hp", "HP")):
        return None
    letter, accidental, mode = match.groups()
    name = _MODES.get("maj" if mode == "M" else mode[:3].lower())
    if name is None:
        return None
    return Key((_LETTERS[letter] + {"#": 1, "b": -1, None: 0}[accidental]) % 12, name)


def rhythm_of(tune: str, compound: bool) -> str:
    """The dance or genre that the R: field, else the title, names; "" where neither does."""
    for text in (field(tune, "R"), field(tune, "T")):
        for name, pattern in _RHYTHMS:
            # "Air" and "dance" in a title may mean anything; only the R: field is believed there.
            if re.search(pattern, text, re.IGNORECASE) and (text == field(tune, "R") or name not in ("air", "lament")):
                return "jig" if name == "double jig" and not compound else name
    return ""


def pickup(tune: str, bar: int, ticks_per_quarter: int) -> int:
    """Length in ticks of what stands before the first bar line, or 0 where that is a full bar of `bar` ticks."""
    body = re.split(r"(?m)^K:.*\n", tune, maxsplit=1)[-1]
    body = re.sub(r"(?m)^[A-Za-z]:.*$", "", body)
    body = re.sub(r'"[^"]*"|![^!\n]*!|\{[^}]*\}|\[[A-Za-z]:[^\]]*\]|\\', "", body)
    body = re.sub(r"\[([_^=]*[A-Ga-g][,']*[\d/]*)[^\]|:]*\]", r"\1", body)
    unit = _unit(tune, bar, ticks_per_quarter)
    for first in re.split(r"\|+|:+", body.strip().lstrip("|:[] ")):
        length = _length(first)
        if length:
            ticks = int(length * unit)
            return ticks if ticks < bar else 0
    return 0


def _unit(tune: str, bar: int, ticks_per_quarter: int) -> Fraction:
    match = re.match(r"(\d+)\s*/\s*(\d+)", field(tune, "L"))
    if match:
        return Fraction(4 * ticks_per_quarter * int(match.group(1)), int(match.group(2)))
    # ABC 2.1, section 3.1.7: without L: the unit is 1/16 in metres under 3/4 and 1/8 in the others.
    return Fraction(ticks_per_quarter, 4 if bar < 3 * ticks_per_quarter else 2)


def _length(text: str) -> Fraction:
    """Length of a piece of ABC music in unit notes; broken rhythm (> and <) keeps the sum of its two notes."""
    total, scale, left, at = Fraction(0), Fraction(1), 0, 0
    while at < len(text):
        tuplet = _TUPLET.match(text, at)
        note = _NOTE.match(text, at)
        if tuplet:
            count = int(tuplet.group(1))
            inside = int(tuplet.group(2) or {2: 3, 3: 2, 4: 3, 6: 2, 8: 3}.get(count, 2))
            scale, left, at = Fraction(inside, count), int(tuplet.group(3) or count), tuplet.end()
        elif note:
            over, slashes, under = note.groups()
            length = Fraction(int(over or 1), int(under) if under else 2 ** len(slashes))
            total += length * (scale if left > 0 else 1)
            left, at = left - 1, note.end()
        else:
            at += 1
    return total
