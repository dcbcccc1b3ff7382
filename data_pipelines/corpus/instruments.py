"""The General MIDI instruments of the corpus: name, family, compass, and which of them play together."""

import dataclasses

FAMILIES = ("keyboard", "organ", "plucked", "strings", "brass", "woodwind", "mallets")


@dataclasses.dataclass(frozen=True)
class Instrument:
    """One sound of a General MIDI font.

    Attributes:
        program: General MIDI program, 0-127; -1 is the drum kit.
        name: what a listener calls it.
        family: one of FAMILIES; "" for the drum kit.
        low, high: compass in which it is used, as MIDI pitches, both included.
        weight: how often it leads, among its family.
        chords: whether one player can play chords.
    """

    program: int
    name: str
    family: str
    low: int
    high: int
    weight: float = 1.0
    chords: bool = False


DRUMS = Instrument(-1, "drums", "", 35, 81)

# Sounds that are well recognisable in TimGM6mb; the compass leaves out the extremes where samples are stretched.
LEADS = (
    Instrument(0, "piano", "keyboard", 48, 88, 2.0, True),
    Instrument(4, "electric piano", "keyboard", 48, 84, 1.0, True),
    Instrument(6, "harpsichord", "keyboard", 48, 84, 1.2, True),
    Instrument(19, "church organ", "organ", 48, 84, 1.2, True),
    Instrument(20, "reed organ", "organ", 50, 82, 0.8, True),
    Instrument(21, "accordion", "organ", 53, 84, 1.2, True),
    Instrument(24, "classical guitar", "plucked", 48, 76, 1.2, True),
    Instrument(25, "steel-string guitar", "plucked", 48, 76, 1.0, True),
    Instrument(46, "harp", "plucked", 48, 86, 0.7, True),
    Instrument(105, "banjo", "plucked", 50, 79, 1.0, True),
    Instrument(107, "koto", "plucked", 50, 79, 0.8, True),
    Instrument(40, "violin", "strings", 55, 91, 1.5),
    Instrument(41, "viola", "strings", 50, 80, 0.7),
    Instrument(42, "cello", "strings", 38, 69, 1.0),
    Instrument(48, "string ensemble", "strings", 48, 86, 0.8, True),
    Instrument(56, "trumpet", "brass", 55, 82, 1.2),
    Instrument(57, "trombone", "brass", 43, 70, 1.0),
    Instrument(60, "French horn", "brass", 46, 74, 1.0),
    Instrument(58, "tuba", "brass", 31, 58, 0.5),
    Instrument(61, "brass section", "brass", 46, 79, 0.8, True),
    Instrument(73, "flute", "woodwind", 60, 91, 1.2),
    Instrument(74, "recorder", "woodwind", 62, 89, 0.8),
    Instrument(71, "clarinet", "woodwind", 52, 86, 1.2),
    Instrument(68, "oboe", "woodwind", 58, 84, 1.0),
    Instrument(70, "bassoon", "woodwind", 38, 67, 0.6),
    Instrument(65, "alto saxophone", "woodwind", 52, 80, 0.7),
    Instrument(66, "tenor saxophone", "woodwind", 46, 74, 0.5),
    Instrument(11, "vibraphone", "mallets", 53, 86, 1.0, True),
    Instrument(12, "marimba", "mallets", 48, 86, 1.0, True),
    Instrument(9, "glockenspiel", "mallets", 72, 98, 0.6),
    Instrument(8, "celesta", "mallets", 60, 96, 0.7, True),
    Instrument(10, "music box", "mallets", 60, 93, 0.8, True),
)
_SUPPORT = (
    Instrument(32, "double bass", "strings", 28, 52),
    Instrument(43, "contrabass", "strings", 28, 52),
    Instrument(64, "soprano saxophone", "woodwind", 58, 86),
    Instrument(67, "baritone saxophone", "woodwind", 37, 66),
)
BY_NAME = {instrument.name: instrument for instrument in (*LEADS, *_SUPPORT, DRUMS)}

# Ensembles of one family, top voice first: (name or None, weight, instruments). Fewer voices take the first and the
# last ones; an instrument that plays chords may take every voice.
ENSEMBLES = {
    "keyboard": (
        (None, 2.0, ("piano",) * 4),
        (None, 1.0, ("harpsichord",) * 4),
        (None, 0.6, ("electric piano",) * 4),
    ),
    "organ": (
        (None, 1.5, ("church organ",) * 4),
        (None, 0.8, ("reed organ",) * 4),
        (None, 0.8, ("accordion",) * 4),
    ),
    "plucked": (
        ("guitar ensemble", 1.2, ("classical guitar",) * 4),
        ("guitar ensemble", 0.6, ("steel-string guitar",) * 4),
        (None, 0.6, ("harp",) * 4),
        ("plucked ensemble", 0.6, ("koto", "koto", "classical guitar", "classical guitar")),
    ),
    "strings": (
        ("string quartet", 2.0, ("violin", "violin", "viola", "cello")),
        ("string orchestra", 1.0, ("string ensemble",) * 4),
        ("string ensemble", 0.6, ("violin", "viola", "cello", "contrabass")),
    ),
    "brass": (
        ("brass quartet", 2.0, ("trumpet", "trumpet", "trombone", "tuba")),
        ("brass quartet", 1.0, ("trumpet", "French horn", "trombone", "tuba")),
        ("horn and trombone choir", 0.5, ("French horn", "French horn", "trombone", "trombone")),
        (None, 0.6, ("brass section",) * 4),
    ),
    "woodwind": (
        ("woodwind quartet", 1.5, ("flute", "oboe", "clarinet", "bassoon")),
        ("clarinet choir", 0.7, ("clarinet", "clarinet", "clarinet", "bassoon")),
        (
            "saxophone quartet",
            0.8,
            ("soprano saxophone", "alto saxophone", "tenor saxophone", "baritone saxophone"),
        ),
        ("recorder consort", 0.7, ("recorder", "recorder", "clarinet", "bassoon")),
    ),
    "mallets": (
        ("mallet ensemble", 1.0, ("vibraphone", "vibraphone", "marimba", "marimba")),
        ("marimba ensemble", 1.0, ("marimba",) * 4),
        (None, 0.7, ("celesta",) * 4),
        (None, 0.7, ("music box",) * 4),
    ),
}

# Who plays chords or the bass behind a melody of another family.
CHORD_PLAYERS = (
    "piano",
    "electric piano",
    "harpsichord",
    "classical guitar",
    "steel-string guitar",
    "harp",
    "accordion",
    "reed organ",
    "church organ",
    "string ensemble",
    "vibraphone",
    "marimba",
    "brass section",
)
BASS_PLAYERS = ("double bass", "contrabass", "cello", "tuba", "bassoon", "trombone")
# Who plays chords and bass behind a melody of its own family; one who plays both parts is named twice.
FAMILY_CHORDS = {
    "keyboard": ("piano", "harpsichord", "electric piano"),
    "organ": ("church organ", "reed organ", "accordion"),
    "plucked": ("classical guitar", "steel-string guitar", "harp"),
    "strings": ("string ensemble",),
    "brass": ("brass section",),
    "woodwind": ("clarinet",),
    "mallets": ("marimba", "vibraphone"),
}
FAMILY_BASS = {
    "keyboard": ("piano", "harpsichord", "electric piano"),
    "organ": ("church organ", "reed organ", "accordion"),
    "plucked": ("classical guitar", "steel-string guitar", "harp"),
    "strings": ("cello", "contrabass"),
    "brass": ("tuba", "trombone"),
    "woodwind": ("bassoon",),
    "mallets": ("marimba", "vibraphone"),
}


def leads_of(family: str) -> tuple[Instrument, ...]:
    """The instruments of a family that may lead."""
    return tuple(instrument for instrument in LEADS if instrument.family == family)
