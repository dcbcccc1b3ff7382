"""The tables: a link that loses the notes shows it, and so does music that is not what was asked."""

import csv
import json
import math
import types

import numpy as np
import pytest

from melody_jax.errors import UserError
from melody_jax.evaluate import columns, links, players, probe, rates, spectra, text_to_music
from melody_jax.evaluate.estimate import Estimate
from melody_jax.evaluate.figures import Figure, write_report
from melody_jax.evaluate.judge_models import JudgeModel
from melody_jax.evaluate.tables import Table
from melody_jax.evaluate.truth import Asked, Truth
from melody_jax.geometry import Geometry

RATE, SECONDS, STEP = 24_000, 5, 0.3125  # two notes a beat at 96 beats per minute
GEOMETRY = Geometry(hop=960, latent_channels=1, clip_seconds=5.0, mulan_tokens=1, semantic_codes=12)
SHARES = (0.3, 0.1, 0.2, 0.1, 0.2, 0.05, 0.05)  # of the degrees of C major: its triad most
PARTIALS = {"flute": (1.0,), "organ": (1.0, 0.0, 0.8, 0.0, 0.6, 0.0, 0.5)}


def _render(family: str, pitches: np.ndarray) -> np.ndarray:
    audio = np.zeros(SECONDS * RATE, np.float32)
    t = np.arange(int(STEP * RATE)) / RATE
    for part in pitches:
        for i, pitch in enumerate(part):
            hertz = 440 * 2 ** ((pitch - 69) / 12)
            tone = sum(a * np.sin(2 * np.pi * hertz * (n + 1) * t) for n, a in enumerate(PARTIALS[family]))
            shape = np.exp(-3 * t) * np.minimum(1, t / 0.01) * np.minimum(1, (STEP - t) / 0.01)
            audio[i * len(t) : (i + 1) * len(t)] += 0.1 * tone * shape
    return audio


def _clips(count: int, seed: int) -> list[types.SimpleNamespace]:
    """Melodies in C major, solos and duets, of two families."""
    rng, made = np.random.default_rng(seed), []
    for index in range(count):
        parts = 1 + index // 2 % 2
        pitches = 60 + rng.choice([0, 2, 4, 5, 7, 9, 11], (parts, int(SECONDS / STEP)), p=SHARES)
        family = tuple(PARTIALS)[index % 2]
        notes = [(STEP * i, STEP, int(p), part) for part, row in enumerate(pitches) for i, p in enumerate(row)]
        told = {"tempo": 96.0, "key": "C", "mode": "major", "metre": "4/4", "notes": tuple(notes)}
        told |= {"families": (family,), "instruments": (family,), "texture": "solo" if parts == 1 else "duet"}
        truth = types.SimpleNamespace(family=family, **told)
        captions = (f"{family} in C major, 96 bpm",)
        clip = {"audio": _render(family, pitches), "truth": truth, "captions": captions, "id": f"{seed}-{index}"}
        made.append(types.SimpleNamespace(**clip))
    return made


def _tokens(clips: list[types.SimpleNamespace]) -> columns.Columns:
    """Tokens that hold the pitch class of the leading part."""
    frames = SECONDS * spectra.FRAME_RATE
    at = np.minimum((np.arange(frames) / spectra.FRAME_RATE / STEP).astype(int), int(SECONDS / STEP) - 1)
    lead = [np.array([n[2] % 12 for n in clip.truth.notes if n[3] == 0])[at] for clip in clips]
    nothing = np.zeros((len(clips), 1), int)
    names = [clip.id for clip in clips], [clip.truth.family for clip in clips]
    return columns.Columns(*names, nothing, nothing, np.stack(lead), np.zeros((len(clips), 1, 1)))


@pytest.fixture(scope="module")
def music():
    train, held_out = _clips(32, 0), _clips(8, 1)
    audio, truth = np.stack([clip.audio for clip in train]), Truth.of([clip.truth for clip in train])
    return train, held_out, columns.Real(audio, truth, _tokens(train)), links.Judges(audio, truth, RATE)


BETWEEN = "MuLan distance between prompts"


class _Melody:
    """Stands for a bundle that plays what it is given, by what `played` makes of it."""

    def __init__(self, clips, played):
        self._audio, self._played = np.stack([clip.audio for clip in clips]), played

    def perform(self, tokens, mulan, controls, **_):
        return self._played(self._audio)

    def decode(self, latents, **_):
        return self._audio

    def generate(self, prompts=None, *, audio=None, **_):
        rows = self._played(self._audio[np.arange(len(prompts or audio)) % len(self._audio)])
        tokens = np.zeros(SECONDS * spectra.FRAME_RATE, int)
        return [types.SimpleNamespace(audio=row, tokens=tokens, lufs=(-20.0, -16.0)) for row in rows]


class _Models:
    """Stands for representations: nothing is lost, and an embedding is the mean spectrum."""

    def reconstruct(self, audio):
        return audio

    def embed_music(self, audio):
        mean = spectra.bands(audio, RATE).mean(1)
        return mean / np.linalg.norm(mean, axis=1, keepdims=True)

    def embed_text(self, sentences):
        return np.full((len(sentences), spectra.BANDS), 1 / spectra.BANDS**0.5)


def _text_to_music(melody, clips, tokens, train_tokens, judge, prompts, listeners=()):
    made = players.make_music(GEOMETRY, melody, clips, judge is not None, prompts, progress=False)
    return text_to_music.text_to_music(GEOMETRY, made, _Models(), clips, tokens, train_tokens, judge, None, listeners)


def _value(cell) -> float:
    assert isinstance(cell, Estimate)
    return cell.value


def _drone(audio: np.ndarray) -> np.ndarray:
    tone = 0.1 * np.sin(2 * np.pi * 185 * np.arange(audio.shape[1]) / RATE)  # F sharp, which no melody has
    return np.tile(tone.astype(np.float32), (len(audio), 1))


def test_every_link_has_its_row_and_drones_lose_the_notes(music):
    _, held_out, real, judges = music
    tokens, tables = _tokens(held_out), {}
    for name, played in (("faithful", lambda audio: audio), ("drone", _drone)):
        melody = _Melody(held_out, played)
        table, figures = links.notes_at_every_link(
            GEOMETRY, melody, _Models(), real, held_out, tokens, judges, progress=False
        )
        tables[name] = table
        assert [figure.reached for figure in figures] == [name == "faithful"]
    rows = tables["faithful"].rows
    assert set(rows) >= {"another clip", "original", "autoencoder", links.OWN, "language model's own tokens"}
    assert _value(rows["original"][links.PITCH]) > 0.7 > 0.4 > _value(rows["another clip"][links.PITCH])
    assert _value(rows["original"][links.CHROMA]) > 0.99 > 0.8 > _value(rows["another clip"][links.CHROMA])
    assert _value(rows["original"][links.ONSETS]) > 0.9 and _value(rows["original"][links.FAMILY]) > 0.9
    probed = rows["tokens, by a linear probe"]
    assert _value(probed[links.PITCH]) > 0.95 and _value(probed[links.CHROMA]) > 0.6
    lost = tables["drone"].rows[links.OWN]
    assert _value(lost[links.PITCH]) < 0.1 and _value(lost[links.CHROMA]) < 0.3 and _value(lost[links.ONSETS]) < 0.3


def test_made_music_is_measured_beside_real_music(music):
    train, held_out, _, judges = music
    tokens, seen = _tokens(held_out), _tokens(train)

    def measured(played):
        melody = _Melody(held_out, played)
        table, figures = _text_to_music(melody, held_out, tokens, seen, judges.family, 6)
        return {name: row["made"] for name, row in table.rows.items()}, table, figures

    made, table, (family,) = measured(lambda audio: audio)
    assert family.reached and _value(made["key"]) > 0.6 and _value(made["tempo"]) > 0.9
    assert _value(made["notes in the best scale"]) > 0.95 and 0.25 <= _value(made["median note (s)"]) <= 0.4
    assert _value(made["with a click"]) == 0.0 and _value(made["tokens of level 1 that repeat"]) == 1.0
    assert "real renders" in table.markdown() and "0.64" in table.markdown()
    assert _value(made["MuLan distance between seeds of one prompt"]) > 0.001 < _value(made[BETWEEN])
    assert _value(made["loudness as sampled (LUFS)"]) == -20.0 and made["loudness (LUFS)"].clips == 6
    made, _, (family,) = measured(_drone)
    assert not family.reached and _value(made["key"]) < 0.5 and _value(made["median note (s)"]) > 1.0
    assert abs(_value(made["MuLan distance between seeds of one prompt"])) < 1e-6 > abs(_value(made[BETWEEN]))
    assert _value(table.rows[BETWEEN]["real renders"]) > 0.001


def test_some_prompts_are_made_again_under_other_seeds(music):
    _, held_out, _, _ = music
    calls = []

    class Recording(_Melody):
        def generate(self, prompts=None, *, seed=(), **_):
            calls.extend(zip(prompts, seed, strict=True))
            return calls

    melody = Recording(held_out, lambda audio: audio)
    made = players.make_music(GEOMETRY, melody, held_out, False, 8, seed=5, progress=False)
    assert [sentence for sentence, _ in made.pieces] == made.sentences and len(made.sentences) == 8
    assert [sentence for sentence, _ in made.again] == [s for s in made.sentences[: players.VARIED] for _ in range(3)]
    assert [seed for _, seed in calls] == list(range(5, 5 + len(calls)))


def test_own_music_without_truth_gets_what_needs_none(music):
    train, held_out, _, _ = music
    bare = [types.SimpleNamespace(audio=c.audio, captions=c.captions, truth=None, id=c.id) for c in held_out]
    melody = _Melody(held_out, lambda audio: audio)
    table, figures = _text_to_music(melody, bare, _tokens(held_out), _tokens(train), None, 4)
    assert not figures and "family" not in table.rows and "key" not in table.rows
    assert table.rows["MuLan cycle consistency (MCC)"]["made"] and table.rows["beat strength"]["made"]


def test_one_clip_whose_notes_are_known_is_measured_and_what_needs_more_is_named(music):
    train, held_out, real, judges = music
    one, melody = held_out[2:3], _Melody(held_out[2:3], lambda audio: audio)  # a duet
    tokens = _tokens(one)
    table, (own,) = links.notes_at_every_link(GEOMETRY, melody, _Models(), real, one, tokens, judges, progress=False)
    assert "another clip" not in table.rows and _value(table.rows["original"][links.CHROMA]) > 0.99
    assert own.lacks == "it takes a held-out solo whose notes are known" and not own.missed
    arguments = melody, one, tokens, _tokens(train), judges.family, 6
    table, (family,) = _text_to_music(*arguments)
    assert family.lacks and _value(table.rows["key"]["made"]) == 1.0
    assert table.rows["Fréchet distance to unseen music"]["made"] == "it takes 2 pieces"
    one[0].captions = ("a tune",)  # which names nothing that could be recognised
    try:
        table, (family,) = _text_to_music(*arguments)
    finally:
        one[0].captions = ("flute in C major, 96 bpm",)
    assert family.lacks and table.rows["key"]["made"].clips == 0 and table.rows["beat strength"]["made"].clips == 1


def test_solos_of_one_pitch_fit_no_judge():
    seen = [clip for clip in _clips(3, 4) if clip.truth.texture == "solo"]
    for clip in seen:
        clip.truth.notes = ((0.0, 4.0, 60, 0),)
    with pytest.raises(UserError, match="several notes sound one at a time"):
        links.Judges(np.stack([clip.audio for clip in seen]), Truth.of([clip.truth for clip in seen]), RATE)


def test_other_listeners_measure_distances_too(music):
    train, held_out, _, judges = music
    listener = JudgeModel("spectra", 2 * RATE, lambda audio: spectra.bands(audio, 2 * RATE))

    def measured(played):
        arguments = _Melody(held_out, played), held_out, _tokens(held_out), _tokens(train)
        table, _ = _text_to_music(*arguments, judges.family, 6, [listener])
        return table.rows["kernel audio distance to unseen music, heard by spectra"], table

    faithful, table = measured(lambda audio: audio)
    drone, _ = measured(_drone)
    assert drone["made"] > 10 * abs(faithful["made"]) and drone["real renders"] == faithful["real renders"]
    assert "Fréchet distance to unseen music, heard by spectra" in table.rows
    assert "Fréchet distance to unseen music" in table.rows


def test_what_is_not_asked_does_not_count():
    audio = np.stack([clip.audio for clip in _clips(3, 5)])
    asked = Asked([None] * 3, [(0, "major"), None, None], np.array([np.nan] * 3), [None] * 3)
    found = rates.rates(audio, RATE, asked)
    assert found["key"].clips == 1 and found["tempo"].clips == 0 and "family" not in found


class _Reads(probe.MusicProbe):
    """Reads from any tokens a flute in C major at 100 beats per minute."""

    def __init__(self):
        pass

    def families(self, tokens):
        return ["flute"] * len(tokens)

    def keys(self, tokens):
        return [(0, "major")] * len(tokens)

    def tempi(self, tokens):
        return np.full(len(tokens), 100.0)


def test_what_tokens_say_is_held_against_what_was_asked():
    audio = np.stack([clip.audio for clip in _clips(3, 5)])
    asked = Asked(
        ["flute", "brass", None], [(0, "major"), None, (2, "minor")], np.array([50.0, 70.0, np.nan]), [None] * 3
    )
    found = rates.rates(audio, RATE, asked, tokens=np.zeros((3, 20, 1), int), probe=_Reads())
    read = {name: found[f"{name}, read from the tokens"] for name in ("family", "key", "tempo")}
    assert {name: (cell.value, cell.clips) for name, cell in read.items()} == dict.fromkeys(read, (0.5, 2))


def test_links_take_solos_and_others_in_turn():
    def truth(texture, notes=((0.0, 1.0, 60, 0),)):
        return types.SimpleNamespace(texture=texture, notes=notes)

    truths = [truth("solo"), truth("solo"), truth("duet"), truth("solo"), None, truth("duet", ())]
    assert columns.balanced(truths, 2) == [0, 2] and columns.balanced(truths, 9) == [0, 1, 2, 3]


def test_the_report_holds_the_tables(tmp_path):
    cells = {"a": Estimate(0.5, 0.4, 0.6, 9), "b": float("nan"), "c": "text"}
    table = Table("Of notes", "link", ("a", "b", "c"), {"first": cells, "second": {"a": 1.5}}, "A note.")
    write_report(tmp_path, [Figure("lm", "x", 1.0, "-", 2.0, "<=")], {}, [table])
    text, found = (tmp_path / "report.md").read_text(), json.loads((tmp_path / "report.json").read_text())
    assert "## Of notes" in text and "| 0.500 (0.40 to 0.60) | - | text |" in text.replace("  ", " ")
    assert found["tables"]["Of notes"]["first"] == {
        "a": {"value": 0.5, "low": 0.4, "high": 0.6, "clips": 9},
        "b": None,
        "c": "text",
    }


def test_every_number_has_a_line_of_the_csv(tmp_path):
    rows = {"a, b": {"made": Estimate(0.5, -math.inf, math.inf, 1), "target": ">= 1"}, "c": {"made": 1.5}}
    table = Table("Of notes", "link", ("made", "target"), rows)
    figures = [
        Figure("lm", "x", 1.0, "bigram 3", 2.0, "<=", (0.5, 1.5)),
        Figure.unmeasured("dpd", "y", "it takes a solo"),
    ]
    write_report(tmp_path, figures, {}, [table], "tiny")
    with (tmp_path / "report.csv").open(newline="") as file:
        lines = [{name: text for name, text in line.items() if text} for line in csv.DictReader(file)]
    assert all(line.pop("bundle") == "tiny" for line in lines)
    first = {"table": "figures", "measure": "lm: x", "value": "1.0", "low": "0.5", "high": "1.5"}
    assert lines == [
        first | {"required": "<= 2", "reached": "True", "remark": "bigram 3"},
        {"table": "figures", "measure": "dpd: y", "remark": "it takes a solo"},
        {"table": "Of notes", "measure": "a, b", "of": "made", "value": "0.5", "clips": "1"},
        {"table": "Of notes", "measure": "a, b", "of": "target", "remark": ">= 1"},
        {"table": "Of notes", "measure": "c", "of": "made", "value": "1.5"},
    ]
