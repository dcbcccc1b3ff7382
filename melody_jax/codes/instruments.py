"""The instruments that a control token can name: General MIDI's, under the names listeners use.

The order is part of every trained language model: names are only ever appended.
"""

import dataclasses
import difflib
import re

FAMILIES: dict[str, tuple[str, ...]] = {
    "keyboard": ("piano", "electric piano", "harpsichord", "clavichord"),
    "organ": ("church organ", "reed organ", "electric organ", "accordion", "harmonica"),
    "plucked": (
        "classical guitar", "steel-string guitar", "electric guitar", "distorted guitar", "harp", "banjo", "koto",
        "mandolin", "lute", "ukulele", "sitar", "shamisen", "dulcimer",
    ),
    "strings": ("violin", "viola", "cello", "double bass", "contrabass", "string ensemble", "pizzicato strings"),
    "brass": ("trumpet", "trombone", "French horn", "tuba", "brass section"),
    "woodwind": (
        "flute", "piccolo", "recorder", "clarinet", "oboe", "English horn", "bassoon", "soprano saxophone",
        "alto saxophone", "tenor saxophone", "baritone saxophone", "pan flute", "tin whistle", "ocarina", "shakuhachi",
        "bagpipe",
    ),
    "mallets": (
        "vibraphone", "marimba", "xylophone", "glockenspiel", "celesta", "music box", "tubular bells", "kalimba",
        "steel drum",
    ),
    "bass": ("bass guitar", "synth bass"),
    "synth": ("synth lead", "synth pad", "synth strings"),
    "voice": ("choir", "voice"),
    "percussion": ("timpani",),
}  # fmt: skip
"""{family: names}. The drum kit is no name here: it has a control of its own."""

NAMES: tuple[str, ...] = tuple(name for names in FAMILIES.values() for name in names)
FAMILY_OF: dict[str, str] = {name: family for family, names in FAMILIES.items() for name in names}

# Other words for one instrument. "" stands for what has no name of its own here, so that no shorter word is read in it.
_WORDS: dict[str, str] = {
    "piano": "grand piano, upright piano, acoustic piano, pianoforte, pianist",
    "electric piano": "e-piano, rhodes, rhodes piano, wurlitzer",
    "harpsichord": "cembalo, harpsichordist",
    "church organ": "pipe organ, organ, organist",
    "reed organ": "harmonium",
    "electric organ": "hammond, hammond organ, rock organ, drawbar organ",
    "accordion": "accordeon, accordionist, concertina, bandoneon",
    "harmonica": "mouth harp, blues harp",
    "classical guitar": "nylon-string guitar, nylon guitar, acoustic guitar, guitar, guitarist, spanish guitar, "
    "flamenco guitar",
    "steel-string guitar": "steel-stringed guitar, folk guitar, twelve-string guitar, 12-string guitar, acoustic steel guitar",
    "electric guitar": "clean guitar, lead guitar, rhythm guitar, jazz guitar",
    "distorted guitar": "distortion guitar, overdriven guitar, distorted electric guitar, overdriven electric guitar",
    "harp": "celtic harp, concert harp, harpist",
    "mandolin": "mandolinist",
    "dulcimer": "hammered dulcimer",
    "violin": "fiddle, violinist, fiddler",
    "viola": "violist",
    "cello": "violoncello, celli, cellist",
    "double bass": "upright bass, acoustic bass, stand-up bass, string bass, bassist",
    "contrabass": "contrabasso",
    "string ensemble": "string section, string orchestra, strings, orchestral strings",
    "pizzicato strings": "plucked violins",
    "trumpet": "trumpeter",
    "trombone": "trombonist",
    "French horn": "horn, hornist",
    "brass section": "brass ensemble, brass band, horn section, brass",
    "flute": "flutist, flautist, transverse flute",
    "recorder": "blockflute",
    "clarinet": "clarinettist, clarinetist",
    "oboe": "oboist",
    "English horn": "cor anglais",
    "bassoon": "bassoonist",
    "soprano saxophone": "soprano sax",
    "alto saxophone": "alto sax, sax, saxophone, saxophonist",
    "tenor saxophone": "tenor sax",
    "baritone saxophone": "baritone sax, bari sax",
    "pan flute": "panpipe, pan pipe",
    "tin whistle": "penny whistle, irish whistle",
    "bagpipe": "uilleann pipe, highland pipe",
    "vibraphone": "vibes, vibraphonist",
    "celesta": "celeste",
    "music box": "musical box",
    "tubular bells": "tubular bell",
    "kalimba": "thumb piano, mbira",
    "steel drum": "steelpan, steel pan",
    "bass guitar": "electric bass, fretless bass, slap bass, acoustic bass guitar, electric bass guitar",
    "synth bass": "synthesizer bass, bass synth",
    "synth lead": "synthesizer lead, lead synth",
    "synth pad": "synthesizer pad, pad synth",
    "synth strings": "synthesizer strings",
    "choir": "chorus of voices, vocal ensemble",
    "voice": "vocals, vocalist, singer, female voice, male voice, human voice, singing voice",
    "timpani": "kettledrum, timpanist",
    "": "toy piano, player piano, viola da gamba, bass clarinet, contrabassoon, alto flute, bass flute, pedal steel guitar, "
    "steel guitar, slide guitar, fiddle tune, jaw harp, alphorn, hunting horn, basset horn, mouth organ, hurdy-gurdy, "
    "bass trombone, alto recorder, guitar hero, voice leading, plucked strings, bowed strings, organ and reeds, "
    "mallet percussion, plucked string instrument, string instrument, brass instrument",
}
# In a sentence these are parts of the music: "a melody finds its voice", "four voices".
_PARTS = {"voice", "voices"}
# Groups: who plays, the lead first, and whether that is everybody.
_GROUPS: dict[str, tuple[tuple[str, ...], bool]] = {
    "string quartet": (("violin", "viola", "cello"), True),
    "string trio": (("violin", "viola", "cello"), True),
    "string quintet": (("violin", "viola", "cello"), False),
    "piano trio": (("piano", "violin", "cello"), True),
    "piano quartet": (("piano", "violin", "viola", "cello"), True),
    "piano quintet": (("piano", "violin", "viola", "cello"), True),
    "brass quartet": (("trumpet", "trombone", "tuba"), False),
    "brass quintet": (("trumpet", "French horn", "trombone", "tuba"), True),
    "woodwind quartet": (("flute", "oboe", "clarinet", "bassoon"), True),
    "wind quartet": (("flute", "oboe", "clarinet", "bassoon"), True),
    "woodwind quintet": (("flute", "oboe", "clarinet", "French horn"), False),
    "wind quintet": (("flute", "oboe", "clarinet", "French horn"), False),
    "saxophone quartet": (
        ("soprano saxophone", "alto saxophone", "tenor saxophone", "baritone saxophone"),
        True,
    ),
}
_SPOKEN: dict[str, tuple[tuple[str, ...], bool]] = {
    **{name.lower(): ((name,), False) for name in NAMES},
    **{
        word.strip(): ((name,) if name else (), False)
        for name, words in _WORDS.items()
        for word in words.split(",")
    },
    **_GROUPS,
}  # fmt: skip

_PLAIN = {re.sub(r"[\s-]+", " ", words): meaning for words, meaning in _SPOKEN.items()}


def _pattern(words: str) -> str:
    return r"[\s-]+".join(re.escape(word) for word in re.split(r"[\s-]+", words)) + "(?:e?s)?"


_ANY = re.compile(
    r"(?<!\w)(?:" + "|".join(_pattern(words) for words in sorted(_SPOKEN, key=len, reverse=True)) + r")(?!\w|-like)",
    re.IGNORECASE | re.ASCII,  # what matches is then found in the table whatever its case
)


@dataclasses.dataclass(frozen=True)
class Mention:
    """Where a text (start to end) names instruments, and whether they are all that plays in a group of that name."""

    start: int
    end: int
    names: tuple[str, ...]
    everybody: bool


def mentions(text: str) -> list[Mention]:
    """The instruments that a text names, in its order; synonyms, plurals and groups are understood."""
    found = []
    for match in _ANY.finditer(text):
        names, everybody = _spoken(match.group())
        if names and match.group().lower() not in _PARTS:
            found.append(Mention(match.start(), match.end(), names, everybody))
    return found


def canonical(words: str) -> tuple[str, ...] | None:
    """The names behind one name, synonym, plural or group; None where it is none of these."""
    words = " ".join(words.split())
    match = _ANY.fullmatch(words)
    names = _spoken(match.group())[0] if match else ()
    return names or None


def nearest(words: str) -> str | None:
    """The name or synonym most like `words`, for a message about a misspelt one."""
    usable = [word for word, (names, _) in _SPOKEN.items() if names]
    return next(iter(difflib.get_close_matches(words.lower(), usable, 1, 0.6)), None)


def _spoken(words: str) -> tuple[tuple[str, ...], bool]:
    words = re.sub(r"[\s-]+", " ", words.lower())
    return next(_PLAIN[w] for w in (words, words.removesuffix("s"), words.removesuffix("es")) if w in _PLAIN)
