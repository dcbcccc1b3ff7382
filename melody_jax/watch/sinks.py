"""Other places that metrics go to, beside TensorBoard: Weights & Biases and MLflow. What fails there never stops a run."""

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax

from melody_jax import storage
from melody_jax.errors import UserError
from melody_jax.storage import Path

_LOG = logging.getLogger(__name__)


class Sink(Protocol):
    """A place for the metrics of one run."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Values at a step, "train/loss" and the like."""
        ...

    def close(self) -> None:
        """Says that the process is done."""
        ...


class WandbSink:
    """Weights & Biases (extra `wandb`), addressed by its own environment variables: WANDB_PROJECT, WANDB_API_KEY, WANDB_MODE.

    Each start of a run in a folder continues the same run there. The service's own counter only grows, so the step of the
    training is a metric by which all others are drawn.
    """

    def __init__(self, directory: Path):
        import wandb  # pyright: ignore[reportMissingImports]

        known = hashlib.sha256(str(storage.absolute(directory)).encode()).hexdigest()[:16]
        self._run: Any = wandb.init(id=known, name=_name(directory), resume="allow")
        self._run.define_metric("*", step_metric="step")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({"step": step, **values})

    def close(self) -> None:
        self._run.finish()


class MlflowSink:
    """MLflow (extra `mlflow`), addressed by its own environment variables: MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME.

    Each start of a run is a run of its own there, with the same name.
    """

    def __init__(self, directory: Path):
        import mlflow  # pyright: ignore[reportMissingImports]

        self._mlflow: Any = mlflow
        mlflow.start_run(run_name=_name(directory))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._mlflow.log_metrics(dict(values), step=step)

    def close(self) -> None:
        self._mlflow.end_run()


SINKS: dict[str, Callable[[Path], Sink]] = {"wandb": WandbSink, "mlflow": MlflowSink}
"""Name in `loop.Run.sinks` -> what opens it for the run in a folder."""


class Sinks:
    """Those of a run. Host 0 writes. The first failure of one is a warning, and its last word.

    Args:
      names: of `SINKS`.
      directory: of the run.
    """

    def __init__(self, names: Sequence[str], directory: Path):
        self._open: dict[str, Sink] = {}
        for name in names if jax.process_index() == 0 else ():
            try:
                self._open[name] = SINKS[name](directory)
            except Exception as error:  # whatever a service or its package raises is no reason to end a training
                _warn(name, error)

    def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """The metrics of `split` at `step`."""
        named = {f"{split}/{name}": value for name, value in values.items()}
        self._each(lambda sink: sink.write(step, named))

    def close(self) -> None:
        """Ends them."""
        self._each(lambda sink: sink.close())
        self._open = {}

    def _each(self, action: Callable[[Sink], None]) -> None:
        for name, sink in list(self._open.items()):
            try:
                action(sink)
            except Exception as error:  # see above
                _warn(name, error)
                del self._open[name]


def check_sinks(names: Sequence[str]) -> None:
    """Raises UserError where a name is none of a sink."""
    for name in names:
        if name not in SINKS:
            raise UserError(f"loop.Run.sinks: {name!r} is none of {', '.join(SINKS)}")


def _name(directory: Path) -> str:
    """The model folder's name and the stage's."""
    return f"{directory.parent.name}/{directory.name}"


def _warn(name: str, error: Exception) -> None:
    advice = f" (pip install 'melody_jax[{name}]')" if isinstance(error, ImportError) else ""
    _LOG.warning("%s: metrics no longer go there: %s: %s%s", name, type(error).__name__, error, advice)
