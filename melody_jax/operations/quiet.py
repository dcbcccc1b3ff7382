"""What reaches the terminal: nothing that TensorFlow says of itself while it is loaded; warnings, and errors of other
libraries that a user can mend, in one line; one voice where Ctrl-C meets several processes. Imports neither TensorFlow nor jax.
"""

import contextlib
import importlib.abc
import os
import re
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterator
from typing import Any

import absl.logging
import tqdm

from melody_jax.errors import BAD_ARGUMENTS, OURS, lacking, refused


def silence_tensorflow() -> None:
    """Before TensorFlow is imported: only its errors are printed, unless TF_CPP_MIN_LOG_LEVEL says otherwise."""
    if "TF_CPP_MIN_LOG_LEVEL" not in os.environ:  # a user who has set it wants to read TensorFlow's messages
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
        sys.meta_path.insert(0, _Quiet())
        absl.logging.set_verbosity(absl.logging.ERROR)  # TFDS warns of things that are in order


def quiet_workers() -> None:
    """In a worker process, Ctrl-C ends without a word: it reaches all processes, and the first one speaks for them.

    Worker processes import the script that started the command. They have their name by then, but not yet their parent.
    """
    processes = sys.modules.get("multiprocessing.process")
    is_worker = processes is not None and processes.current_process().name != "MainProcess"
    if is_worker and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as nohup starts a command
        signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextlib.contextmanager
def plain_warnings() -> Iterator[None]:
    """Warnings are one line on stderr, above a progress bar."""

    def show(message: Any, *_: Any, **__: Any) -> None:
        tqdm.tqdm.write(f"warning: {' '.join(str(message).split())}", sys.stderr)

    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = show
        yield


def explained(error: Exception) -> tuple[str, int] | None:
    """(one line, exit code) for an error of jax, of a bucket or of the system that the user can mend; None for any other."""
    if _lacks_devices(error):
        asked = os.environ.get("JAX_PLATFORMS", "")
        return f"JAX_PLATFORMS={asked}: this machine or installation has no such device", BAD_ARGUMENTS

    if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] not in OURS:
        return str(lacking("data", "this", error)), BAD_ARGUMENTS

    from melody_jax import storage  # which takes a tenth of a second, also from --help

    if reason := storage.refusal(error):
        return f"the bucket may not be used from here: {reason}", BAD_ARGUMENTS
    return refused(error)


def _lacks_devices(error: Exception) -> bool:
    """Whether JAX_PLATFORMS names devices that are not here. For CUDA, jax fails at an assertion without a word."""
    if isinstance(error, RuntimeError) and "nable to initialize backend" in str(error):
        return True
    place = traceback.extract_tb(error.__traceback__)[-1]
    return isinstance(error, AssertionError) and (place.name, place.filename[-13:]) == ("backends", "xla_bridge.py")


class _Quiet(importlib.abc.MetaPathFinder):
    """Finds TensorFlow as Python would, and drops what its libraries say of themselves while they are loaded.

    TensorFlow heeds TF_CPP_MIN_LOG_LEVEL only when it has been loaded; static initialisers report on oneDNN and CUDA
    before (tensorflow issue 100442).
    """

    CHATTER = re.compile(rb"WARNING: All log messages before absl::InitializeLog|[IW]\d{4} [\d:.]+ +\d+ \S+\.cc:")

    def find_spec(self, name, path=None, target=None):
        if name != "tensorflow":
            return None
        others = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not self)
        spec = next((found for found in others if found is not None), None)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module
            spec.loader.exec_module = lambda module: self._load(load, module)
        return spec

    def _load(self, load, module):
        sys.stderr.flush()
        terminal = os.dup(2)
        with tempfile.TemporaryFile() as said:
            os.dup2(said.fileno(), 2)
            try:
                load(module)
            finally:
                sys.stderr.flush()
                os.dup2(terminal, 2)
                os.close(terminal)
                said.seek(0)
                os.write(2, b"".join(line for line in said if not self.CHATTER.match(line)))
