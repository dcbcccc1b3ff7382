"""Reading the corpus: the text of ABC tunes, files that cannot be used, the index on disk, harmony by rule."""

import json

import numpy as np
import pytest

from data_pipelines.corpus import abc_text, harmony, index, patterns, scores, sources
from data_pipelines.corpus.theory import Key

TUNE = """X:1
T:A Test -- Jig
M:6/8
L:1/8
R:jig
K:Edor % a comment
B2 A|GFE G2A|{c}B>AB "Em"d2e|(3fga f edB|A3-A2:|
"""


def test_fields_key_and_rhythm():
    assert abc_text.field(TUNE, "K") == "Edor"
    assert abc_text.rhythm_of(TUNE, True) == "jig"
    cases = {
        "G": Key(7, "major"),
        "F#m": Key(6, "minor"),
        "A Mixolydian": Key(9, "mixolydian"),
        "EM": Key(4, "major"),
        "Bb": Key(10, "major"),
        "Ddor": Key(2, "dorian"),
        "Bphr": None,
        "Hp": None,
        "": None,
    }
    assert {text: abc_text.parse_key(text) for text in cases} == cases


@pytest.mark.parametrize(
    "bars, expected",
    [
        ("B2 A|GFE G2A|", 720),
        ("|:A|GFE G2A|", 240),
        ("(3ABc|GFE G2A|", 480),
        ("GFE G2A|GFE|", 0),
        ('{c}"Em"[Bd]2 A>B|GFE G2A|', 960),
        ("A/B/|GFE G2A|", 240),
    ],
)
def test_pickup(bars, expected):
    head = TUNE.split("B2 A|")[0]
    assert abc_text.pickup(head + bars + "\n", 1440, 480) == expected


def test_abc_tune_is_read_with_its_downbeat_at_zero():
    text = TUNE + "B2 A|GFE G2A|B>AB d2e|\n"
    collection = sources.COLLECTIONS[0]
    piece = scores.read_abc(collection, "x#1", text)
    assert (piece.numerator, piece.denominator, piece.key) == (6, 8, Key(4, "dorian"))
    first = piece.notes[piece.notes[:, 1] >= 0][0]
    assert piece.notes[0, 1] == -720 and first.tolist() == [0, 0, 240, 67]
    assert scores.beat_ticks(6, 8) == 720 and scores.beat_ticks(2, 2) == 960 and scores.beat_ticks(3, 4) == 480


def test_unusable_pieces_are_listed_with_the_reason(tmp_path):
    tunes = {
        "short": "X:1\nT:Short\nM:4/4\nL:1/4\nK:C\nCDEF|\n",
        "odd": "X:2\nT:Odd\nM:5/4\nL:1/4\nK:C\n" + "CDEFG|" * 8 + "\n",
    }
    path = tmp_path / "oneills1850" / "bad.abc"
    path.parent.mkdir()
    path.write_text("\n".join(tunes.values()))
    pieces, rejected = scores.read_file(sources.COLLECTIONS[0], path)
    assert not pieces
    assert [row["source"] for row in rejected] == ["oneills1850/bad.abc#1", "oneills1850/bad.abc#2"]
    assert "too short" in rejected[0]["reason"] and "unusual metre 5/4" in rejected[1]["reason"]


def test_a_score_whose_owner_forbids_it_is_left_out(tmp_path):
    bach = next(c for c in sources.COLLECTIONS if c.name == "bach")
    path = tmp_path / "bach" / "x.xml"
    path.parent.mkdir()
    path.write_text("<score-partwise><rights>All Rights Reserved</rights><part id='P1'></part></score-partwise>")
    pieces, rejected = scores.read_file(bach, path)
    assert not pieces and rejected[0]["reason"].startswith("licence:")


def test_index_is_written_once_and_read_back(tmp_path, monkeypatch):
    chosen = tuple(c for c in sources.COLLECTIONS if c.name in ("lusitano", "corelli"))
    monkeypatch.setattr(sources, "chosen", lambda restricted: chosen)
    entries = index.load(tmp_path, workers=1)
    assert {entry.piece.collection for entry in entries} == {"lusitano", "corelli"}
    path = next(tmp_path.glob("*.npz"))
    stamp = path.stat().st_mtime_ns
    again = index.load(tmp_path)
    assert path.stat().st_mtime_ns == stamp
    assert len(list(tmp_path.glob("*.rejected.jsonl"))) == 1
    for a, b in zip(entries, again, strict=True):
        assert (a.tune, a.split, a.piece.source) == (b.tune, b.split, b.piece.source)
        np.testing.assert_array_equal(a.piece.notes, b.piece.notes)
        assert len(np.unique(a.piece.notes[:, 0])) >= 2
    json.loads(json.dumps([entry.tune for entry in again]))


def test_harmony_of_a_plain_cadence():
    # C major, a bar each: c e g c | a f c f | b d g b | c
    pitches = [60, 64, 67, 72, 69, 65, 72, 65, 71, 62, 67, 71, 72, 72, 67, 64]
    melody = np.array([(480 * n, 480, pitch) for n, pitch in enumerate(pitches)])
    chords = harmony.harmonise(melody, Key(0, "major"), 4 * 1920, 1920)
    assert [chord.root for chord in chords] == [0, 5, 7, 0]
    low, middle, high = harmony.voicing(chords[0], None, 60)
    assert low < middle < high and {p % 12 for p in (low, middle, high)} == {0, 4, 7}


def test_second_voice_is_a_third_below_in_the_key():
    melody = np.array([(0, 480, 64), (480, 480, 65), (960, 480, 67)])
    assert harmony.second_voice(melody, Key(0, "major"))[:, 2].tolist() == [60, 62, 64]


@pytest.mark.parametrize("style", patterns.STYLES)
@pytest.mark.parametrize("metre", [(4, 4), (3, 4), (6, 8), (2, 2)])
def test_accompaniment_stays_inside_its_chords(style, metre):
    bar, beat = scores.bar_ticks(*metre), scores.beat_ticks(*metre)
    triads = ((0, 4, 7), (5, 9, 0))
    chords = [harmony.Chord(n * bar, (n + 1) * bar, triad[0], triad) for n, triad in enumerate(triads)]
    for part in (
        patterns.chord_part(chords, style, beat, bar, 60),
        patterns.bass_part(chords, style, beat, bar, 36),
    ):
        assert len(part)
        for onset, duration, pitch in part.tolist():
            chord = chords[onset // bar]
            assert pitch % 12 in chord.classes and duration > 0 and onset + duration <= chord.end
    assert patterns.bass_part(chords, style, beat, bar, 36)[0].tolist()[::2] == [0, 36]
