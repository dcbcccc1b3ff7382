"""The built-in corpus: choice, splits, truth, captions and sound, on a few real files of music21's corpus."""

import collections
import dataclasses

import numpy as np
import pytest

from data_pipelines.clip import Clip
from data_pipelines.corpus import arrange, caption, index, render, scores, sources, specs, synth, theory
from data_pipelines.corpus.instruments import BY_NAME, ENSEMBLES, FAMILIES
from melody_jax.codes.control_words import read_sentence
from melody_jax.codes.controls import decode, encode
from melody_jax.codes.instruments import FAMILY_OF, NAMES

RATE, SECONDS = 24000, 10.0


@pytest.fixture(scope="module")
def entries():
    """A small corpus: two books of tunes and some chorales."""
    root = sources.corpus_root()
    named = {collection.name: collection for collection in sources.COLLECTIONS}
    files = [
        ("miscFolk", "north*.abc"),
        ("airdsAirs", "book1.abc"),
        ("bach", "bwv2[0-6]*.mxl"),
        ("ryansMammoth", "A*.abc"),
    ]
    pieces = []
    for name, pattern in files:
        for path in sorted((root / name).glob(pattern))[:40]:
            pieces += scores.read_file(named[name], path)[0]
    return index.with_tunes(pieces)


@pytest.fixture(scope="module")
def chosen(entries):
    return specs.specify_entries(entries, 3, {"train": 140, "validation": 14, "test": 14})


@pytest.fixture(scope="module")
def arrangements(chosen):
    return [arrange.arrange(one) for one in chosen]


@pytest.fixture(scope="module")
def clips(chosen):
    return [render.render(one, None, RATE, SECONDS) for one in chosen[:21]]


def test_the_choice_is_a_function_of_the_seed_and_the_first_clips_stay_when_more_are_asked_for(entries, chosen):
    again = specs.specify_entries(entries, 3, {"train": 20, "test": 7})
    assert again[:20] == chosen[:20] and again[20:] == [p for p in chosen if p.split == "test"][:7]
    assert specs.specify_entries(entries, 4, {"train": 5}) != chosen[:5]


def test_no_tune_stands_in_two_splits(chosen):
    splits = collections.defaultdict(set)
    for one in chosen:
        splits[one.tune].add(one.split)
    assert all(len(found) == 1 for found in splits.values())


def test_pieces_with_the_same_title_or_incipit_are_one_tune(entries):
    base = entries[0].piece
    higher = dataclasses.replace(base, source="elsewhere/x#1", title="Another name")
    moved = higher.notes.copy()
    moved[:, 3] += 5
    beat = scores.beat_ticks(base.numerator, base.denominator)
    higher = dataclasses.replace(higher, notes=moved, marks=scores._music_marks(moved, beat))
    joined = index.with_tunes([base, higher])
    assert joined[0].tune == joined[1].tune and joined[0].split == joined[1].split
    assert len({entry.tune for entry in index.with_tunes([base, entries[-1].piece])}) == 2


def test_split_shares():
    splits = collections.Counter(index.split_of(f"{i * 2**32 // 1000:08x}") for i in range(1000))
    assert splits["train"] == pytest.approx(800, abs=2) and splits["test"] == pytest.approx(100, abs=2)


def test_unknown_split_is_refused(entries):
    with pytest.raises(ValueError, match="unknown split 'dev'"):
        specs.specify_entries(entries, 0, {"dev": 1})


def test_balance(chosen):
    families = collections.Counter(one.family for one in chosen)
    assert set(families) == set(FAMILIES) and max(families.values()) == min(families.values())
    assert 0.4 < np.mean([one.one_family for one in chosen]) < 0.7
    assert 0.1 < np.mean([one.drums for one in chosen]) < 0.3


def test_truth_is_what_the_parts_hold(chosen, arrangements):
    for one, made in zip(chosen, arrangements, strict=True):
        truth = made.truth
        assert list(truth.instruments) == list(dict.fromkeys(track.instrument.name for track in made.tracks))
        assert made.tracks[0].role == "lead" and made.tracks[0].instrument.family == truth.family == one.family
        heard = {BY_NAME[name].family for name in truth.instruments} - {""}
        assert set(truth.families) == heard and (len(heard) == 1) == one.one_family
        assert ("drums" in truth.instruments) == one.drums == ("drums" in truth.texture)
        pitched = [track for track in made.tracks if track.role != "drums"]
        assert truth.texture.startswith("solo") == (len(pitched) == 1)
        for track in pitched:
            low = track.instrument.low - (12 if track.role != "lead" and track.instrument.chords else 0)
            assert track.notes[:, 2].min() >= low and track.notes[:, 2].max() <= track.instrument.high


def test_tempo_is_that_of_the_arranged_notes(chosen, arrangements):
    for one, made in zip(chosen, arrangements, strict=True):
        lead = made.tracks[0].notes
        beats = lead[:, 0] * made.truth.tempo / 60
        unit = 3 if one.numerator % 3 == 0 and one.denominator == 8 else 1
        written = np.array(sorted({note[1] for note in one.excerpt})) / scores.TICKS
        counted = written / (unit / 2 if unit == 3 else 4 / one.denominator)
        if (one.numerator, one.denominator) == (6, 4):
            continue
        # Every played onset lies within 20 ms of a written one, counted in beats.
        nearest = np.abs(beats[:, None] - counted[None, :]).min(-1)
        assert nearest.max() < 0.02 * made.truth.tempo / 60


def test_key_is_that_of_the_arranged_notes(arrangements):
    agree, inside = [], []
    for made in arrangements:
        notes = np.concatenate([track.notes for track in made.tracks if track.role != "drums"])
        weights = np.bincount(notes[:, 2].astype(int) % 12, weights=notes[:, 1], minlength=12)
        key = next(k for k in _keys(made.truth.mode) if k.name == made.truth.key)
        scale = list(key.scale) + ([(key.tonic + 9) % 12, (key.tonic + 11) % 12] if key.mode == "minor" else [])
        inside.append(weights[scale].sum() / weights.sum())
        best = theory.estimate_key(weights)[0]
        agree.append(best.tonic == key.tonic)
    assert np.mean(agree) > 0.8 and np.median(inside) > 0.97


def _keys(mode):
    return [theory.Key(tonic, mode) for tonic in range(12)]


def test_key_of_hand_written_notes():
    weights = np.zeros(12)
    weights[[2, 4, 5, 7, 9, 10, 1]] = (5, 2, 3, 2, 4, 2, 1)  # D minor with its leading tone
    assert theory.settle_key(weights, None)[0] == theory.Key(2, "minor")
    assert theory.settle_key(weights, theory.Key(2, "minor")) == (theory.Key(2, "minor"), 1.0)
    assert theory.settle_key(weights, theory.Key(6, "major"))[0] == theory.Key(2, "minor")
    assert theory.Key(1, "minor").name == "C-sharp" and theory.Key(1, "major").name == "D-flat"


def test_captions_are_several_true_and_name_the_lead(clips, chosen, arrangements):
    named, rng = [], np.random.default_rng(0)
    for made in arrangements:
        captions = caption.captions(made, rng, midicap=False)
        assert len(captions) >= 3 and len({len(text) for text in captions}) >= 2
        words = set(caption._FAMILY[made.truth.family]) | {
            made.ensemble or made.truth.instruments[0],
            made.truth.instruments[0],
        }
        words |= set(caption._ALSO.get(made.truth.instruments[0], made.truth.instruments[:1]))
        named += [any(word.lower() in text.lower() for word in words) for text in captions]
        for text in captions:
            others = [name for family in FAMILIES for name in _names(family) if family not in made.truth.families]
            assert not any(f" {name} " in f" {text} " for name in others), text
            tempos = [word for word in text.replace("(", " ").split() if word.isdigit()]
            assert all(abs(int(number) - made.truth.tempo) < 1 for number in tempos)
    assert np.mean(named) > 0.9
    assert all(len(set(clip.captions)) >= 4 for clip in clips)


def _names(family):
    return [i.name for i in BY_NAME.values() if i.family == family and i.name not in ("string ensemble",)]


def test_sound_is_full_length_and_never_silent(clips):
    for clip in clips:
        assert clip.audio.shape == (int(RATE * SECONDS),) and clip.audio.dtype == np.float32
        assert np.isfinite(clip.audio).all() and 0.1 < np.abs(clip.audio).max() <= 0.951
        level = 20 * np.log10(np.sqrt(np.square(clip.audio.reshape(-1, RATE // 10)).mean(-1)) + 1e-9)
        assert level[:5].max() > -45, "sound from the beginning"
        quiet = "".join("q" if block < -65 else "s" for block in level)
        assert "q" * 15 not in quiet
        assert -27 < 10 * np.log10(np.square(clip.audio).mean()) < -14


def test_sound_is_the_same_bytes_in_any_order(chosen, clips):
    again = {one.id: render.render(one, synth.default_font(), RATE, SECONDS, midicap=False) for one in chosen[5:2:-1]}
    for number in (3, 4, 5):
        assert again[chosen[number].id].audio.tobytes() == clips[number].audio.tobytes()
        assert again[chosen[number].id].truth == clips[number].truth


def test_length_and_rate_are_arguments(chosen):
    audio = render.render(chosen[0], None, 16000, 2.5, midicap=False).audio
    assert audio.shape == (40000,)
    with pytest.raises(ValueError, match="specified for 10.0 s, not 11"):
        render.render(chosen[0], None, RATE, 11.0)
    with pytest.raises(FileNotFoundError, match="no SoundFont at /nowhere.sf2"):
        render.render(chosen[0], "/nowhere.sf2", RATE, 1.0)


def test_licences_are_recorded_and_free(clips, entries):
    free = {collection.licence for collection in sources.chosen(restricted=False)}
    assert not any("non-commercial" in text or "reserved" in text for text in free)
    assert all(entry.piece.licence in free for entry in entries)
    for clip in clips:
        tune, _, sounds = clip.licence.partition("; sounds ")
        assert tune in free and sounds == "TimGM6mb (GPL-2)"
    assert {c.name for c in sources.chosen(True)} - {c.name for c in sources.chosen(False)} == {
        "essenFolksong",
        "palestrina",
    }


def test_instruments_of_an_ensemble_exist_and_are_of_its_family():
    for family, options in ENSEMBLES.items():
        for _, _, players in options:
            assert len(players) == 4 and {BY_NAME[player].family for player in players} == {family}


def test_every_instrument_has_a_code_and_is_of_its_family():
    assert set(BY_NAME) - set(NAMES) == {"drums"}
    assert all(FAMILY_OF[name] == one.family for name, one in BY_NAME.items() if name != "drums")


def _controls(arrangement):
    clip = Clip("", np.zeros(1, np.float32), (), "", "", "", arrangement.truth)
    return clip.controls


def test_controls_are_the_truth(arrangements):
    tonics = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
    for one in arrangements:
        truth, controls = one.truth, _controls(one)
        players = [name for name in truth.instruments if name != "drums"]
        shift = {"": 0, "flat": -1, "sharp": 1}[truth.key[2:]]
        third = "minor" if truth.mode in ("minor", "dorian") else "major"
        assert controls.key == ((tonics[truth.key[0]] + shift) % 12, third)
        assert (controls.tempo, controls.metre, controls.downbeat) == (truth.tempo, truth.metre, 0.0)
        assert controls.drums == any(track.role == "drums" for track in one.tracks)
        assert controls.instruments == tuple(players) and controls.only
        back = decode(encode(controls))
        same = ("key", "metre", "drums", "tempo", "downbeat")
        assert all(getattr(back, name) == getattr(controls, name) for name in same)
        assert back.instruments == tuple(players[:4])
    assert {_controls(one).drums for one in arrangements} == {True, False}


def test_what_a_caption_names_is_true(arrangements):
    """A word that may mean two sounds ("acoustic guitar") counts where the family is right; dances have other metres at times."""
    read, right = collections.Counter(), collections.Counter()
    for number, one in enumerate(arrangements):
        truth = _controls(one)
        families = {FAMILY_OF[name] for name in truth.instruments}
        for text in caption.captions(one, np.random.default_rng(number), midicap=False):
            said = read_sentence(text)
            for name in ("tempo", "key", "drums", "metre"):
                value = getattr(said, name)
                read[name] += value is not None
                right[name] += value is not None and value == getattr(truth, name)
            read["instruments"] += len(said.instruments)
            right["instruments"] += sum(FAMILY_OF[name] in families for name in said.instruments)
            alone = bool(said.instruments) and said.only
            read["only"] += alone
            right["only"] += alone and len(truth.instruments) == len(said.instruments)
    assert all(read[name] >= 20 for name in ("tempo", "key", "drums", "metre", "instruments", "only"))
    assert all(right[name] == read[name] for name in ("tempo", "key"))
    assert all(right[name] >= 0.97 * read[name] for name in ("drums", "instruments", "only"))
    assert right["metre"] >= 0.9 * read["metre"]
