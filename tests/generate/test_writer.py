"""The files beside a piece of music."""

import dataclasses
import errno
import json
import resource
import wave

import numpy as np
import pytest
import soundfile
from PIL import Image

from melody_jax.errors import UserError
from melody_jax.generate import writer
from melody_jax.generate.files import Files, Output
from melody_jax.generate.page import write_page
from melody_jax.generate.picture import LOWEST_HZ, log_spectrogram
from melody_jax.generate.settings import Settings
from melody_jax.generate.sound_file import SoundFormat, check_music, read_music, stream_to, write_sound
from melody_jax.generate.writer import write_result


@pytest.fixture(scope="module")
def written(melody, tmp_path_factory):
    folder = tmp_path_factory.mktemp("out")
    paths = []
    for name in ("x.wav", "y.wav"):
        (result,) = melody.generate(["a slow waltz"], seconds=0.4, seed=3)
        paths.append(write_result(result, folder / name, melody.bundle))
    return result, *paths


def test_wav_is_16_bit_mono_of_the_exact_length(written):
    result, first, _ = written
    with wave.open(str(first[0])) as file:
        assert (file.getframerate(), file.getsampwidth(), file.getnchannels()) == (4000, 2, 1)
        assert file.getnframes() == 1600
        samples = np.frombuffer(file.readframes(1600), "<i2")
    np.testing.assert_allclose(samples / 32768, result.audio, atol=1e-4)


def test_same_seed_same_bytes(written):
    _, first, second = written
    assert first[0].read_bytes() == second[0].read_bytes()


def test_json_holds_all_settings_and_counts(written, melody):
    result, first, _ = written
    info = json.loads(first[2].read_text())
    assert info["settings"] == dataclasses.asdict(result.settings)
    assert set(info["settings"]) == {field.name for field in dataclasses.fields(Settings)}
    assert info["token_counts"] == {"mulan": 3, "semantic": 10, "latent_frames": 40}
    assert info["semantic_codes"] == result.tokens.tolist() and len(info["mulan_codes"]) == 3
    assert (info["prompt"], info["seed"], info["samples"], info["seconds"]) == ("a slow waltz", 3, 1600, 0.4)
    assert info["bundle"]["parts"] == melody.bundle.ids
    assert set(info["work_seconds"]) == {"prompt", "language model", "diffusion", "decoder", "total"}
    assert info["real_time_factor"] > 0


def test_picture_is_a_png(written):
    assert written[1][1].read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_loud_samples_are_clipped_not_wrapped(tmp_path):
    write_sound(np.array([2.0, -2.0, 0.0], np.float32), 4000, tmp_path / "x.wav")
    with wave.open(str(tmp_path / "x.wav")) as file:
        np.testing.assert_array_equal(np.frombuffer(file.readframes(3), "<i2"), [32767, -32768, 0])


@pytest.mark.parametrize("bits", [16, 24, 32])
def test_what_is_read_and_written_again_keeps_its_samples(tmp_path, bits):
    rng = np.random.default_rng(0)
    write_sound(rng.uniform(-1, 1, 4000).astype(np.float32), 4000, tmp_path / "x.wav", SoundFormat("wav", bits))
    first = read_music(tmp_path / "x.wav", 4000)
    write_sound(first, 4000, tmp_path / "y.wav", SoundFormat("wav", bits))
    np.testing.assert_array_equal(read_music(tmp_path / "y.wav", 4000), first)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.wav", "y.wav"]


@pytest.mark.parametrize(
    "kind, bits, rate",
    [("wav", 24, 48_000), ("flac", 16, 44_100), ("flac", 24, None), ("ogg", 16, None), ("mp3", 16, 24_000)],
)
def test_every_kind_of_file_holds_the_music_and_what_made_it(tmp_path, melody, written, kind, bits, rate):
    import soundfile

    tone = np.sin(2 * np.pi * 300 * np.arange(12_000) / 24_000).astype(np.float32) / 2
    piece = dataclasses.replace(written[0], audio=tone, sample_rate=24_000, prompt="ça $x$ & <b>", lufs=None)
    path = tmp_path / f"x.{kind}"
    write_result(piece, path, melody.bundle, SoundFormat(kind, bits, rate))
    title = "ca $x$ & <b>" if kind == "mp3" else "ça $x$ & <b>"
    with soundfile.SoundFile(path) as file:
        made = json.loads(file.comment)
        assert (file.samplerate, file.title, file.format) == (rate or 24_000, title, kind.upper())
        assert (
            made["prompt"] == "ça $x$ & <b>"
            and made["seed"] == 3
            and made["bundle"] == melody.bundle.ids["lm"][:8] + ("-" + melody.bundle.ids["dpd"][:8])
        )
        assert len(file) == pytest.approx(12_000 * (rate or 24_000) / 24_000, abs=2_500 if kind == "mp3" else 1)
    power = np.abs(np.fft.rfft(read_music(path, 24_000)[1_000:11_000]))
    assert abs(np.argmax(power) * 2.4 - 300) < 3


@pytest.mark.parametrize("arguments", [("aiff",), ("flac", 32), ("wav", 8), ("mp3", 24), ("wav", 16, 8_000)])
def test_no_such_file(arguments):
    with pytest.raises(UserError):
        SoundFormat(*arguments)


def test_a_picture_that_fails_costs_a_warning(tmp_path, melody, written):
    (tmp_path / "x.png").mkdir()
    with pytest.warns(UserWarning, match="x.png was not written"):
        paths = write_result(written[0], tmp_path / "x.wav", melody.bundle)
    assert [path.name for path in paths] == ["x.wav", "x.json"]
    (tmp_path / "y.json").mkdir()
    with pytest.warns(UserWarning, match="y.json was not written"):
        write_result(written[0], tmp_path / "y.wav", melody.bundle)
    assert (tmp_path / "y.wav").exists() and (tmp_path / "y.png").exists()


def test_an_end_at_any_moment_leaves_sound_and_settings_or_neither(tmp_path, melody, written, monkeypatch):
    """Or --skip_existing would leave out a piece that nobody can make again."""

    def stop(*_):
        raise KeyboardInterrupt

    for step, left in (("write_sound", []), ("write_picture", ["x.json", "x.wav"])):
        with monkeypatch.context() as patched:
            patched.setattr(writer, step, stop)
            with pytest.raises(KeyboardInterrupt):
                write_result(written[0], tmp_path / "x.wav", melody.bundle)
        assert sorted(path.name for path in tmp_path.iterdir()) == left


def test_prompts_are_text_and_no_markup(tmp_path, melody, written):
    prompt = r"rap about $100 bills & 50% off, $20 \frac <script>"
    piece = dataclasses.replace(written[0], prompt=prompt)
    assert len(write_result(piece, tmp_path / "x.wav", melody.bundle)) == 3
    write_page(tmp_path / "index.html", [(tmp_path / "x.wav", {"prompt": prompt, "seed": 3, "similarity": 0.5})])
    page = (tmp_path / "index.html").read_text()
    assert "<script>" not in page and "&lt;script&gt;" in page and 'src="x.wav"' in page and 'src="x.png"' in page


def test_notes_are_where_they_sound():
    rate = 24_000
    t = np.arange(2 * rate) / rate
    audio = np.where(t < 1, np.sin(2 * np.pi * 220 * t), np.sin(2 * np.pi * 1760 * t)).astype(np.float32)
    levels = log_spectrogram(audio, rate)
    for column, hz in ((len(levels) // 4, 220), (3 * len(levels) // 4, 1760)):
        loudest = LOWEST_HZ * 2 ** ((np.argmax(levels[column]) + 0.5) / 48)
        assert abs(np.log2(loudest / hz)) < 1 / 24
        assert levels[column].max() > -3 and np.median(levels[column]) < -50


def test_pictures_are_small(written):
    assert 5_000 < written[1][1].stat().st_size < 150_000


def test_music_prompt_is_read_as_mono_at_the_rate(tmp_path):
    import soundfile

    stereo = np.stack([np.ones(8000), np.zeros(8000)], axis=1)
    soundfile.write(tmp_path / "x.wav", stereo, 8000)
    mono = read_music(tmp_path / "x.wav", 4000)
    assert mono.shape == (4000,) and mono.dtype == np.float32
    np.testing.assert_allclose(mono[100:-100], 0.5, atol=0.01)
    whole = (tmp_path / "x.wav").read_bytes()
    (tmp_path / "pipe.wav").write_bytes(whole[:40] + (0x7FFFF000).to_bytes(4, "little") + whole[44:])  # as sox pipes it
    with pytest.warns(UserWarning, match="does not know its length"):
        np.testing.assert_array_equal(read_music(tmp_path / "pipe.wav", 4000), mono)
    (tmp_path / "cut.wav").write_bytes(whole[:20_000])
    with pytest.raises(UserError, match="truncated: .* s are missing"):
        read_music(tmp_path / "cut.wav", 4000)
    (tmp_path / "bad.wav").write_text("no sound")
    for name in ("bad.wav", "absent.wav"):
        for read in (lambda path: read_music(path, 4000), check_music):
            with pytest.raises(UserError, match="cannot read the music"):
                read(tmp_path / name)


def test_what_stands_beside_is_not_replaced_unasked(tmp_path):
    """A song's own captions and cover are called like what is written beside a piece."""
    for name in ("song.json", "song.png", "index.html"):
        (tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match=r"song\.png and 1 more exists"):
        Files(Output(str(tmp_path / "song.wav")), ["a"])
    with pytest.raises(UserError, match=r"index\.html exists"):
        Files(Output(str(tmp_path / "new.wav"), html=True), ["a"])
    assert Files(Output(str(tmp_path / "song.wav"), overwrite=True), ["a"]).wanted == [0]
    assert Files(Output(str(tmp_path / "new.wav")), ["a"]).wanted == [0]


def test_two_commands_with_one_name_keep_both_pieces(melody, tmp_path):
    """Both looked before either had written: nothing is overwritten, and each piece keeps its picture and settings."""
    results = [melody.generate(["a waltz"], seconds=0.4, seed=seed)[0] for seed in (1, 2)]
    files = [Files(Output(str(tmp_path / "x.wav"), html=True), ["a waltz"]) for _ in results]
    ((first, _),) = files[0].write(melody, 0, results[0])
    page = (tmp_path / "index.html").read_bytes()
    with pytest.warns(UserWarning) as warned:
        ((second, _),) = files[1].write(melody, 0, results[1])
    said = [str(warning.message) for warning in warned]
    assert f"another command has written {first} meanwhile; this piece is {second}" in said
    assert (first, second) == (tmp_path / "x.wav", tmp_path / "x-2.wav")
    for path, result in zip((first, second), results):
        assert json.loads(path.with_suffix(".json").read_text())["seed"] == result.seed
        np.testing.assert_allclose(read_music(path, 4000), result.audio, atol=1e-4)
    assert (tmp_path / "index.html").read_bytes() == page and any("index.html was not written" in one for one in said)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


def test_what_is_there_by_now_is_skipped_or_replaced_where_that_was_asked_for(melody, tmp_path):
    (mine,) = melody.generate(["a waltz"], seconds=0.4, seed=1)
    for option in ("skip_existing", "overwrite"):
        files = Files(Output(str(tmp_path / option / "x.wav"), **{option: True}), ["a waltz"])
        (tmp_path / option / "x.wav").write_bytes(b"theirs")
        if option == "overwrite":
            files.write(melody, 0, mine)
            assert len(read_music(tmp_path / option / "x.wav", 4000)) == 1600
        else:
            with pytest.warns(UserWarning, match="x.wav is there by now"):
                assert files.write(melody, 0, mine) == []
            assert (tmp_path / option / "x.wav").read_bytes() == b"theirs"


def test_candidates_that_are_there_are_not_replaced_unasked(tmp_path):
    (tmp_path / "x-candidate-1.wav").write_bytes(b"mine")
    with pytest.raises(UserError, match="x-candidate-1.wav exists"):
        Files(Output(str(tmp_path / "x.wav"), keep_all=True), ["a waltz"])
    Files(Output(str(tmp_path / "x.wav")), ["a waltz"])


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"), float)


def test_what_a_piece_that_is_there_lacks_is_made_from_its_sound(melody, tmp_path):
    """As after a disk that was full: the sound stays as it is, the picture and the page are made, settings are missed."""
    asked = Output(str(tmp_path), skip_existing=True, keep_all=True, html=True)
    (piece,) = melody.generate(["a waltz"], seconds=0.4, seed=1, candidates=2, keep_all=True)
    Files(asked, ["a waltz", "a reel"]).write(melody, 0, piece)
    pictures = sorted(tmp_path.glob("*.png"))
    sounds = {path: path.read_bytes() for path in tmp_path.glob("*.wav")}
    drawn = [pixels(path) for path in pictures]
    assert len(pictures) == len(sounds) == 2
    for path in (*pictures, tmp_path / "index.html"):
        path.unlink()
    files = Files(asked, ["a waltz", "a reel"])
    files.complete()
    assert files.wanted == [1]
    for path, before in zip(pictures, drawn):  # of 16 bits
        assert np.mean(np.abs(pixels(path) - before)) < 2 < np.std(before)
    assert np.mean(np.abs(drawn[1] - drawn[0])) > 2
    assert {path: path.read_bytes() for path in tmp_path.glob("*.wav")} == sounds
    assert (tmp_path / "index.html").read_text().count("<audio") == 2

    (tmp_path / "0-a-waltz.json").unlink()
    (tmp_path / "0-a-waltz.wav").write_bytes(b"cut")
    (tmp_path / "0-a-waltz.png").unlink()
    with pytest.warns(UserWarning) as warned:
        Files(asked, ["a waltz", "a reel"]).complete()
    said = [str(warning.message) for warning in warned]
    assert len(said) == 2 and "0-a-waltz.wav is there without its settings, 0-a-waltz.json" in said[0]
    assert "0-a-waltz.png was not written: cannot read the music" in said[1]


def test_an_end_between_candidates_leaves_a_piece_to_be_made(melody, tmp_path, monkeypatch):
    asked = Output(str(tmp_path / "x.wav"), skip_existing=True, keep_all=True)
    (piece,) = melody.generate(["a waltz"], seconds=0.4, seed=1, candidates=2, keep_all=True)
    with monkeypatch.context() as patched:
        patched.setattr(writer, "write_picture", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            Files(asked, ["a waltz"]).write(melody, 0, piece)
    assert len(list(tmp_path.glob("*.wav"))) == 1
    assert Files(asked, ["a waltz"]).wanted == [0]


def test_to_go_on_replaces_no_file_of_the_user(melody, tmp_path):
    """Where the sound is missing, settings and picture of a piece are made again, and nobody else's."""
    asked = Output(str(tmp_path / "song.wav"), skip_existing=True)
    (tmp_path / "song.png").write_bytes(b"a cover")
    with pytest.raises(UserError, match="song.png exists, and is perhaps no piece's"):
        Files(asked, ["a waltz"])
    (tmp_path / "song.png").unlink()
    (piece,) = melody.generate(["a waltz"], seconds=0.4, seed=1)
    Files(asked, ["a waltz"]).write(melody, 0, piece)
    (tmp_path / "song.wav").unlink()
    assert Files(asked, ["a waltz"]).wanted == [0]


def test_a_stream_does_not_begin_over_a_file_that_has_appeared(tmp_path):
    out = tmp_path / "x.wav"
    out.write_bytes(b"theirs")
    with pytest.raises(FileExistsError):
        stream_to(str(out), SoundFormat(), {}, False, 4000)
    assert out.read_bytes() == b"theirs"
    write, close = stream_to(str(out), SoundFormat(), {}, True, 4000)
    write(np.zeros(8, np.float32))
    close()
    assert soundfile.info(out).frames == 8


def test_why_a_disk_refuses_is_said(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))  # a write beyond it fails as on a full disk
    try:
        with pytest.raises(OSError) as refused:
            write_sound(np.zeros(24_000, np.float32), 24_000, tmp_path / "x.wav", SoundFormat("wav"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert refused.value.errno == errno.EFBIG and not list(tmp_path.iterdir())
