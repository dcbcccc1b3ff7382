"""From a request to a finished data set on disk: list, stage with all cores, report what was refused, hand to TFDS."""

import collections
import dataclasses
import functools
import json
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from data_pipelines import decode, sources, splits, staging
from data_pipelines.clip import Clip
from data_pipelines.request import Request
from data_pipelines.sources import Rejection, SoundFile
from melody_jax import config
from melody_jax.codes.control_words import from_sidecar
from melody_jax.codes.controls import merge
from melody_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Prepared:
    """Everything the data set will hold, staged on disk.

    Attributes:
        staged: the clips.
        rejected: what was refused, clips and files.
        works: how many files or tunes there were.
    """

    staged: staging.Staged
    rejected: tuple[Rejection, ...]
    works: int


def prepare(request: Request, directory: pathlib.Path, processes: int | None = None) -> Prepared:
    """Stages every clip of `request` under `directory`/staging and writes `directory`/rejected.jsonl.

    Args:
        directory: of the data set's config, above its version folder.
        processes: None takes all cores that this process may use.

    Raises:
        UserError: bad paths, a share of refused files above the quota, or nothing left at all.
    """
    processes = processes or len(os.sched_getaffinity(0))
    if request.kind == "corpus":
        work, rejected, make = _corpus_work(request, directory.parents[1] / "scores", processes)
    else:
        work, rejected, make = _file_work(request)
    unit = "clips" if request.kind == "corpus" else "files"
    staged = staging.stage(work, make, directory / "staging", processes, unit)
    rejected = (*rejected, *staged.rejections())
    works = len({item.name for item in work}) + len(rejected) - len(staged.rejections())
    _write_rejected(rejected, directory / "rejected.jsonl")
    _check_quota(rejected, works, request.quota, directory / "rejected.jsonl")
    if next(staged.examples(), None) is None:
        raise UserError("not a single clip could be made; add music, or lower min_seconds")
    return Prepared(staged, rejected, works)


def build(name: str, request: Request, data_dir: str, processes: int | None = None) -> pathlib.Path:
    """Builds data set `name` (or finds it built already) and returns its folder.

    Raises:
        UserError: as `prepare`, or `name` exists and was made from another request.
    """
    import tensorflow_datasets as tfds

    from data_pipelines import melody_audio

    builder = melody_audio.MelodyAudio(
        data_dir=data_dir,
        config=melody_audio.MelodyAudioConfig(name=name, request=request, processes=processes),
    )
    directory = pathlib.Path(builder.data_path)
    if builder.is_prepared():
        made_from = dict(builder.info.metadata or {}).get("request")
        if made_from != config.to_dict(request):
            raise UserError(
                f"data set {name} was made with other settings; choose another --name or delete {directory}"
            )
        return directory
    prepare(request, directory.parent, processes)  # before TFDS, whose wrapping would bury a UserError
    tfds.disable_progress_bar()  # its many bars would follow ours, for a copy that takes seconds
    print(f"writing {directory}")
    builder.download_and_prepare()
    return directory


def make_file_clips(file: SoundFile, form: decode.ClipFormat) -> Iterator[Clip | Rejection]:
    """All clips of one sound file; a silent one becomes a rejection that names the place.

    Raises:
        decode.UnusableError: nothing of the file can be used.
    """
    name = file.name.encode("utf-8", "replace").decode()
    told, _ = merge(from_sidecar(file.tags), from_sidecar({"captions": list(file.captions)}))
    sounding = 0
    silent = []
    for number, audio in enumerate(decode.clips_of(file.path, form, file.start, file.end)):
        if decode.is_silent(audio, form):
            silent.append(Rejection(file.path, "silent", file.start + number * form.seconds))
            continue
        sounding += 1
        yield Clip(f"{name}#{number:04d}", audio, file.captions, name, file.source, file.licence, told=told)
    if not sounding:
        raise decode.UnusableError("silent")
    yield from silent


def _file_work(request: Request) -> tuple[list[staging.Work], tuple[Rejection, ...], staging.Make]:
    if request.kind == "folder":
        listed = sources.folder(request.path, request.licence)
    elif request.kind == "manifest":
        listed = sources.manifest(request.path, request.licence)
    else:
        listed = sources.musiccaps(request.path, request.audio, request.licence)
    listed = _without_repeats(listed)
    work = [
        staging.Work(item.path, splits.split_of(item.name, request.validation, request.test), item)
        for item in listed
        if isinstance(item, SoundFile)
    ]
    rejected = tuple(item for item in listed if isinstance(item, Rejection))
    return work, rejected, functools.partial(make_file_clips, form=request.form)


def _without_repeats(listed: Sequence[sources.Listed]) -> list[sources.Listed]:
    """A manifest may name a file twice; clips need unique ids, so the second becomes a rejection."""
    seen: set[str] = set()
    result: list[sources.Listed] = []
    for item in listed:
        if isinstance(item, SoundFile) and item.name in seen:
            item = Rejection(item.path, "listed twice")
        elif isinstance(item, SoundFile):
            seen.add(item.name)
        result.append(item)
    return result


def _write_rejected(rejected: Sequence[Rejection], path: pathlib.Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({k: v for k, v in dataclasses.asdict(item).items() if v is not None}) for item in rejected]
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text("".join(line + "\n" for line in lines))
    os.replace(temporary, path)


def _check_quota(rejected: Sequence[Rejection], works: int, quota: float, path: pathlib.Path) -> None:
    """Counts whole files; a silent stretch of a good file is listed but does not count."""
    whole = [item for item in rejected if item.start is None]
    if len(whole) > quota * works:
        common, times = collections.Counter(item.reason for item in whole).most_common(1)[0]
        raise UserError(
            f"{len(whole)} of {works} files were rejected, more than the quota of {quota:.1%} "
            f"({times} times: {common}); see {path}, mend them or raise --quota"
        )


def _corpus_work(
    request: Request, scores: pathlib.Path, processes: int
) -> tuple[list[staging.Work], tuple[Rejection, ...], staging.Make]:
    """`scores`: where the parsed scores lie, shared by all data sets of a data_dir."""
    from data_pipelines.corpus import plan

    if request.font and not pathlib.Path(request.font).is_file():
        raise UserError(f"{request.font}: no such sound font")
    held = {"validation": round(request.clips * request.validation), "test": round(request.clips * request.test)}
    counts = {"train": request.clips - sum(held.values()), **held}
    plans = plan.plan(request.seed, counts, scores, request.seconds, request.restricted, processes)
    work = [staging.Work(item.id, item.split, item) for item in plans]
    return work, (), functools.partial(make_corpus_clip, font=request.font, form=request.form)


def make_corpus_clip(item: Any, font: str, form: decode.ClipFormat) -> Iterator[Clip]:
    """The one clip of a corpus plan.

    Raises:
        decode.UnusableError: nothing is heard.
    """
    from data_pipelines.corpus import render

    clip = render.render(item, font or None, form.sample_rate, form.seconds)
    if decode.is_silent(clip.audio, form):
        raise decode.UnusableError("silent")
    yield clip
