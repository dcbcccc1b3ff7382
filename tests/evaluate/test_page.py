"""The page of an evaluation: tables as text, and for every prompt the real clip and each bundle's piece."""

import html.parser

import numpy as np
import pytest
import soundfile

from melody_jax.errors import UserError
from melody_jax.evaluate.estimate import Estimate
from melody_jax.evaluate.figures import Figure
from melody_jax.evaluate.page import Heard, write_page
from melody_jax.evaluate.tables import Table
from melody_jax.generate.loudness import lufs

RATE = 8_000


class _Reader(html.parser.HTMLParser):
    """Sources, headings and cells of a page."""

    def __init__(self, text):
        super().__init__()
        self.found = {"audio": [], "img": [], "script": [], "link": [], "h2": [], "td": [], "p": []}
        self._open = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self._open = tag
        if tag in ("audio", "img", "script", "link"):
            self.found[tag].append(dict(attrs).get("src"))

    def handle_data(self, data):
        if self._open in ("h2", "td", "p") and data.strip():
            self.found[self._open].append(data)


def _tone(pitch, level):
    return (level * np.sin(2 * np.pi * pitch * np.arange(RATE) / RATE)).astype(np.float32)


def test_the_page_plays_every_bundle_beside_the_real_clip(tmp_path):
    prompts = ["a waltz & <b>", "a reel"]
    heard = {
        name: [Heard(prompt, _tone(pitch, 0.2), _tone(300, 0.02), -16.0) for prompt in prompts]
        for name, pitch in (("old", 400), ("new one", 500))
    }
    table = Table("Text to music", "measure", ("made",), {"key": {"made": Estimate(0.5, 0.4, 0.6, 9)}}, "A note.")
    figures = [Figure("lm", "loss", 1.0, "bigram < 3", 2.0, "<=")]
    side_by_side = Table(
        "Bundles side by side", "measure", ("old", "new one"), {"key": {"old": "0.5", "new one": "0.6 *"}}
    )
    write_page(tmp_path, {name: (figures, [table]) for name in heard}, heard, RATE, side_by_side)
    page = _Reader((tmp_path / "index.html").read_text()).found
    sounds = [f"music/{folder}{index:02d}.ogg" for index in range(2) for folder in ("", "old/", "new%20one/")]
    assert page["audio"] == sounds and page["img"] == [sound.replace(".ogg", ".png") for sound in sounds]
    assert not page["script"] and not page["link"]
    assert page["h2"][:3] == ["Bundles side by side", *prompts] and "new one: Text to music" in page["h2"]
    assert {"bigram < 3", "0.500 (0.40 to 0.60)", "0.6 *"} <= set(page["td"]) and "A note." in page["p"]
    real, rate = soundfile.read(tmp_path / "music" / "01.ogg")
    assert rate == RATE and lufs(real, RATE) == pytest.approx(-16, abs=0.5)  # as loud as the pieces
    piece, _ = soundfile.read(tmp_path / "music" / "new one" / "00.ogg")
    assert np.argmax(np.abs(np.fft.rfft(piece))) == pytest.approx(500, abs=2)


def test_a_page_without_music_and_one_that_cannot_be_written(tmp_path):
    write_page(tmp_path, {"one": ([Figure("lm", "loss", 1.0, "-", 2.0, "<=")], [])}, {"one": []}, RATE)
    page = _Reader((tmp_path / "index.html").read_text()).found
    assert page["h2"] == ["one: held-out figures"] and not page["audio"] and not (tmp_path / "music").exists()
    (tmp_path / "music").touch()
    with pytest.raises(UserError, match="the page cannot be written to"):
        write_page(tmp_path, {"one": ([], [])}, {"one": [Heard("a", _tone(300, 0.1), _tone(300, 0.1), None)]}, RATE)
