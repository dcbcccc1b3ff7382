"""Which beat the language model is told of where it begins anew: in windows of long music, in streams, in given music."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from melody_jax.codes.controls import Controls
from melody_jax.errors import UserError
from melody_jax.generate.making import told_beside
from tests.generate.conftest import with_beats


@pytest.fixture
def told(bundle_dir, monkeypatch):
    """(a system whose language model reads beats and writes nothing but code 0, [beat of the first moment it writes])."""
    melody, beats = with_beats(bundle_dir), []

    def write(condition, earlier, keys, length, sampling, negative=None):
        del keys, sampling, negative
        place = jnp.array([[earlier.shape[1]]])
        beat, _, known = melody.loaded.system.vocabulary.beats(condition, place)
        beats.append(float(beat[0, 0]) if known[0, 0] else None)
        return jnp.zeros((len(condition), length), jnp.int32)

    monkeypatch.setattr(melody.loaded, "write_tokens", write)
    return melody, beats


def test_windows_of_long_music_go_on_with_the_beat(told):
    """25 moments a second and 150 beats a minute: 10 moments a beat. Windows are 10 moments long and continue 5;
    none reaches beyond the end."""
    melody, beats = told
    asked = Controls(150.0, metre="2/4")
    made = melody.generate("a tone", seconds=1.2, controls=asked)
    assert np.mod(beats, 2).round(2).tolist() == [0.0, 1.0, 1.5, 0.0, 0.5]
    assert made.call["controls"] == {"tempo": 150.0, "metre": "2/4", "downbeat": 0.0}


def test_a_tempo_that_is_not_named_is_drawn_once_and_told(told):
    melody, beats = told
    slow, again, other = (melody.generate("a slow tone", seconds=0.4, seed=seed) for seed in (1, 1, 2))
    tempi = [piece.call["controls"]["tempo"] for piece in (slow, again, other)]
    assert tempi[0] == tempi[1] != tempi[2] and all(54 <= tempo < 72 for tempo in tempi)
    assert melody.replay(slow.call).call["controls"] == slow.call["controls"]
    assert set(beats) == {0.0}
    beats.clear()
    assert melody.generate("an ambient drone", seconds=0.4).call["controls"] == {}
    melody.generate(audio=np.sin(np.arange(1600) / 5).astype(np.float32), seconds=0.4)  # has a tempo of its own
    assert beats == [None, None]


def test_a_stream_keeps_the_beat_until_it_is_asked_for_another(told):
    melody, beats = told
    stream = melody.stream("a tone at 150 bpm", seed=1)
    next(stream), next(stream)
    stream.change(negative="noise", lm_guidance=2.0)
    next(stream)
    before = len(beats)
    assert np.mod(beats, 1).round(2).tolist() == [0.0, 0.0, 0.5]
    stream.change("a tone at 75 bpm")
    next(stream), next(stream)
    assert np.mod(beats[before:], 1).round(2).tolist() == [0.0, 0.25]


def test_a_stream_takes_other_controls(told):
    """They stay until others are given; with none at all the sentence alone counts."""
    melody, beats = told
    stream = melody.stream("a drone", seed=1, controls=Controls(150.0))
    next(stream), next(stream)
    stream.change("an ambient drone")
    next(stream)
    assert np.mod(beats, 1).round(2).tolist() == [0.0, 0.0, 0.5]
    with pytest.raises(UserError, match="empty"):
        stream.change(" ", controls=Controls(75.0))
    stream.change(temperature=0.9)
    next(stream)
    before = len(beats)
    assert beats[-1] is not None
    stream.change(controls=Controls(75.0))
    next(stream), next(stream)
    assert np.mod(beats[before:], 1).round(2).tolist() == [0.0, 0.25]
    stream.change(controls=Controls())
    next(stream)
    assert beats[-1] is None


def test_of_given_music_the_beat_is_known_where_the_downbeat_is_told(told):
    melody, beats = told
    audio = np.sin(np.arange(1600) / 5).astype(np.float32)
    melody.continue_(audio, "a tone", seconds=0.2, controls=Controls(150.0))
    melody.continue_(audio, "a tone", seconds=0.2, controls=Controls(150.0, downbeat=0.1))
    assert beats == [None, 0.75]  # 10 moments on, of which 2.5 are before the downbeat


def test_what_goes_on_with_a_piece_keeps_its_beat(told):
    """A piece of 20 moments, two beats; the models see its last ten."""
    melody, beats = told
    piece = melody.generate("a tone at 150 bpm", seconds=0.8)
    beats.clear()
    longer = melody.continue_(piece, seconds=0.2)
    assert np.mod(beats, 1).round(2).tolist() == [0.0]
    assert longer.call["controls"]["tempo"] == 150.0
    assert (
        melody.continue_([piece.audio], heard=piece.controls, seconds=0.2)[0].call["controls"]
        == longer.call["controls"]
    )
    beats.clear()
    other = melody.continue_(piece, "a tone at 75 bpm", seconds=0.2)
    assert other.call["controls"] == {"tempo": 75.0} and beats == [None]


@pytest.mark.parametrize(
    ("beside", "told"),
    [
        ({"call": {"controls": {"tempo": 96.0, "downbeat": 0.5}}}, Controls(96.0, downbeat=0.5)),
        ({"call": {}}, None),
        ({"bpm": 96, "downbeat": 0.5}, Controls(96.0, downbeat=0.5)),
        ([], Controls()),
        (None, None),
    ],
)
def test_the_json_beside_a_sound_file_tells_its_beat(tmp_path, beside, told):
    if beside is not None:
        (tmp_path / "a.json").write_text(json.dumps(beside))
    assert told_beside(str(tmp_path / "a.wav")) == told


@pytest.mark.parametrize("text", ["{broken", '{"call": {"controls": {"tempo": "?"}}}'])
def test_a_json_beside_a_sound_file_that_cannot_be_read_is_named(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.warns(UserWarning, match="a.json tells cannot be read"):
        assert told_beside(str(tmp_path / "a.wav")) is None
