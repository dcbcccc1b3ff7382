"""The page in a real browser, by clicks: from a sentence through repainting, continuing, varying and undoing to a file.

Needs Playwright and a chromium (`apt install chromium`). The toy bundle makes the music, or the one that MELODY_BUNDLE
names, which takes minutes; MELODY_SCREENSHOTS names a folder for pictures of the page.
"""

import importlib.util
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile

from tests.generate.conftest import bundle_dir, model_dir  # noqa: F401  fixtures

ROOT = pathlib.Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here (apt install chromium)"),
    pytest.mark.skipif(importlib.util.find_spec("playwright") is None, reason="playwright is not installed"),
]


@pytest.fixture(scope="module")
def address(request):
    """A server of its own process, as `melody serve` starts it."""
    user = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    cache = {"JAX_COMPILATION_CACHE_DIR": str(ROOT / ".cache" / "jax-page"), "PYTHONUNBUFFERED": "1"}
    bundle = os.environ.get("MELODY_BUNDLE") or str(request.getfixturevalue("bundle_dir"))
    command = [sys.executable, "-m", "melody_jax.cli.main", "serve", "--bundle", bundle]
    process = subprocess.Popen(
        [*command, "--port", "0"], cwd=ROOT, env=user | cache, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("listening on http://"), line + process.communicate(timeout=10)[1]
    yield line.split()[-1]
    process.terminate()
    errors = process.communicate(timeout=120)[1]
    assert process.returncode == 0 and "Traceback" not in errors, errors


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


def takes_of(page):
    return page.locator("#takes button")


def until(page, expression, seconds=60.0):
    """Waits for it to be true. Playwright's own waiting evaluates text in the page, which its security policy forbids."""
    end = time.monotonic() + seconds
    while not page.evaluate(expression):
        assert time.monotonic() < end, expression
        time.sleep(0.3)


def wait_for_takes(page, count):
    until(
        page,
        f"document.querySelectorAll('#takes button').length >= {count} && document.getElementById('work').hidden"
        " || !document.getElementById('problem').hidden",
        600.0,
    )
    assert page.locator("#problem").is_hidden(), page.locator("#problem").inner_text()
    assert takes_of(page).count() == count
    until(page, "document.querySelectorAll('#pitches span').length > 3")


def picture(page, name, tmp_path):
    folder = pathlib.Path(os.environ.get("MELODY_SCREENSHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    page.evaluate("window.scrollTo(0, 0)")
    page.screenshot(path=folder / f"{name}.png", full_page=True)


def opened(context, address):
    """(the page, ready; what it has to complain of so far and from now on)."""
    page = context.new_page()
    page.set_default_timeout(60_000)
    said = []
    page.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(address)
    page.locator("#status").get_by_text("kHz").wait_for()
    return page, said


def test_the_whole_path_by_clicks(browser, address, tmp_path):
    context = browser.new_context(viewport={"width": 1280, "height": 860}, color_scheme="light", accept_downloads=True)
    page, said = opened(context, address)

    page.fill("#prompt", "a slow waltz for solo violin in D minor")
    page.fill("#seconds", "4")
    page.fill("#candidates", "2")
    page.fill("#seed", "3")
    controls = page.locator("#controls").is_visible()
    if controls:
        page.click("#controls summary")
        page.fill("#bpm", "96")
        page.select_option("#key", "D minor")
        page.fill("#instruments", "violin")
    page.locator("summary", has_text="More").click()
    page.fill("#steps", "8")
    page.click("#make")
    page.locator("#work").wait_for()
    wait_for_takes(page, 2)
    assert "seed 3" in page.locator("#facts").inner_text()
    assert not controls or "D minor" in page.locator("#facts").inner_text()

    seconds = page.locator("#ruler span").all_inner_texts()
    assert seconds[:3] == ["0 s", "0.5", "1"] and seconds[-1] == "3.5"
    page.click("#play")
    until(page, "document.getElementById('audio').currentTime > 0.4")
    assert page.locator("#play").get_attribute("aria-label") == "Pause"
    page.click("#play")

    box = page.locator("#stage").bounding_box()
    assert box is not None and page.locator("#repaint").is_disabled()
    page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + 150)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 150, steps=5)
    page.mouse.up()
    assert float(page.input_value("#from")) == pytest.approx(1.0, abs=0.1)
    assert float(page.input_value("#to")) == pytest.approx(2.0, abs=0.1)
    page.fill("#wish", "a flute solo")
    page.fill("#seed", "")
    page.click("#repaint")
    wait_for_takes(page, 3)
    picture(page, "page", tmp_path)

    page.click("#clear")
    page.fill("#more", "2")
    page.click("#continue")
    wait_for_takes(page, 4)
    page.locator("#time", has_text="6.0 s").wait_for()
    page.click("#vary")
    wait_for_takes(page, 5)

    chosen = page.locator('#takes button[aria-current="true"]')
    assert "Varied" in chosen.inner_text()
    page.click("#undo")
    page.locator("[aria-current=true]", has_text="Continued").wait_for()
    page.keyboard.press("Escape")
    page.click("#undo")
    page.locator("[aria-current=true]", has_text="Repainted").wait_for()
    page.click("#redo")
    page.locator("[aria-current=true]", has_text="Continued").wait_for()
    page.locator("#time", has_text="6.0 s").wait_for()

    page.select_option("#format", "flac")
    with page.expect_download() as download:
        page.click("#download")
    download.value.save_as(tmp_path / "x.flac")
    audio, rate = soundfile.read(tmp_path / "x.flac")
    assert len(audio) == 6 * rate and np.abs(audio).max() > 0.01
    with page.expect_download() as download:
        page.click("#json")
    download.value.save_as(tmp_path / "x.json")
    info = json.loads((tmp_path / "x.json").read_text())
    assert info["call"]["name"] == "continue_" and info["call"]["settings"]["seconds"] == 2

    soundfile.write(tmp_path / "mine.wav", 0.3 * np.sin(np.arange(3 * 44_100) * 0.06), 44_100)
    page.set_input_files("#file", tmp_path / "mine.wav")
    wait_for_takes(page, 6)
    page.locator("#title", has_text="mine.wav").wait_for()
    page.fill("#steps", "100")
    page.click("#vary")
    page.locator("#work").wait_for()
    page.click("#cancel")
    page.locator("#work").wait_for(state="hidden", timeout=600_000)
    assert takes_of(page).count() == 6

    page.reload()
    wait_for_takes(page, 6)
    page.fill("#prompt", "x")
    page.fill("#seconds", "0.5")
    page.evaluate("document.getElementById('seconds').removeAttribute('min')")
    page.fill("#seconds", "-1")
    page.click("#make")
    page.locator("#problem").wait_for()
    assert "seconds must be more than 0" in page.locator("#problem").inner_text()
    assert [line for line in said if "422" not in line] == []
    context.close()


def test_a_stream_plays_changes_and_stops(browser, address, tmp_path):
    context = browser.new_context(viewport={"width": 1280, "height": 860}, color_scheme="light")
    page, said = opened(context, address)
    assert page.locator("#live").is_hidden()
    page.fill("#prompt", "slow strings")
    page.fill("#seed", "5")
    page.locator("summary", has_text="More").click()
    page.fill("#steps", "2")
    with page.expect_response("**/v1/streams") as begun:
        page.click("#stream")
    id = begun.value.headers["x-stream-id"]
    assert begun.value.headers["x-seed"] == "5" and page.locator("#stream").is_disabled()
    until(page, "document.getElementById('live-level').value > 0.02", 600.0)
    until(page, "parseInt(document.getElementById('live-time').textContent) >= 2", 600.0)
    picture(page, "stream", tmp_path)

    controls = page.locator("#controls").is_visible()
    if controls:
        page.click("#controls summary")
        page.fill("#bpm", "140")
    page.fill("#prompt", "drums come in")
    with page.expect_response(f"**/v1/streams/{id}") as changed:
        page.click("#live-change")
    assert changed.value.status == 200 and changed.value.request.method == "PATCH"
    asked = changed.value.request.post_data_json
    assert asked["prompt"] == "drums come in" and asked["controls"] == ({"bpm": 140} if controls else {})
    page.locator("#live-text", has_text="drums come in").wait_for()
    until(page, "parseInt(document.getElementById('live-time').textContent) >= 4", 600.0)

    with page.expect_response(f"**/v1/streams/{id}") as ended:
        page.click("#live-stop")
    assert ended.value.status == 204
    page.locator("#live").wait_for(state="hidden")
    assert page.locator("#stream").is_enabled()
    assert page.request.patch(f"{address}/v1/streams/{id}", data={"prompt": "x"}).status == 404

    page.fill("#steps", "100000")
    page.evaluate("document.getElementById('steps').removeAttribute('max')")
    page.click("#stream")
    page.locator("#problem").wait_for()
    assert "steps" in page.locator("#problem").inner_text() and page.locator("#live").is_hidden()
    assert [line for line in said if "422" not in line] == []
    context.close()


def test_a_phone(browser, address, tmp_path):
    context = browser.new_context(
        viewport={"width": 390, "height": 844},
        color_scheme="dark",
        has_touch=True,
        is_mobile=True,
        device_scale_factor=2,
    )
    page = context.new_page()
    page.goto(address)
    page.locator("#status").get_by_text("kHz").wait_for()
    page.fill("#prompt", "a jig for tin whistle and guitar")
    page.fill("#seconds", "4")
    page.locator("summary", has_text="More").tap()
    page.fill("#steps", "8")
    page.locator("summary", has_text="More").tap()
    page.tap("#make")
    wait_for_takes(page, 1)
    drag(page, 0.3, 0.6)
    assert float(page.input_value("#to")) == pytest.approx(2.4, abs=0.15)
    page.wait_for_timeout(500)
    picture(page, "phone", tmp_path)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    small = page.evaluate(
        "[...document.querySelectorAll('button, select, .file')].filter(e => e.offsetParent && e.offsetHeight < 34)"
        ".map(e => e.id)"
    )
    assert not small
    context.close()


def drag(page, begin, end):
    """A finger over the picture, from one share of its width to another."""
    page.locator("#stage").scroll_into_view_if_needed()
    box = page.locator("#stage").bounding_box()
    touch = page.context.new_cdp_session(page)
    y = box["y"] + box["height"] / 2
    for kind, share in (("touchStart", begin), *(("touchMove", begin + (end - begin) * i / 6) for i in range(1, 7))):
        points = [{"x": box["x"] + box["width"] * share, "y": y}]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
