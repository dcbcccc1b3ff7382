"""A pod on one machine: its hosts begin and end together, whatever one of them does."""

import os
import signal
import subprocess
import sys
import time

import pytest

from launch import local_pod

PYTHON = [sys.executable, "-c"]


def pod(capfd, code, *options):
    """(exit code, lines that were printed) of a pod whose hosts run `code`, with its index as `host`."""
    script = f"import os, signal, sys, time; host = int(os.environ['JAX_PROCESS_ID'])\n{code}"
    result = local_pod.main([*options, "--", *PYTHON, script])
    return result, capfd.readouterr().out.splitlines()


def test_every_host_knows_its_place(capfd):
    code, lines = pod(
        capfd,
        "print(*(os.environ[n] for n in ('JAX_NUM_PROCESSES', 'XLA_FLAGS', 'JAX_COORDINATOR_ADDRESS')))",
        "--hosts=3",
        "--devices_per_host=2",
    )
    assert code == 0
    assert sorted(line[:3] for line in lines) == ["[0]", "[1]", "[2]"]
    told = {line[4:] for line in lines}
    assert len(told) == 1, "all hosts are told the same"
    assert told.pop().startswith("3 ") and all("device_count=2 127.0.0.1:" in line for line in lines)


@pytest.mark.parametrize(
    ("end", "code", "message"),
    [
        ("sys.exit(7)", 7, "host 1 ended with exit code 7"),
        ("os.kill(os.getpid(), signal.SIGKILL)", 137, "host 1 was killed by signal 9"),
    ],
)
def test_the_end_of_one_host_ends_the_others(capfd, end, code, message):
    started = time.monotonic()
    found, lines = pod(capfd, f"time.sleep(0.3 if host == 1 else 60)\nif host == 1: {end}", "--hosts=3")
    assert time.monotonic() - started < 20
    assert found == code
    assert f"pod: {message}; the others are stopped" in lines


def test_a_host_that_does_not_listen_is_killed(capfd):
    script = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('deaf', flush=True)\ntime.sleep(60 if host else 1)\nsys.exit(5)"
    started = time.monotonic()
    code, lines = pod(capfd, script, "--grace=0.5")
    assert code == 5 and time.monotonic() - started < 20
    assert "pod: hosts that did not stop within 0.5 s are killed" in lines


def test_the_last_host_is_killed_when_it_is_time(tmp_path):
    log, asked = tmp_path / "log", []
    with log.open("w") as out:
        running = local_pod.Pod([*PYTHON, "import time; print('here', flush=True); time.sleep(60)"], 2, 1, 1.0, out)
        code = running.run(lambda: asked.append(1) or len(asked) == 2)
    assert code == 137 and len(asked) == 2
    assert "pod: host 1 was killed by signal 9; the others are stopped" in log.read_text()


@pytest.mark.parametrize(("first", "starts", "code"), [(143, 2, 0), (2, 1, 2), (0, 1, 0)])
def test_what_a_signal_ended_is_started_again(capfd, tmp_path, first, starts, code):
    """A bad argument (2) is not: it would fail again."""
    log = tmp_path / "starts"
    script = f"open({str(log)!r}, 'a').write('x'); sys.exit(0 if os.path.getsize({str(log)!r}) > 1 else {first})"
    found, _ = pod(capfd, script, "--hosts=1", "--restarts=3")
    assert (found, len(log.read_text())) == (code, starts)


def test_a_preemption_notice_reaches_every_host(tmp_path):
    script = (
        "import os, signal, sys, time, pathlib\n"
        "def stop(*_): print('saved', flush=True); sys.exit(143)\n"
        "signal.signal(signal.SIGTERM, stop)\n"
        f"pathlib.Path({str(tmp_path)!r}, os.environ['JAX_PROCESS_ID']).touch()\n"
        "time.sleep(60)"
    )
    command = [sys.executable, "-m", "launch.local_pod", "--hosts", "2", "--", *PYTHON, script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": "."}) as running:
        deadline = time.monotonic() + 30
        while len(list(tmp_path.iterdir())) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        running.send_signal(signal.SIGTERM)
        out, _ = running.communicate(timeout=30)
    assert running.returncode == 143
    assert sorted(line for line in out.splitlines() if "saved" in line) == ["[0] saved", "[1] saved"]


def test_bad_arguments(capsys):
    with pytest.raises(SystemExit, match="2"):
        local_pod.main(["--hosts", "0", "--", "true"])
    assert "a command after --" in capsys.readouterr().err
