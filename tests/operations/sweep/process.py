"""A sweep of stand-ins in a process of its own, which tests kill.

python -m tests.operations.sweep.process FOLDER JSON (fields of Sweep)
"""

import json
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.modules["torch"] = None  # type: ignore[assignment]  # tensorboardX would load it, for seconds

from melody_jax.operations.sweep.config import Sweep
from melody_jax.operations.sweep.listed import ListedTrials
from melody_jax.operations.sweep.ranges import Uniform
from melody_jax.operations.sweep.run import run
from melody_jax.operations.sweep.study import StudyTrials

STAND_IN = Path(__file__).with_name("stand_in.py")


def sweep_of(space, **changes):
    """A sweep; pairs (low, high) in its space are ranges."""
    space = {name: Uniform(*values) if isinstance(values, tuple) else values for name, values in space.items()}
    return Sweep(**{"stage": "lm", "size": "tiny", "data": "x", "space": space} | changes)


def start(sweep, directory, workers=1, name="test"):
    """Runs the sweep: (its trials, the signal that stopped it)."""

    def command(trial, folder):
        bindings = [word for binding in [*sweep.fixed(), *trial.arguments] for word in ("--set", binding)]
        return [sys.executable, str(STAND_IN), "train", "lm", "--model_dir", str(folder), *bindings]

    if sweep.kind == "optuna":
        trials = StudyTrials(directory, name, sweep)
    else:
        trials = ListedTrials(directory, sweep.proposals())
    stopped = run(sweep, trials, directory, command, workers)
    return trials.all(), stopped


if __name__ == "__main__":
    fields = json.loads(sys.argv[2])
    fields["space"] = {
        name: values if isinstance(values, list) else tuple(values["ends"]) for name, values in fields["space"].items()
    }
    start(sweep_of(**fields), Path(sys.argv[1]))
