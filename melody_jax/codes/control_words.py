"""Controls in words: what flags say, what a sentence names, what the JSON beside a sound file tells.

A sentence is read with care rather than zeal: a word that might mean something else is left to the sentence's embedding.
"""

import difflib
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from melody_jax.codes import instruments as names
from melody_jax.codes.controls import FARTHEST, FASTEST, METRES, MOST_INSTRUMENTS, SLOWEST, Controls, merge
from melody_jax.errors import UserError

# Only ASCII's letters have two cases: what matches is then found in the tables below.
_FLAGS = re.IGNORECASE | re.ASCII
_LETTERS = {"c": 0, "d": 2, "e": 4, "f": 5, "g": 7, "a": 9, "b": 11}
_SIGNS = {"flat": -1, "b": -1, "♭": -1, "sharp": 1, "#": 1, "♯": 1}
_MODES = {
    "major": "major", "maj": "major", "ionian": "major", "mixolydian": "major", "lydian": "major",
    "minor": "minor", "min": "minor", "dorian": "minor", "aeolian": "minor", "phrygian": "minor",
}  # fmt: skip
"""{mode: what it counts as}: by the third of its tonic triad."""
_DANCES = {
    "waltz": "3/4", "viennese waltz": "3/4", "minuet": "3/4", "menuet": "3/4", "mazurka": "3/4", "ländler": "3/4",
    "polonaise": "3/4", "jig": "6/8", "double jig": "6/8", "single jig": "6/8", "slip jig": "9/8", "hop jig": "9/8",
    "tarantella": "6/8", "polka": "2/4",
}  # fmt: skip
"""{dance: its metre}, where it has one: reels, marches, hornpipes and airs are written in several."""
_TIMES = {
    "three four": "3/4", "three quarter": "3/4", "four four": "4/4", "six eight": "6/8", "nine eight": "9/8",
    "two four": "2/4", "twelve eight": "12/8", "five four": "5/4", "waltz": "3/4", "common": "4/4", "cut": "2/2",
}  # fmt: skip
_SIGN = r"(?:\s*-?\s*((?i:flat|sharp))\b|\s?([#♯♭]|b(?![a-z])|b(?=m(?:aj|in)?\b|maj|min)))?"
_MODE = r"(major|minor|maj|min|dorian|mixolydian|ionian|aeolian|lydian|phrygian)\b"
_STRICT_KEY = re.compile(
    rf"(?:in |key of )?([A-Ga-g]){_SIGN}(?:[\s-]*(?:(?:natural|harmonic|melodic)\s+)?(?:(?i:{_MODE})|(?P<short>[mM])\b))?\.?",
    re.ASCII,
)
_KEY = re.compile(
    rf"(?<![\w#♯♭/'’])(?P<of>in |in the key of |key of |key is |key: ?)?(?P<tonic>[A-Ga-g]){_SIGN}"
    rf"[\s-]+(?:(?:natural|harmonic|melodic)\s+)?(?i:{_MODE})",
    re.ASCII,
)
_SHORT_KEY = re.compile(rf"\b(?:in|key of|key:|key is) (?:the key of )?([A-G]){_SIGN}(?:(m|min|maj)\b|(?=[\s.,;)]|$))")
# What makes a chord of a key's name, or an adjective of its mode: "a C major chord", "in a minor key".
_CHORD = re.compile(r"[\s-]*(chords?|triads?|arpeggios?|sevenths?|7|9|scales? runs?)\b", _FLAGS)
_ADJECTIVE = re.compile(
    r"[\s-]*(keys?|modes?|scales?|tonality|tonalities|mood|feel|thirds?|sixths?|sevenths?)\b", re.IGNORECASE
)
_BREAK = re.compile(r"\s*(?:$|[.,;:)!?])")
_AFTER_A = re.compile(r"\s*(?:$|[.;:)!?]|(?:at|for|with|played|by|around)\b)")
_NUMBER = r"(\d{2,3}(?:\.\d+)?)"
_TEMPO = re.compile(
    rf"(?<![\d.])(?:{_NUMBER}\s*(?:-|–|to|and)\s*)?{_NUMBER}\s*-?\s*(?:bpm\b|b\.p\.m|beats\s*(?:per|a|/)\s*min)"
    rf"|\b(?:bpm|tempo)(?:\s+(?:of|is|around|about)|\s*[:=])*\s*{_NUMBER}\b(?!\s*%)",
    _FLAGS,
)
_FRACTION = re.compile(r"(?<![\d/.,])(\d{1,2})\s?/\s?(\d{1,2})(?![\d/%]|\s*(?:of|th|inch)\b)")
_TIME = re.compile(
    r"\b(" + "|".join(words.replace(" ", r"[\s-]") for words in _TIMES) + r")[\s-]+(?:time|metre|meter|beat|feel)\b",
    _FLAGS,
)
_DANCE = re.compile(
    r"\b(" + "|".join(sorted((w.replace(" ", r"[\s-]") for w in _DANCES), key=len, reverse=True)) + r")(?:e?s)?\b(?!-)",
    _FLAGS,
)
_DRUMS = re.compile(
    r"(?<!steel )(?<!steel-)(?<!hand )(?<!frame )(?<!talking )(?<!bass )(?<!ear)(?<![\w-])"
    r"(?:drum\s?-?(?:kits?|sets?|beats?|machines?|grooves?|tracks?|loops?)|drums|drumming|drummers?)\b",
    _FLAGS,
)
_NO_DRUMS = re.compile(r"\b(?:drumless|drum-free|without percussion|no percussion)\b", _FLAGS)
_NOT = re.compile(
    r"\b(?:no|not|without|minus|lacks|lacking|excluding|instead of|rather than|nor)"
    r"(?: (?:a|an|any|the|real|live))*(?:(?: (?!n?or\b)[\w-]+){1,3} n?or)*\s+$",
    _FLAGS,
)
_ALONE_BEFORE = re.compile(r"\b(?:solo|unaccompanied|lone|only|just)\s+(?:a\s+)?$", _FLAGS)
_ALONE_AFTER = re.compile(r"\s+(?:alone|unaccompanied|only)\b", _FLAGS)
_TEXTURE = re.compile(r"(?:^|[,;]|texture is)\s*solo\s*(?:[,;.]|$)", _FLAGS)
_COMPANY = re.compile(
    r"\b(?:accompan\w+|backed|backing|orchestra\w*|band|ensemble|concerto|chords?|(?<!mallet )percussion|duet|duo)\b",
    _FLAGS,
)
_PACES = (
    ((44, 52), r"very slow|extremely slow|largo|grave|lento"),
    ((54, 72), r"slow|slowly|leisurely|unhurried|adagio|calm|peaceful|lullaby|hymn|chorale"),
    ((72, 96), r"moderate|moderately|medium-tempo|mid-tempo|andante|walking"),
    ((96, 122), r"lively|upbeat|brisk|allegretto|dance|waltz|march|hornpipe"),
    ((120, 150), r"fast|quick|rapid|allegro|energetic|driving|reel|jig|polka"),
    ((150, 176), r"very fast|breakneck|presto|frantic"),
)
"""((beats a minute from, to), words): of the words that a sentence has the ones that stand first here decide, but for
"very slow" and "very fast", which are what they say."""
_USUAL_PACE = (66, 126)
_FREE = re.compile(
    r"\b(?:rubato|beatless|drone|drones|ambient|free time|(?:no|without an?|without) (?:beat|pulse))\b", _FLAGS
)
# Words that in a list of tags tell the family rather than who plays.
_FAMILY_TAGS = {"strings", "brass"}


def parse(
    bpm: float | int | str | None = None,
    key: str | None = None,
    metre: str | None = None,
    instruments: str | Sequence[str] | None = None,
    drums: bool | None = None,
    downbeat: float | int | str | None = None,
) -> Controls:
    """Controls as a user gives them one by one.

    Args:
        bpm: beats per minute.
        key: "D minor", "F# major", "Bb m"; without a mode it is major.
        metre: "3/4", or a dance that has one metre ("waltz").
        instruments: names, or one string with commas between them, the leading one first. They are all that plays;
            "drums" among them is the control `drums`.
        drums: whether a drum kit plays.
        downbeat: seconds from the start of given music to the first beat of a bar.

    Raises:
        UserError: a value that is none of these; the message says what is possible.
    """
    players, kit = _parse_instruments(instruments)
    if kit and drums is False:
        raise UserError(f"instruments {instruments!r} name drums, but drums are not wanted: drop one of the two")
    return Controls(
        tempo=None if bpm is None else _parse_tempo(bpm),
        key=None if key is None else _parse_key(key),
        metre=None if metre is None else _parse_metre(metre),
        drums=kit or drums,
        instruments=players,
        downbeat=None if downbeat is None else _parse_downbeat(downbeat),
    )


def read_sentence(text: str) -> Controls:
    """What a sentence names: "a waltz for solo violin in D minor, 96 bpm, without drums".

    What it says twice in different ways (two keys, two tempi) is left unknown. Instruments are open to others joining them
    unless the sentence says that nobody does.
    """
    text = " ".join(text.split())
    players, only = _read_instruments(text)
    drums = _read_drums(text)
    if only and len(players) == 1 and drums is None:
        drums = False  # who plays alone has no drummer
    return Controls(_read_tempo(text), _read_key(text), _read_metre(text), drums, players, only)


def pace_of(text: str) -> tuple[int, int] | None:
    """(from, to): beats a minute that suit a sentence that names none; None where it wants no beat.

    The words for a pace are those of the corpus' captions and a few of musicians' and dancers'.
    """
    if _FREE.search(text):
        return None
    found = [
        pace for pace, words in _PACES if re.search(rf"\b(?<!not )(?<!not too )(?:{words})(?:e?s)?\b", text, _FLAGS)
    ]
    extreme = [pace for pace in found if pace in (_PACES[0][0], _PACES[-1][0])]
    return (extreme or found or [_USUAL_PACE])[0]


def from_sidecar(tags: Any) -> Controls:
    """What the JSON beside a sound file tells, in AudioCraft's form (MusicInfo) or near it.

    bpm or tempo, downbeat (seconds from the start to the first beat of a bar), key (with mode or scale beside it), metre or
    time_signature, instrument(s); then what genre, keywords,
    tags, description and captions name. Values of other forms are unknown; where two places contradict each other the
    first one counts. Others may play beside the instruments.
    """
    if not isinstance(tags, dict):
        return Controls()
    values: dict[str, Any] = {}
    for control, _, value in _stated(tags):
        if value is not None:
            values.setdefault(control, value)
    told = Controls(**values)
    for name in ("instrument", "instruments"):
        told = merge(told, read_sentence(", ".join(_strings(tags.get(name)))))[0]
    for name in ("genre", "genres", "keywords", "tags", "description", "caption", "captions", "text"):
        for text in _strings(tags.get(name)):
            told = merge(told, read_sentence(text))[0]
    return told


def not_understood(tags: Any) -> list[str]:
    """What the JSON beside a sound file has under the names of controls and `from_sidecar` cannot read: "bpm 'fast'"."""
    if not isinstance(tags, dict):
        return []
    return [f"{name} {tags[name]!r:.40}" for _, name, value in _stated(tags) if value is None]


def _stated(tags: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """(control, name that it stands under, its value or None where that cannot be read) of all that is not empty."""
    readers: dict[str, tuple[tuple[str, ...], Callable[[Any], Any]]] = {
        "tempo": (("bpm", "tempo"), _lenient_tempo),
        "downbeat": (("downbeat",), _lenient_seconds),
        "key": (("key",), lambda key: _lenient_key(key, tags.get("scale", tags.get("mode")))),
        "metre": (("metre", "meter", "time_signature"), _lenient_metre),
    }
    for control, (places, read) in readers.items():
        for name in places:
            if tags.get(name) not in (None, "", []):
                yield control, name, read(tags[name])


def _strings(value: Any) -> list[str]:
    return [text for text in (value if isinstance(value, list) else [value]) if isinstance(text, str)]


def _lenient_tempo(value: Any) -> float | None:
    if isinstance(value, str):
        number = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(?:bpm)?\s*", value, _FLAGS)
        value = float(number[1]) if number else None
    usable = isinstance(value, (int, float)) and not isinstance(value, bool) and SLOWEST <= value <= FASTEST
    return float(value) if usable else None


def _lenient_seconds(value: Any) -> float | None:
    usable = isinstance(value, (int, float)) and not isinstance(value, bool) and -FARTHEST <= value <= FARTHEST
    return float(value) if usable else None


def _lenient_key(key: Any, mode: Any) -> tuple[int, str] | None:
    """The key in `key`, which may have its mode or leave it to `mode`."""
    if not isinstance(key, str):
        return None
    return (key_of(f"{key.strip()} {mode}") if isinstance(mode, str) else None) or key_of(key)


def _lenient_metre(value: Any) -> str | None:
    return metre_of(value) if isinstance(value, str) else None


def metre_of(text: str) -> str | None:
    """The metre that a text like "3/4" is, "other" where it has no code of its own; None where it is none."""
    fraction = _FRACTION.fullmatch(text.strip())
    if fraction is None:
        return None
    found = f"{int(fraction[1])}/{int(fraction[2])}"
    return found if found in METRES else METRES[-1]


def key_of(text: str) -> tuple[int, str] | None:
    """The key that a text is ("D minor", "F# major", "B-flat", "Bb m", "Am"); None where it is no key."""
    match = _STRICT_KEY.fullmatch(text.strip())
    if match is None:
        return None
    short = {"m": "minor", "M": "major", None: None}[match["short"]]
    mode = _MODES[match[4].lower()] if match[4] else short or "major"
    return _pitch_class(match[1], match[2] or match[3]), mode


def _pitch_class(letter: str, sign: str | None) -> int:
    return (_LETTERS[letter.lower()] + (_SIGNS[sign.lower()] if sign else 0)) % 12


def _parse_tempo(bpm: float | int | str) -> float:
    try:
        tempo = float(bpm)
    except (ValueError, OverflowError):
        tempo = math.nan
    if not SLOWEST <= tempo <= FASTEST:
        raise UserError(f"bpm {bpm!r}: a tempo is a number of beats per minute from {SLOWEST:g} to {FASTEST:g}")
    return tempo


def _parse_downbeat(seconds: float | int | str) -> float:
    try:
        downbeat = float(seconds)
    except (ValueError, OverflowError):
        downbeat = math.nan
    if not -FARTHEST <= downbeat <= FARTHEST:
        raise UserError(f"downbeat {seconds!r}: it is a number of seconds from the start to the first beat of a bar")
    return downbeat


def _parse_key(key: str) -> tuple[int, str]:
    found = key_of(key)
    if found is None:
        raise UserError(f"key {key!r}: a key is a tonic with major or minor, such as D minor, F# major or B-flat major")
    return found


def _parse_metre(metre: str) -> str:
    words = " ".join(metre.lower().split())
    found = metre_of(words) or _DANCES.get(words)
    if found is None or found == METRES[-1]:
        near = difflib.get_close_matches(words, [*METRES[:-1], *_DANCES], 1, 0.6)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UserError(f"metre {metre!r}: possible are {', '.join(METRES[:-1])}{hint}")
    return found


def _parse_instruments(given: str | Sequence[str] | None) -> tuple[tuple[str, ...], bool | None]:
    """(names, True where drums are among them)."""
    words = [] if given is None else given.split(",") if isinstance(given, str) else list(given)
    players: list[str] = []
    kit = None
    for word in words:
        if _DRUMS.fullmatch(word.strip()):
            kit = True
            continue
        found = names.canonical(word)
        if found is None:
            near = names.nearest(word)
            hint = f"did you mean {near}?" if near else f"possible are {', '.join(names.NAMES)} and drums"
            raise UserError(f"instrument {word.strip()!r} is not known; {hint}")
        players += found
    players = list(dict.fromkeys(players))
    if len(players) > MOST_INSTRUMENTS:
        raise UserError(
            f"instruments {', '.join(players)}: at most {MOST_INSTRUMENTS} beside drums, not {len(players)}"
        )
    return tuple(players), kit


def _read_tempo(text: str) -> float | None:
    found = set()
    for low, high, named in _TEMPO.findall(text):
        bounds = [float(number) for number in (low, high, named) if number]
        found.add(math.sqrt(bounds[0] * bounds[-1]))
    tempo = found.pop() if len(found) == 1 else math.nan
    return tempo if SLOWEST <= tempo <= FASTEST else None


def _read_key(text: str) -> tuple[int, str] | None:
    stated, said = set(), set()
    for match in _KEY.finditer(text):
        if _CHORD.match(text, match.end()) or _is_article(text, match):
            continue
        key = _pitch_class(match["tonic"], match[3] or match[4]), _MODES[match[5].lower()]
        (stated if match["of"] else said).add(key)
    for match in _SHORT_KEY.finditer(text):
        minor = bool(match[4]) and match[4] != "maj"
        named = match[4] or "key" in match[0]
        if named and not _CHORD.match(text, match.end()) and not _KEY.match(text, match.start()):
            stated.add((_pitch_class(match[1], match[2] or match[3]), "minor" if minor else "major"))
    keys = stated or said
    return keys.pop() if len(keys) == 1 else None


def _is_article(text: str, match: re.Match) -> bool:
    """Whether the "a" of "a minor" is the article: "a minor key", "A major hit", "in a minor, sad mood"."""
    if match["tonic"] not in "aA" or match[3] or match[4]:
        return False
    rest, stated = match.end(), match["of"]
    if match["tonic"] == "a":
        return not (stated and ("key" in stated or _AFTER_A.match(text, rest)))
    if stated:
        return match[5][0].isupper() and _ADJECTIVE.match(text, rest) is not None
    first = not text[: match.start()].strip() or text[: match.start()].rstrip()[-1] in ".!?"
    return first and not _BREAK.match(text, rest)


def _read_metre(text: str) -> str | None:
    fractions = {f"{int(over)}/{int(under)}" for over, under in _FRACTION.findall(text)} & set(METRES)
    times = {_TIMES[re.sub(r"[\s-]+", " ", words.lower())] for words in _TIME.findall(text)}
    dances = {
        _DANCES[re.sub(r"[\s-]+", " ", match[1].lower())]
        for match in _DANCE.finditer(text)
        if not _NOT.search(text, 0, match.start())
    }
    found = fractions or times or dances
    return found.pop() if len(found) == 1 else None


def _read_drums(text: str) -> bool | None:
    if _NO_DRUMS.search(text):
        return False
    said = {_NOT.search(text, 0, match.start()) is None for match in _DRUMS.finditer(text)}
    return said.pop() if len(said) == 1 else None


def _read_instruments(text: str) -> tuple[tuple[str, ...], bool]:
    """(names in their order, whether they are all that plays)."""
    players: list[str] = []
    only, found = True, names.mentions(text)
    for mention in found:
        if _NOT.search(text, 0, mention.start) or _is_family_tag(text, mention, found):
            continue
        if _is_consort(text, mention, found):
            continue
        players += mention.names
        alone = _ALONE_BEFORE.search(text, 0, mention.start) or _ALONE_AFTER.match(text, mention.end)
        only &= mention.everybody or bool(alone)
    players = list(dict.fromkeys(players))
    groups = sum(mention.everybody for mention in found)
    only = only and (groups == 1 or len(players) == 1) or len(players) == 1 and _TEXTURE.search(text) is not None
    without = text
    for mention in reversed(found):  # a "brass ensemble" is no company to itself
        without = without[: mention.start] + without[mention.end :]
    alone = only and not _COMPANY.search(without)
    return tuple(players[:MOST_INSTRUMENTS]), alone or not players


def _is_family_tag(text: str, mention: names.Mention, found: list[names.Mention]) -> bool:
    """Whether a tag between commas only tells the family: "violin, strings, slow", "accordion, organ"."""
    word = text[mention.start : mention.end].lower()
    before, after = text[: mention.start].rstrip(), text[mention.end :].lstrip()
    if (before and before[-1] != ",") or (after and after[0] != ","):
        return False
    if word == "organ":
        others = {names.FAMILY_OF[name] for other in found if other != mention for name in other.names}
        return "organ" in others
    return word in _FAMILY_TAGS


def _is_consort(text: str, mention: names.Mention, found: list[names.Mention]) -> bool:
    """Whether a "choir" is one of instruments: "clarinet choir"."""
    directly = any(not text[other.end : mention.start].strip(" -") for other in found if other.end <= mention.start)
    return directly and mention.names == ("choir",)
