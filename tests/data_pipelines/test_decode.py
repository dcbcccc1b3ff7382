import numpy as np
import pytest
import soundfile

from data_pipelines import decode
from tests.data_pipelines.odd_inputs import far_caf, sound, tone_of
from tests.data_pipelines.tones import pitch_of, tone

FORM = decode.ClipFormat()


@pytest.mark.parametrize(
    ("name", "rate", "channels", "level"),
    [
        ("a.wav", 44_100, 2, 0.3),
        ("a.flac", 48_000, 1, 0.3),
        ("a.ogg", 44_100, 2, 0.3),
        ("a.mp3", 44_100, 2, 0.3),
        ("eight.wav", 44_100, 8, 0.3),
        ("slow.wav", 11_025, 1, 0.3),
        ("own.wav", 24_000, 1, 0.3),
    ],
)
def test_good_files_become_clips_of_the_right_length_pitch_and_level(tmp_path, name, rate, channels, level):
    soundfile.write(tmp_path / name, tone(440, 5, rate, channels, level), rate)
    clips = list(decode.clips_of(str(tmp_path / name), decode.ClipFormat(seconds=2.0, min_seconds=1.9)))
    assert len(clips) == 2  # the last second is dropped
    for clip in clips:
        assert clip.shape == (48_000,) and clip.dtype == np.float32
        assert pitch_of(clip, 24_000) == pytest.approx(440, abs=0.5)
        assert np.sqrt(2 * np.mean(clip[2_000:-2_000] ** 2)) == pytest.approx(level, rel=0.02)


def test_blocks_leave_no_seams(tmp_path):
    """A file is resampled in blocks of 10 s; the joint must be as smooth as the rest."""
    soundfile.write(tmp_path / "a.wav", tone(440, 30, 44_100), 44_100, "FLOAT")
    audio = np.concatenate(list(decode.clips_of(str(tmp_path / "a.wav"), FORM)))
    expected = tone(440, 30, 24_000)[:, 0]
    assert np.max(np.abs(audio - expected)[1_000:-1_000]) < 1e-3


def test_channels_are_averaged(tmp_path):
    both = np.concatenate([tone(440, 10, 24_000), np.zeros((240_000, 1))], axis=1)
    soundfile.write(tmp_path / "a.wav", both, 24_000, "FLOAT")
    (clip,) = decode.clips_of(str(tmp_path / "a.wav"), FORM)
    np.testing.assert_allclose(clip, both.mean(axis=1), atol=1e-6)


def test_a_part_of_a_file(tmp_path):
    parts = [tone(300, 10, 24_000), tone(600, 10, 24_000), tone(900, 10, 24_000)]
    soundfile.write(tmp_path / "a.wav", np.concatenate(parts), 24_000)
    (clip,) = decode.clips_of(str(tmp_path / "a.wav"), FORM, 10.0, 20.0)
    assert pitch_of(clip, 24_000) == pytest.approx(600, abs=0.2)


def test_almost_long_enough_is_filled_with_silence(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(440, 9.6, 24_000), 24_000)
    (clip,) = decode.clips_of(str(tmp_path / "a.wav"), FORM)
    assert clip.shape == (240_000,) and not clip[230_400:].any() and clip[:230_400].any()


def _truncate(path, share):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def test_an_ogg_that_ends_after_a_whole_page_is_used_and_remarked(tmp_path):
    """Nobody can tell whether it was cut or its recorder was: what there is is good."""
    soundfile.write(tmp_path / "a.ogg", tone(440, 30, 24_000), 24_000)
    data = (tmp_path / "a.ogg").read_bytes()
    (tmp_path / "a.ogg").write_bytes(data[: data.rfind(b"OggS")])
    clips = decode.clips_of(str(tmp_path / "a.ogg"), FORM)
    assert len(list(clips)) == 2
    (note,) = clips.notes
    assert "no end mark" in note.reason and 20 < note.start < 30


def test_a_stream_may_change_its_rate_and_channels(tmp_path):
    """Two mp3 files of different kinds joined: both are used, in the right pitch."""
    data = b""
    for rate, channels, pitch in ((44_100, 2, 440), (22_050, 1, 880)):
        soundfile.write(tmp_path / "part.mp3", tone(pitch, 10.2, rate, channels), rate)
        data += (tmp_path / "part.mp3").read_bytes()
    (tmp_path / "a.mp3").write_bytes(data)
    first, second = decode.clips_of(str(tmp_path / "a.mp3"), FORM)
    assert pitch_of(first, 24_000) == pytest.approx(440, abs=0.5)
    assert pitch_of(second, 24_000) == pytest.approx(880, abs=0.5)


def _broken(folder, kind):
    path = folder / f"{kind}.wav"
    good = tone(440, 30, 24_000)
    if kind.startswith("truncated"):
        path = folder / f"a.{kind.split()[1]}"
        soundfile.write(path, good, 24_000)
        _truncate(path, 0.7)  # more than a clip is left: only the missing end gives it away
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("this is not a sound file, whatever its name says\n" * 10)
    elif kind == "nan":
        good[500_000] = np.nan
        soundfile.write(path, good, 24_000, "FLOAT")
    elif kind == "header only":
        soundfile.write(path, good[:0], 24_000)
    elif kind == "one sample":
        soundfile.write(path, good[:1], 24_000)
    elif kind == "short":
        soundfile.write(path, good[: 24_000 * 5], 24_000)
    return path


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("truncated wav", "truncated"),
        ("truncated flac", "truncated|cannot be read"),
        ("truncated ogg", "truncated"),
        ("empty", "empty"),
        ("text", "cannot be read"),
        ("nan", "NaN"),
        ("header only", "too short"),
        ("one sample", "too short"),
        ("short", r"too short: 5\.00 s"),
        ("missing", "cannot be read: No such file"),
    ],
)
def test_broken_files_are_refused_with_the_reason(tmp_path, kind, reason):
    with pytest.raises(decode.UnusableError, match=reason):
        list(decode.clips_of(str(_broken(tmp_path, kind)), FORM))


def test_silence():
    assert decode.is_silent(np.zeros(240_000, np.float32), FORM)
    assert decode.is_silent(np.full(240_000, 1e-4, np.float32), FORM)
    click = np.zeros(240_000, np.float32)
    click[1_000:2_000] = 0.1
    assert not decode.is_silent(click, FORM)


def test_a_seek_to_nowhere_is_not_printed(tmp_path, capfd):
    """PyAV prints the traceback of what a Python file raises."""
    (tmp_path / "a.caf").write_bytes(far_caf(sound(tone_of(0), "CAF")))
    with pytest.raises(decode.UnusableError, match="cannot be read"):
        list(decode.clips_of(str(tmp_path / "a.caf"), FORM))
    assert capfd.readouterr().err == ""
