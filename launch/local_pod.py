"""A pod on one machine: real processes, joined over loopback, that run one command unchanged.

    python -m launch.local_pod --hosts 4 --devices_per_host 2 -- melody train lm --size tiny ...

Every process is a host with CPU devices of its own, as a host of a slice has chips of its own. What one of them prints is
shown with its number in front. When one dies the others are ended; when they stop to be started again (exit code 128 + n
after signal n, or a host killed) `--restarts` starts the command again, which goes on from its last checkpoint.
"""

import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TextIO

from launch.processes import exit_code
from launch.restarts import STOPPED_BY_SIGNAL

LOOK_SECONDS = 1.0
"""Between two questions whether a host is to be killed."""
GRACE_SECONDS = 60.0
"""Between SIGTERM and SIGKILL for hosts that outlive another one: they may hang in a collective without it."""
READ_SECONDS = 30.0
"""For what ended hosts have printed; a process of theirs that lives on may hold their output open."""


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, prog="launch.local_pod", description=__doc__.splitlines()[0] if __doc__ else None
    )
    parser.add_argument("--hosts", type=int, default=2, help="processes (default 2)")
    parser.add_argument("--devices_per_host", type=int, default=1, help="CPU devices of each (default 1)")
    parser.add_argument("--restarts", type=int, default=0, help="how often an interrupted run is started again")
    parser.add_argument(
        "--grace", type=float, default=GRACE_SECONDS, help="seconds to save in after a stop (default 60)"
    )
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND", help="what every host runs")
    args = parser.parse_args(argv)
    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    if min(args.hosts, args.devices_per_host) < 1 or args.restarts < 0 or args.grace <= 0 or not command:
        parser.error("wants --hosts and --devices_per_host of at least 1, a positive --grace and a command after --")
    beside = Path(sys.executable).parent / command[0]
    command[0] = str(beside) if beside.exists() else shutil.which(command[0]) or command[0]
    for attempt in range(args.restarts + 1):
        code = Pod(command, args.hosts, args.devices_per_host, args.grace).run()
        if code not in STOPPED_BY_SIGNAL or code == 128 + signal.SIGINT or attempt == args.restarts:
            break
        print(f"pod: stopped with exit code {code}, start {attempt + 2} of {args.restarts + 1}", flush=True)
    return code


class Pod:
    """A number of processes of one command, from their start to their common end.

    Args:
      grace: seconds to save in after a stop.
      out: takes what they print; None for the standard output.
    """

    def __init__(
        self,
        command: Sequence[str],
        hosts: int,
        devices: int,
        grace: float = GRACE_SECONDS,
        out: TextIO | None = None,
    ):
        self._grace, self._out = grace, out or sys.stdout
        self._signal, self._writing = 0, threading.Lock()
        address = f"127.0.0.1:{_free_port()}"
        self._hosts = [self._start(command, index, hosts, devices, address) for index in range(hosts)]
        self._readers = [
            threading.Thread(target=self._copy, args=(host.stdout, index), daemon=True)
            for index, host in enumerate(self._hosts)
        ]
        for reader in self._readers:
            reader.start()

    def run(self, kill_when: Callable[[], bool] | None = None) -> int:
        """Waits for the end of all. 0: every host ended with 0; else the code of the host that ended first of those
        that did not, 128 + n where signal n killed it.

        Args:
          kill_when: the last host is killed once this says so.
        """
        previous = {number: signal.signal(number, self._receive) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            return self._wait(kill_when)
        finally:
            for host in self._hosts:
                if host.poll() is None:
                    host.kill()
                host.wait()
            for host, reader in zip(self._hosts, self._readers, strict=True):
                reader.join(timeout=READ_SECONDS)
                if host.stdout and not reader.is_alive():
                    host.stdout.close()
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _start(
        self, command: Sequence[str], index: int, hosts: int, devices: int, address: str
    ) -> subprocess.Popen[str]:
        flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}".strip()
        environment = {
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
            "JAX_COORDINATOR_ADDRESS": address,
            "JAX_NUM_PROCESSES": str(hosts),
            "JAX_PROCESS_ID": str(index),
            "XLA_FLAGS": flags,
        }
        return subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # a Ctrl-C in the terminal reaches the hosts once, through this process
        )

    def _receive(self, number: int, _: object) -> None:
        self._signal = number
        self._send(signal.SIGTERM)

    def _send(self, number: int) -> None:
        for host in self._hosts:
            if host.poll() is None:
                host.send_signal(number)

    def _wait(self, kill_when: Callable[[], bool] | None) -> int:
        failed, deadline, look = 0, float("inf"), 0.0
        while any(host.poll() is None for host in self._hosts):
            if kill_when and time.monotonic() > look:
                look = time.monotonic() + LOOK_SECONDS
                if kill_when():
                    self._hosts[-1].kill()
                    kill_when = None
            ended = [(index, host) for index, host in enumerate(self._hosts) if host.poll()]
            if ended and not failed:
                index, host = ended[0]
                failed = exit_code(host)
                what = (
                    f"was killed by signal {failed - 128}" if host.returncode < 0 else f"ended with exit code {failed}"
                )
                print(f"pod: host {index} {what}; the others are stopped", file=self._out, flush=True)
                self._send(signal.SIGTERM)
            if (ended or self._signal) and deadline == float("inf"):
                deadline = time.monotonic() + self._grace
            if time.monotonic() > deadline:
                print(f"pod: hosts that did not stop within {self._grace:g} s are killed", file=self._out, flush=True)
                self._send(signal.SIGKILL)
                deadline = time.monotonic() + self._grace
            time.sleep(0.05)
        return failed or next((code for code in map(exit_code, self._hosts) if code), 0)

    def _copy(self, stream: TextIO | None, index: int) -> None:
        for line in stream or ():
            with self._writing:  # two threads that write at once may lose a line
                self._out.write(f"[{index}] {line}")
                self._out.flush()


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


if __name__ == "__main__":
    sys.exit(main())
