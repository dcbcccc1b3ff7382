"""Opening a run: parents, tokens, mesh and data of a composed stage, once for training, the doctor and sweeps."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jax.sharding import Mesh

from melody_jax import config as config_lib
from melody_jax import graph, storage
from melody_jax.bundle.part import INFO_FILE, locate, read_info
from melody_jax.errors import UserError
from melody_jax.operations import tokens
from melody_jax.parallel.batch import check_batch_size, host_shard
from melody_jax.parallel.mesh import make_mesh
from melody_jax.storage import Path
from melody_jax.train.run import Run
from melody_jax.train.stage import Data, Stage


@dataclasses.dataclass(frozen=True)
class Opened:
    """A run that can begin.

    Attributes:
      stage: with its parents.
      run: how it is trained.
      mesh: that it is trained on.
      directories: version folders of its data sets, and their rates.
      tokenizer: a tokenizer.json for the captions; None takes the pretrained text tower's.
    """

    stage: Stage
    run: Run
    mesh: Mesh
    directories: Mapping[Path, Any]
    tokenizer: str | None = None

    def data(self) -> Data:
        """Training and held-out batches of this host, from their beginning.

        Raises:
          UserError: the data set is too small or of other shapes.
        """
        from data_pipelines import batches

        shard = host_shard(self.mesh)
        where = (self.stage, self.stage.geometry, self.directories)
        options = {"tokenizer": self.tokenizer, "shard": shard.index, "shards": shard.count}
        training = batches.for_stage(*where, seed=self.run.seed, **options)
        return Data(training, batches.held_out_for_stage(*where, **options))


def open_run(stage: Stage, run: Run, data_dir: str, tokenizer: str | None = None, make_tokens: bool = True) -> Opened:
    """Opens the run of a stage, whose `run` names the model folder and the data set.

    Args:
      make_tokens: a stage that reads tokens has them made where they are not there, or are not its parents'.

    Raises:
      UserError: parents or data are missing, are of another geometry, or the mesh does not fit.
    """
    mesh = make_mesh(run.mesh)
    check_batch_size(stage.batch_size, mesh)
    stage = with_parents(stage, run.model_dir)
    directories = {}
    for name, rate in rates_of(run.data).items():
        if make_tokens and stage.name in graph.READ_TOKENS:
            tokens.of_model_dir(run.model_dir, name, data_dir, tokenizer=tokenizer)
        directory = data_directory(stage.name, run.model_dir, name, data_dir)
        check_geometry(stage, directory)
        directories[directory] = rate
    return Opened(stage, run, mesh, directories, tokenizer)


def rates_of(data: str) -> Mapping[str, Any]:
    """Name -> rate of the data sets that --data names, one or a mixture.

    Raises:
      UserError: it cannot be read.
    """
    from data_pipelines import mixture

    return mixture.parse(data)


def with_parents(stage: Stage, model_dir: str) -> Stage:
    """Parents come from the same model folder unless the configuration names another one.

    Raises:
      UserError: one of them is not there.
    """
    if getattr(stage, "parents_dir", None) != "":
        return stage
    for parent in graph.PARENTS.get(stage.name, ()):
        if not (locate(storage.path(model_dir) / parent) / INFO_FILE).is_file():
            raise UserError(f"{stage.name} needs a finished {parent} in {model_dir}; run melody train {parent} first")
    return dataclasses.replace(stage, parents_dir=model_dir)  # pyright: ignore[reportArgumentType]


def data_directory(stage: str, model_dir: str, data: str, data_dir: str) -> Path:
    """Where the data set is that the stage reads: audio in `data_dir`, tokens in the model folder.

    Raises:
      UserError: there is no finished data set.
    """
    from data_pipelines import read

    reads_tokens = stage in graph.READ_TOKENS
    directory = read.tokens_directory(model_dir, data) if reads_tokens else read.audio_directory(data_dir, data)
    read.metadata(directory)  # a missing data set is reported before TensorFlow takes seconds to start
    return directory


def check_geometry(stage: Stage, directory: Path) -> None:
    """Compares the stage's geometry with that of its parents and of its data set, as far as these record it.

    Raises:
      UserError: they differ; what it says is said before the first step of the first stage.
    """
    from data_pipelines import read

    wanted = config_lib.to_dict(stage.geometry)
    for name in graph.PARENTS.get(stage.name, ()):
        made = read_info(storage.path(getattr(stage, "parents_dir", "")) / name)["geometry"]
        if other := differing(made, wanted):
            raise UserError(f"{stage.name}: its parent {name} was trained with another {other}; use its --size")
    facts = read.metadata(directory)
    if other := differing(facts.get("geometry", {}), {name: wanted[name] for name in facts.get("geometry", {})}):
        raise UserError(f"{directory}: tokens of another {other}; use the --size that they were made with")
    rate, seconds = facts.get("sample_rate", stage.geometry.sample_rate), facts.get("seconds")
    if rate != stage.geometry.sample_rate:
        advice = f"build it again with melody data ... --sample_rate {stage.geometry.sample_rate}"
        raise UserError(f"{directory} has {rate} Hz and {stage.name} {stage.geometry.sample_rate} Hz; {advice}")
    if seconds is not None and seconds < _seconds_read(stage):
        advice = f"build it again with melody data ... --seconds {stage.geometry.clip_seconds:g}"
        raise UserError(
            f"{directory} has clips of {seconds:g} s and {stage.name} reads {_seconds_read(stage):g} s; {advice}"
        )


def check_clips(stage: Stage, data: str, data_dir: str) -> None:
    """Compares the clips of an audio data set with those of the geometry, where all stages are to be trained on it.

    Single audio stages take longer clips, and cut them; tokens are of whole clips.

    Raises:
      UserError: there is no such data set, or they differ.
    """
    from data_pipelines import read

    for name in rates_of(data):
        directory = read.audio_directory(data_dir, name)
        seconds = read.metadata(directory).get("seconds", stage.geometry.clip_seconds)
        if seconds != stage.geometry.clip_seconds:
            advice = f"build it again with melody data ... --seconds {stage.geometry.clip_seconds:g}"
            raise UserError(
                f"{directory} has clips of {seconds:g} s, this size {stage.geometry.clip_seconds:g} s; {advice}"
            )


def differing(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Fields that differ, as "hop 480 (here 320)"; "" where none does."""
    names = [name for name in wanted if found.get(name) != wanted[name]]
    return ", ".join(f"{name} {found.get(name)} (here {wanted[name]})" for name in names)


def _seconds_read(stage: Stage) -> float:
    """The length of audio in one row of the stage's batches; 0 where it reads none."""
    audio = stage.batch_shapes().get("audio")
    return 0.0 if audio is None else audio.shape[1] / stage.geometry.sample_rate
