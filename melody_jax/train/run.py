"""How a stage is trained: everything that is neither model nor data."""

import dataclasses

from melody_jax import config, storage
from melody_jax.errors import UserError
from melody_jax.parallel.mesh import DEFAULT
from melody_jax.storage import Path
from melody_jax.watch.sinks import check_sinks
from melody_jax.watch.trace import traced_steps


@dataclasses.dataclass(frozen=True)
class Run:
    """One training run. The fields from `model_dir` on are the command line's.

    Attributes:
      total_steps: where training ends, always with a checkpoint and an evaluation.
      checkpoint_every, eval_every, log_every: in steps.
      eval_steps: number of held-out batches, which are kept in memory and used at every evaluation.
      keep: how many checkpoints are kept.
      local_checkpoints: a folder on the disk of each host, in which environment variables are replaced; every `local_every`
        steps the hosts save there too, and a restart goes on from there where that is newer (`train.local`). "" for none.
      mesh: sizes of the mesh axes (`parallel.mesh`).
      seed: of parameters, step randomness and the order of the data.
      restart_data: go on from the newest checkpoint, but from the start of the data, which may be another data set.
      init_from: directories of parts to start from instead of random weights (`Stage.starts`); a run that goes on from
        a checkpoint does not read them again.
      measure: whether the stage measures (`Stage.calibrate`) on the run's data before its first step; if not, it keeps
        the measured values of the part that it starts from.
      precompiled_dir: folder of executables (`melody precompile --save`); a step that is not among them is compiled.
      profile: "FIRST:LAST", steps of which every host writes a trace into the run's folder; "" for none.
      sinks: where metrics go in addition to the run's folder: "wandb", "mlflow" (`watch.sinks`), none by default.
      folder_name: name of the run's folder in the model folder; "" for the stage's name.
      model_dir: everything goes into its folder of the stage's name.
      data: name of the data set, for the part's record.
      began: Unix time from which the run's start-up counts; None for now.

    Raises:
      UserError: a field of another type, a number that is not at least 1 (`eval_steps`, `seed`: 0), or a `profile` that
        is no range.
    """

    total_steps: int
    checkpoint_every: int = 1000
    eval_every: int = 1000
    log_every: int = 50
    eval_steps: int = 8
    keep: int = 3
    local_checkpoints: str = ""
    local_every: int = 100
    mesh: str = DEFAULT
    seed: int = 0
    restart_data: bool = False
    init_from: tuple[str, ...] | list[str] = ()
    measure: bool = True
    precompiled_dir: str = ""
    profile: str = ""
    sinks: tuple[str, ...] | list[str] = ()
    folder_name: str = ""
    model_dir: str = ""
    data: str = ""
    began: float | None = None

    def __post_init__(self) -> None:
        config.check_types(self)
        least = {"total_steps": 1, "checkpoint_every": 1, "eval_every": 1, "log_every": 1, "keep": 1, "local_every": 1}
        for name, low in (least | {"eval_steps": 0, "seed": 0}).items():
            if getattr(self, name) < low:
                raise UserError(f"loop.Run.{name} must be at least {low}, got {getattr(self, name)}")
        traced_steps(self.profile)
        check_sinks(self.sinks)

    def folder(self, stage: str) -> Path:
        """Where everything of the run of a stage goes."""
        return storage.path(self.model_dir) / (self.folder_name or stage)
