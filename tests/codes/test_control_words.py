"""Controls in words. Every expectation is written by hand; the corpus' captions are read in tests/data_pipelines."""

import time

import pytest

from melody_jax.codes.control_words import (
    from_sidecar,
    key_of,
    metre_of,
    not_understood,
    pace_of,
    parse,
    read_sentence,
)
from melody_jax.codes.controls import Controls, merge, to_json
from melody_jax.codes.instruments import FAMILIES, NAMES, canonical, mentions
from melody_jax.errors import UserError

KEYS = {
    "D minor": (2, "minor"),
    "F# major": (6, "major"),
    "B-flat": (10, "major"),
    "Bb m": (10, "minor"),
    "bb minor": (10, "minor"),
    "b minor": (11, "minor"),
    "Am": (9, "minor"),
    "c sharp minor": (1, "minor"),
    "A♭": (8, "major"),
    "D Dorian": (2, "minor"),
    "G mixolydian": (7, "major"),
    "C-flat major": (11, "major"),
}


@pytest.mark.parametrize("text", KEYS)
def test_a_key_is_understood(text):
    assert key_of(text) == KEYS[text]


@pytest.mark.parametrize("text", ["", "H minor", "D mino", "Amen", "minor", "D minor and more", "D#b major"])
def test_what_is_no_key(text):
    assert key_of(text) is None


def test_flags_become_controls():
    assert parse() == Controls()
    given = parse(96, "D minor", "3/4", "violin, Celli", False)
    assert given == Controls(96.0, (2, "minor"), "3/4", False, ("violin", "cello"))
    assert parse("96.5", metre="waltz", instruments=["fiddle", "drums"]) == Controls(
        96.5, metre="3/4", drums=True, instruments=("violin",)
    )
    assert parse(instruments="string quartet").instruments == ("violin", "viola", "cello")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"bpm": "fast"}, "bpm 'fast': .* from 40 to 208"),
        ({"bpm": "9\n6"}, "bpm"),
        ({"key": "D\nminor or so"}, "key"),
        ({"instruments": "vio\nlin"}, "instrument 'vio"),
        ({"bpm": 10**400}, "bpm 1000"),
        ({"bpm": 300}, "bpm 300: .* from 40 to 208"),
        ({"bpm": float("nan")}, "bpm nan"),
        ({"key": "H moll"}, "key 'H moll': .*such as D minor"),
        ({"metre": "3/5"}, r"metre '3/5': possible are 2/4, 3/4"),
        ({"metre": "walz"}, "metre 'walz': .*did you mean waltz"),
        ({"metre": "other"}, "metre 'other'"),
        ({"instruments": "vilin"}, r"instrument 'vilin' is not known; did you mean violin\?"),
        ({"instruments": "qqqq"}, "instrument 'qqqq' is not known; possible are piano, .* and drums"),
        ({"instruments": ""}, "instrument ''"),
        ({"instruments": "violin,viola,cello,piano,flute"}, "at most 4 beside drums, not 5"),
        ({"instruments": "violin,drums", "drums": False}, "name drums, but drums are not wanted"),
    ],
)
def test_nonsense_is_one_line_that_says_what_is_possible(wrong, said):
    with pytest.raises(UserError, match=said) as raised:
        parse(**wrong)
    assert "\n" not in str(raised.value)


SENTENCES = {
    "a slow waltz for solo violin in D minor, 96 bpm": Controls(96.0, (2, "minor"), "3/4", False, ("violin",)),
    "a reel with running notes": Controls(),
    "a chorale in four parts": Controls(),
    "An Irish slip jig on fiddle and tin whistle": Controls(
        metre="9/8", instruments=("violin", "tin whistle"), only=False
    ),
    "a fiddle tune in 6/8 for flute": Controls(metre="6/8", instruments=("flute",), only=False),
    "a hornpipe for accordion in B-flat major": Controls(key=(10, "major"), instruments=("accordion",), only=False),
    "string quartet in E-flat major": Controls(key=(3, "major"), instruments=("violin", "viola", "cello")),
    "Solo cello over a drum beat": Controls(drums=True, instruments=("cello",)),
    "solo violin accompanied by piano": Controls(instruments=("violin", "piano"), only=False),
    "a guitar solo with drums": Controls(drums=True, instruments=("classical guitar",), only=False),
    "vibes, solo, slow": Controls(drums=False, instruments=("vibraphone",)),
    "Two horns and strings at 72 beats per minute": Controls(
        72.0, instruments=("French horn", "string ensemble"), only=False
    ),
}
TEMPI = {
    "around 96 bpm": 96,
    "at 120 beats per minute": 120,
    "at 96 beats a minute": 96,
    "tempo: 88": 88,
    "a tempo of 120": 120,
    "120BPM techno": 120,
    "90-100 bpm": 94.868,
    "from the 80s": None,
    "at 300 bpm": None,
    "96 bpm, then 120 bpm": None,
    "a 10 minute piece for 12 cellos": None,
}
SENTENCE_KEYS = {
    "in D minor": (2, "minor"),
    "in e minor": (4, "minor"),
    "e flat major waltz": (3, "major"),
    "anchored in A major at its heart": (9, "major"),
    "A minor": (9, "minor"),
    "A major, slow, violin": (9, "major"),
    "slow, A major": (9, "major"),
    "a piece in a minor for cello": (9, "minor"),
    "in the key of a flat major": (8, "major"),
    "in the key of Bb": (10, "major"),
    "key of G": (7, "major"),
    "in Em": (4, "minor"),
    "The key is F# minor": (6, "minor"),
    "E-flat alto saxophone in D minor": (2, "minor"),
    "in D-flat Mixolydian": (1, "major"),
    "a minor key ballad": None,
    "A minor key ballad": None,
    "A major hit": None,
    "music in a minor key": None,
    "in a minor, melancholic mood": None,
    "in a major way": None,
    "a flat, boring mood": None,
    "C major chords and a D minor seventh": None,
    "colours of F#maj, Emaj and Cmin": None,
    "the progression Am, F, C, G": None,
    "modulates from D minor to F major": None,
    "I'd major in music": None,
    "in C": None,
    "F-Sharp Minor, Slow": (6, "minor"),
    "in\u00a0D\nminor": (2, "minor"),
}
SENTENCE_METRES = {
    "in 3/4 time": "3/4",
    "it has 6/8 metre": "6/8",
    "three-four time": "3/4",
    "in common time": "4/4",
    "Waltzes": "3/4",
    "double jig": "6/8",
    "a hop jig": "9/8",
    "a waltz in 3/8": "3/8",
    "a polka": "2/4",
    "a polka in waltz time": "3/4",
    "not a waltz but a march": None,
    "open 24/7": None,
    "on 3/4/2020": None,
    "half of it, 1/2": None,
    "jigsaw": None,
    "from 3/4 to 6/8": None,
    "a march": None,
}
SENTENCE_DRUMS = {
    "with drums": True,
    "over a drum beat": True,
    "a drummer": True,
    "without drums": False,
    "no piano or drums": False,
    "no percussion": False,
    "steel drums": None,
    "a bass drum": None,
    "eardrums": None,
    "mallet percussion": None,
    "conundrums": None,
}
SENTENCE_INSTRUMENTS = {
    "melody with chords and bass": (),
    "bass guitar": ("bass guitar",),
    "double bass": ("double bass",),
    "steel-string guitars": ("steel-string guitar",),
    "an acoustic guitar": ("classical guitar",),
    "tenor saxes": ("tenor saxophone",),
    "organic, hornpipe, flutey": (),
    "the melody finds its voice": (),
    "female vocals": ("voice",),
    "clarinet choir": ("clarinet",),
    "a choir": ("choir",),
    "plucked strings": (),
    "violin, strings, slow": ("violin",),
    "violin backed by strings": ("violin", "string ensemble"),
    "no piano, only harp": ("harp",),
    "without guitar or piano": (),
    "violin-like tone": (),
    "a toy piano": (),
    "a pianist and two cellists": ("piano", "cello"),
    "piano piano piano": ("piano",),
}


@pytest.mark.parametrize("text", SENTENCES)
def test_a_sentence_is_read_as_a_whole(text):
    assert read_sentence(text) == SENTENCES[text]


@pytest.mark.parametrize(
    ("control", "table"),
    [
        ("key", SENTENCE_KEYS),
        ("metre", SENTENCE_METRES),
        ("drums", SENTENCE_DRUMS),
        ("instruments", SENTENCE_INSTRUMENTS),
    ],
)
def test_each_control_is_read_with_care(control, table):
    read = {text: getattr(read_sentence(text), control) for text in table}
    assert read == table


def test_tempi_are_read_with_care():
    read = {text: read_sentence(text).tempo for text in TEMPI}
    assert read == {text: tempo and pytest.approx(tempo, abs=0.01) for text, tempo in TEMPI.items()}


def test_long_and_odd_texts_are_read_at_once():
    started = time.process_time()
    for text in (
        "no " + "or " * 3000 + "x violin",
        "a " * 5000,
        "tempo" + " " * 5000,
        "1" * 5000,
        "♭" * 3000,
        "A-" * 3000,
        "ſlip jİg",
        "French -- horn in D MİNOR",
    ):
        read_sentence(text)
    assert time.process_time() - started < 3


def test_names_are_found_under_all_their_words():
    assert len(set(NAMES)) == len(NAMES) == sum(map(len, FAMILIES.values()))
    assert all(canonical(name) == (name,) and canonical(f"{name}s") == (name,) for name in NAMES)
    assert canonical("fidle") is None and canonical("hand drum") is None
    found = mentions("two flutes, then a harp")
    assert [(mention.start, mention.end, mention.names) for mention in found] == [
        (4, 10, ("flute",)),
        (19, 23, ("harp",)),
    ]


def test_flags_win_and_each_contradiction_is_said():
    flags = parse(96, "D minor", instruments="violin,cello", drums=True)
    merged, said = merge(flags, read_sentence("a piano waltz in C major at 120 bpm without drums"))
    assert merged == Controls(96.0, (2, "minor"), "3/4", True, ("violin", "cello"))
    assert said == [
        "tempo: 96, as asked for; the sentence says 120",
        "key: D minor, as asked for; the sentence says C major",
        "drums: yes, as asked for; the sentence says no",
        "instruments: violin, cello, as asked for; the sentence says piano",
    ]


def test_what_agrees_is_no_contradiction():
    sentence = read_sentence("a waltz for violin in D minor at 97 bpm with drums")
    assert merge(Controls(), sentence) == (sentence, [])
    flags = parse(96, "D minor", "3/4", "violin,cello", True)
    assert merge(flags, sentence) == (flags, [])
    assert to_json(merge(parse(drums=False), Controls())[0]) == {"drums": False}


SIDECARS = [
    ({"bpm": 96, "key": "Dm", "instrument": "Guitar"}, Controls(96.0, (2, "minor"), None, None, ("classical guitar",), False)),
    ({"bpm": "120 BPM", "key": "A", "scale": "minor"}, Controls(120.0, (9, "minor"))),
    ({"key": "A", "mode": "minor"}, Controls(key=(9, "minor"))),
    ({"bpm": 96, "downbeat": 0.31}, Controls(96.0, downbeat=0.31)),
    ({"downbeat": "soon"}, Controls()),
    ({"downbeat": float("nan")}, Controls()),
    ({"downbeat": 1.7e308}, Controls()),
    ({"downbeat": 10**400}, Controls()),
    ({"key": "A minor", "mode": "minor"}, Controls(key=(9, "minor"))),
    ({"key": "F# Major", "genre": "Waltz", "tags": ["drums", "oboe"]}, Controls(None, (6, "major"), "3/4", True, ("oboe",), False)),
    ({"instruments": ["Piano", "Drums"], "time_signature": "11/8"}, Controls(None, None, "other", True, ("piano",), False)),
    ({"bpm": 120, "description": "a march in C minor at 90 bpm"}, Controls(120.0, (0, "minor"))),
    ({"bpm": 0, "key": "?", "instrument": "Mix", "mode": 3, "metre": 4, "keywords": None}, Controls()),
    ({"bpm": True, "tempo": [96], "key": ["Dm"], "instrument": {"a": 1}}, Controls()),
    ([1, 2], Controls()),
    (None, Controls()),
]  # fmt: skip


@pytest.mark.parametrize(("tags", "told"), SIDECARS)
def test_sidecars_tell_what_can_be_read(tags, told):
    assert from_sidecar(tags) == told


def test_a_metre_without_a_code_is_another_one():
    assert metre_of("3/4") == "3/4" and metre_of(" 06/8 ") == "6/8" and metre_of("11/8") == "other"
    assert metre_of("waltz") is None and metre_of("") is None


@pytest.mark.parametrize(
    "text, pace",
    [
        ("a slow waltz for solo violin", (54, 72)),
        ("A FAST reel", (120, 150)),
        ("a very slow, calm song", (44, 52)),
        ("very fast jigs", (150, 176)),
        ("a waltz, not too fast", (96, 122)),
        ("strings, presto", (150, 176)),
        ("two polkas", (120, 150)),
        ("breakfast music with a slowpoke", (66, 126)),
        ("a piano", (66, 126)),
        ("slow ambient pads", None),
        ("a flute without a beat", None),
    ],
)
def test_a_pace_is_read_where_no_tempo_is_named(text, pace):
    assert pace_of(text) == pace


def test_what_is_stated_and_not_understood_is_named():
    tags = {"bpm": "fast", "key": "A", "mode": "minor", "metre": "4/4", "time_signature": "", "downbeat": None}
    assert not_understood(tags) == ["bpm 'fast'"]
    assert not_understood({"key": "8A", "tempo": [120]}) == ["tempo [120]", "key '8A'"] and not not_understood([1])
