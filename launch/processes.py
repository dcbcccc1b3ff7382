"""Commands of cloud tools, run with time limits, followed, or only printed."""

import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os import killpg
from pathlib import Path
from typing import IO

from melody_jax.errors import UserError

TIMED_OUT = 124  # as coreutils' `timeout` says it
TICK = 0.1
KILL_AFTER = 5.0
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def exit_code(process: subprocess.Popen) -> int:
    """The exit code of a process as a shell gives it: 128 + n where signal n ended it."""
    return 128 - process.returncode if process.returncode < 0 else process.returncode


class LaunchError(Exception):
    """The launch failed. The message is one clear sentence; `exit_code` is the process's."""

    def __init__(self, message: str, exit_code: int = 1):
        super().__init__(message)
        self.exit_code = exit_code


class InterruptError(LaunchError):
    """A signal ended the launch."""


@dataclass(frozen=True)
class Result:
    """How a command ended: exit code (124: its time was up) and what it wrote."""

    code: int
    out: str = ""
    err: str = ""

    @property
    def reason(self) -> str:
        """The line that says why it failed."""
        if self.code == TIMED_OUT:
            return "no answer in time"
        lines = [line.strip() for line in (self.err or self.out).splitlines() if line.strip()]
        errors = [line for line in lines if line.lower().startswith("error")]
        return (errors or lines or [f"exit code {self.code}"])[-1]


class Runner:
    """Runs commands one after another, each in a process group of its own; a dry one prints them instead.

    As a context it receives SIGINT, SIGTERM and SIGHUP: the command that runs is killed and InterruptError raised, in the
    main thread and never between two commands' bookkeeping. Once `finishing` is set, signals no longer end anything.

    Attributes:
      folder: for what the launch writes; `log.txt` in it has all commands, and all that was said and followed.
    """

    def __init__(self, folder: Path, dry_run: bool = False):
        self.folder = folder
        self.dry_run = dry_run
        self.finishing = False
        self._received = 0
        self._log: IO[str] | None = None

    def __enter__(self) -> "Runner":
        if not self.dry_run:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._log = (self.folder / "log.txt").open("a")
        self._previous = {number: signal.signal(number, self._receive) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if self._log is not None:
            self._log.close()

    def _receive(self, number: int, _: object) -> None:
        self._received = number

    def _check(self) -> None:
        if self._received and not self.finishing:
            raise InterruptError(f"stopped by {signal.Signals(self._received).name}", 128 + self._received)

    def need(self, program: str) -> None:
        """Raises UserError where a program that will be run is not there. A dry run needs none."""
        if not self.dry_run and shutil.which(program) is None:
            raise UserError(f"{program} is not on PATH: install it, or look at --dry_run")

    def say(self, text: str) -> None:
        """One line of our own on the terminal and in the log."""
        self._show(f"# {text}\n" if self.dry_run else f"melody launch: {text}\n")

    def _show(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()
        self._record(text)

    def _record(self, text: str) -> None:
        if self._log is not None:
            self._log.write(text)
            self._log.flush()

    def write(self, name: str, text: str) -> Path:
        """Writes a file into the folder; a dry run prints it."""
        path = self.folder / name
        if self.dry_run:
            self._show(f"mkdir -p {shlex.quote(str(self.folder))}\ncat > {shlex.quote(str(path))} <<'EOF'\n{text}EOF\n")
        else:
            path.write_text(text)
        return path

    def pause(self, seconds: float) -> None:
        """Sleeps; a signal ends it."""
        end = time.monotonic() + (0.0 if self.dry_run else seconds)
        while (left := end - time.monotonic()) > 0:
            self._check()
            time.sleep(min(TICK, left))

    def run(self, argv: Sequence[str], *, limit: float, stdin: str = "", assumed: str = "") -> Result:
        """Runs a command that answers within `limit` seconds; later its process group is killed.

        `assumed` is what a dry run takes for its output.
        """
        if self.dry_run:
            self._show(shlex.join(argv) + (f" <<'EOF'\n{stdin}EOF\n" if stdin else "\n"))
            return Result(0, assumed)
        out: list[str] = []
        err: list[str] = []
        code = self._execute(argv, stdin, {"stdout": out.append, "stderr": err.append}, limit)
        if code:  # the terminal gets one line, the log all of it
            self._record("".join([*out, *err, f"exit code {code}\n"]))
        return Result(code, "".join(out), "".join(err))

    def follow(
        self,
        argv: Sequence[str],
        *,
        line: Callable[[str], object] = str,
        lost: Callable[[], bool] = bool,
        every: float = 60.0,
    ) -> int:
        """Runs a command as long as it takes, shows its lines, and gives each to `line`. Returns the exit code.

        Every `every` seconds `lost` says whether the machine behind the command is gone; then it is killed.
        """
        if self.dry_run:
            self._show(shlex.join(argv) + "\n")
            return 0

        def show(text: str) -> None:
            self._show(text)
            line(text)

        return self._execute(argv, "", {"stdout": show}, None, lost, every)

    def _execute(
        self,
        argv: Sequence[str],
        stdin: str,
        sinks: dict[str, Callable[[str], object]],
        limit: float | None,
        lost: Callable[[], bool] = bool,
        every: float = 60.0,
    ) -> int:
        self._check()
        self._record(f"$ {shlex.join(argv)}\n")
        begin = looked = time.monotonic()
        process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if "stderr" in sinks else subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # a terminal's Ctrl-C must reach us alone
        )
        pumps = [threading.Thread(target=_pump, args=(getattr(process, s), sinks[s]), daemon=True) for s in sinks]
        for pump in pumps:
            pump.start()
        if process.stdin is not None:
            threading.Thread(target=_feed, args=(process.stdin, stdin), daemon=True).start()
        try:
            while process.poll() is None:
                self._check()
                now = time.monotonic()
                if limit is not None and now - begin > limit:
                    return TIMED_OUT
                if now - looked > every:
                    if lost():
                        return TIMED_OUT
                    looked = time.monotonic()
                time.sleep(TICK / 4 if now - begin < 1 else TICK)
            for pump in pumps:
                pump.join(KILL_AFTER)
            return exit_code(process)
        finally:
            if process.poll() is None:
                _kill(process)


def _pump(stream: IO[str], sink: Callable[[str], object]) -> None:
    for text in stream:
        sink(text)


def _feed(stream: IO[str], text: str) -> None:
    try:
        with stream:
            stream.write(text)
    except BrokenPipeError:
        pass  # its exit code tells


def _kill(process: subprocess.Popen) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            killpg(process.pid, number)
            process.wait(KILL_AFTER)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue
