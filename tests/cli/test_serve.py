"""`melody serve` as a process: it listens, and a signal ends it in order."""

import json
import signal
import subprocess
import sys
import time
import urllib.request

import pytest

from melody_jax.cli.main import main
from tests.generate.conftest import bundle_dir, model_dir  # noqa: F401  fixtures

BAD = {
    "no bundle": ["--bundle", "/nowhere"],
    "no port": ["--port", "99999"],
    "no limit": ["--most_waiting", "0"],
    "no such token": ["--token_file", "/nowhere"],
    "no such address": ["--host", "203.0.113.9", "--token_file", "{token}", "--port", "0"],
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments_are_one_line(case, tmp_path, capsys):
    (tmp_path / "token").write_text("secret\n")
    assert main(["serve", *(word.format(token=tmp_path / "token") for word in BAD[case])]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith("error: ")


def test_an_empty_token_is_refused(tmp_path, capsys):
    (tmp_path / "token").write_text(" \n")
    assert main(["serve", "--token_file", str(tmp_path / "token")]) == 2
    assert "token is empty" in capsys.readouterr().err


def test_it_finishes_what_runs_when_it_is_stopped(bundle_dir):  # noqa: F811
    command = [sys.executable, "-m", "melody_jax.cli.main", "serve", "--bundle", str(bundle_dir), "--port", "0"]
    command += ["--grace", "300"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    address = process.stdout.readline().split()[-1]

    def call(path, body=None):
        data = None if body is None else json.dumps(body).encode()
        asked = urllib.request.Request(address + path, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(asked, timeout=120) as answer:
            return json.load(answer)

    job = call("/v1/generate", {"prompt": "a waltz", "settings": {"seconds": 0.4, "steps": 2}})
    until = time.monotonic() + 60
    while call(f"/v1/jobs/{job['id']}")["state"] == "waiting" and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    until = time.monotonic() + 300
    while job["state"] in ("waiting", "running") and time.monotonic() < until:
        job = call(f"/v1/jobs/{job['id']}?wait=60")
    assert job["state"] == "done", job
    assert call(f"/v1/takes/{job['takes'][0]}")["seconds"] == 0.4
    errors = process.communicate(timeout=120)[1]
    assert process.returncode == 0 and not errors.strip(), errors
