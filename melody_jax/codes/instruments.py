"""The instruments that a control token can name: General MIDI's, under the names listeners use.

The order is part of every trained language model: names are only ever appended.
"""

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
