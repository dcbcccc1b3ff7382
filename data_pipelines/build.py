"""From a request to a finished data set on disk: list, make clips with all cores of all hosts, report what was refused, write."""

import collections
import contextlib
import dataclasses
import functools
import importlib.util
import os
from collections.abc import Iterator, Sequence
from typing import Any

from data_pipelines import decode, inputs, read, repeats, replacing, sources, splits, staging
from data_pipelines.clip import Clip
from data_pipelines.prepared import Prepared
from data_pipelines.request import Request
from data_pipelines.sources import Rejection, SoundFile
from melody_jax import config, storage
from melody_jax.codes.control_words import from_sidecar, not_understood
from melody_jax.codes.controls import merge
from melody_jax.errors import UserError
from melody_jax.files import json_lines, write_whole
from melody_jax.parallel.share import ALONE, Share
from melody_jax.storage import Path

# A MusicCaps clip has 10 s; a longer file that reaches to the clip's end is the recording that it was cut from.
_LONGER_THAN_A_CLIP = 11.0


def listed(request: Request, others: collections.Counter[str] | None = None) -> list[sources.Listed]:
    """The inputs of a request: the files found and those that cannot be used. Of the corpus, the sound font.

    Args:
        others: see `sources.folder`.

    Raises:
        UserError: they cannot be listed.
    """
    if request.kind == "folder":
        return _without_repeats(sources.folder(request.path, request.licence, others))
    if request.kind == "manifest":
        return _without_repeats(sources.manifest(request.path, request.licence))
    if request.kind == "musiccaps":
        return _without_repeats(sources.musiccaps(request.path, request.audio, request.licence))
    if not request.font:
        return []
    try:
        stat = os.stat(request.font)
    except OSError:
        raise UserError(f"{request.font}: no such sound font") from None
    return [SoundFile(request.font, "font", (), "corpus", size=stat.st_size, modified=stat.st_mtime_ns)]


def prepare(
    request: Request,
    directory: Path,
    processes: int | None = None,
    old: Path | None = None,
    found: Sequence[sources.Listed] | None = None,
    share: Share = ALONE,
) -> Prepared:
    """Makes every clip of `request`, in chunks under `directory`/staging and writes `directory`/rejected.jsonl.

    Args:
        directory: of the data set's config, above its version folder.
        processes: None takes all cores that this process may use.
        old: a finished data set of an equal request, whose clips are used where their files did not change.
        found: what `listed` found, where it has been called.
        share: this host's.

    Raises:
        UserError: bad paths, a share of refused files above the quota, or nothing left at all; on all hosts alike.
    """
    found = listed(request) if found is None else found
    processes = processes or len(os.sched_getaffinity(0))
    is_corpus = request.kind == "corpus"
    if is_corpus:
        if not share.first:
            share.barrier()  # the first host parses the scores
        work, rejected, make = _corpus_work(request, directory.parents[1] / "scores", processes)
        if share.first:
            share.barrier()
    else:
        work, rejected, make = _file_work(request, found)
    if old is not None and not is_corpus:
        _reuse(old, share.of(work), make, directory / "staging")
    unit = " clips" if is_corpus else "B"
    chunks = staging.make_chunks(work, make, directory / "staging", processes, unit, share)
    for chunk in chunks:
        rejected += chunk.rejections()
    if is_corpus:
        chosen = {chunk.path: chunk.work.split for chunk in chunks}
    else:
        same = repeats.find(chunks)
        rejected += same.rejections
        assigned = splits.splits_of(set(same.groups.values()), request.validation, request.test)
        chosen = {path: assigned[group] for path, group in same.groups.items()}
    works = len(work) if is_corpus else len(found)
    if share.first:
        _write_rejected(rejected, directory / "rejected.jsonl")
    _check_quota(rejected, works, request.quota, directory / "rejected.jsonl")
    by_split = {split: tuple(c for c in chunks if chosen.get(c.path) == split) for split in splits.SPLITS}
    if not any(next(chunk.clips(), None) for chunk in chunks):
        raise UserError("not a single clip could be made; add music, or lower min_seconds")
    unread = {item.path: item.reason for item in rejected if item.again}
    return Prepared(by_split, tuple(rejected), works, inputs.entries_of(found, unread))


def build(
    name: str,
    request: Request,
    data_dir: str,
    processes: int | None = None,
    share: Share = ALONE,
) -> Path:
    """Builds data set `name` and returns its folder. The bytes are the same for any number of hosts and processes.

    Hosts share the folders of the music and of the data set. Each decodes its share of the files, then writes its share of
    the clips; what is made or written is not done again. A finished data set stays as it is if its inputs have not
    changed, and is made again otherwise. While another process writes it, this one waits.

    Args:
        share: this host's.

    Raises:
        UserError: as `prepare`, or `name` is none for a data set, or exists and was made from another request.
    """
    replacing.check_name(name, "--name")
    # Said before any work; TensorFlow is loaded after it, as it takes 0.5 GB.
    if importlib.util.find_spec("tensorflow_datasets") is None:
        raise ModuleNotFoundError("No module named 'tensorflow_datasets'")
    directory = read.audio_directory(data_dir, name)
    with replacing.sole_writer(directory) if share.first else contextlib.nullcontext():
        if share.first:
            staging.remove_halves(directory.parent / "staging")
        share.barrier()  # the others begin when the first host has the lock, for all of them
        others: collections.Counter[str] = collections.Counter()
        found = listed(request, others)
        old = directory if (directory / "metadata.json").is_file() else None
        if old is not None:
            _check_request(name, request, old)
            difference = inputs.changes(old, inputs.entries_of(found))
            if not difference:
                return directory
            if share.first:
                print(f"{directory}: its music has changed and it is made anew: {difference}")
        if share.first and others:
            kinds = ", ".join(f"{count} {ending or 'without an ending'}" for ending, count in others.most_common())
            print(f"{request.path}: passed over, no sound by their names: {kinds}")
        prepared = prepare(request, directory.parent, processes, old, found, share)
        if share.first:
            print(f"writing {directory}", flush=True)  # before TensorFlow is loaded, which takes a while
        from data_pipelines import audio_set

        audio_set.write(prepared, request, directory, old is not None, share)
    return directory


def _check_request(name: str, request: Request, directory: Path) -> None:
    """Refuses another request under the same name. The quota decides whether a data set is made, not what it holds."""
    made_from = dict(read.metadata(directory).get("request") or {})
    wanted = config.to_dict(request)
    different = [key for key in wanted if key != "quota" and made_from.get(key) != wanted[key]]
    if different:
        raise UserError(
            f"data set {name} was made with other settings ({', '.join(different)}); choose another --name or delete "
            f"{directory}"
        )


def _reuse(old: Path, work: Sequence[staging.Work], make: staging.Make, directory: Path) -> None:
    chunks = [staging.Chunk(directory / staging.name_of(item, make), item) for item in work]
    try:
        count = inputs.reuse(old, chunks)
    except UserError as error:
        print(f"{error}; everything is read again")
        return
    print(f"the clips of {count} of {len(work)} files, which have not changed, are taken from the data set as it was")


def make_file_clips(file: SoundFile, form: decode.ClipFormat) -> Iterator[Clip | Rejection | staging.Progress]:
    """All clips of one sound file. Silent clips, and anything odd, become rejections that name the place.

    Raises:
        decode.UnusableError: nothing of the file can be used.
    """
    with storage.fetched(storage.path(file.path)) as sound:
        yield from _clips_of(file, str(sound), form)


def _clips_of(file: SoundFile, sound: str, form: decode.ClipFormat) -> Iterator[Clip | Rejection | staging.Progress]:
    name, end = inputs.tune_of(file.name), file.end
    if end is not None:
        length = decode.length_of(sound, max(end, _LONGER_THAN_A_CLIP + 0.1))
        end = end if length > _LONGER_THAN_A_CLIP and length >= end - 0.1 else None
    start = 0.0 if end is None else file.start
    clips, sounding = decode.clips_of(sound, form, start, end), 0
    told, _ = merge(from_sidecar(file.tags), from_sidecar({"captions": list(file.captions)}))
    odd = [f"its {value} is not understood, and so not told to the model" for value in not_understood(file.tags)]
    faults = []
    for number, audio in enumerate(clips):
        fault = decode.fault(audio, form)
        if fault:
            faults.append(Rejection(file.path, fault, start + number * form.seconds))
            continue
        sounding += 1
        here = told
        if told.downbeat is not None:  # where bars would be from the first one on, at the file's single tempo
            here = dataclasses.replace(told, downbeat=told.downbeat - start - number * form.seconds)
        yield Clip(f"{name}#{number:04d}", audio, file.captions, name, file.source, file.licence, told=here)
        yield staging.Progress(clips.position)
    if not sounding:
        raise decode.UnusableError(faults[0].reason)
    yield from faults
    yield from (Rejection(file.path, reason, start) for reason in odd)
    yield from (Rejection(file.path, note.reason, round(note.start, 2)) for note in clips.notes)


def _file_work(
    request: Request, found: Sequence[sources.Listed]
) -> tuple[list[staging.Work], list[Rejection], staging.Make]:
    work = [staging.Work(item.path, item, amount=item.size) for item in found if isinstance(item, SoundFile)]
    rejected = [item for item in found if isinstance(item, Rejection)]
    return work, rejected, functools.partial(make_file_clips, form=request.form)


def _without_repeats(listed: Sequence[sources.Listed]) -> list[sources.Listed]:
    """A manifest may name a file twice; clips need unique ids, so the second becomes a rejection."""
    seen: set[str] = set()
    result: list[sources.Listed] = []
    for item in listed:
        if isinstance(item, SoundFile) and item.name in seen:
            item = Rejection(item.path, "listed twice", same_as=item.path)
        elif isinstance(item, SoundFile):
            seen.add(item.name)
        result.append(item)
    return result


def _write_rejected(rejected: Sequence[Rejection], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = (dataclasses.asdict(item).items() for item in rejected)
    write_whole(path, json_lines({k: v for k, v in row if v is not None and v is not False} for row in rows))


def _check_quota(rejected: Sequence[Rejection], works: int, quota: float, path: Path) -> None:
    """Counts whole files. Silent stretches of good files and repeated sounds are listed, but do not count."""
    whole = [item for item in rejected if item.is_fault]
    if len(whole) > quota * works:
        common, times = collections.Counter(item.reason for item in whole).most_common(1)[0]
        raise UserError(
            f"{len(whole)} of {works} files were rejected, more than the quota of {quota:.1%} "
            f"({times} times: {common}); see {path}, mend them or raise --quota"
        )


def _corpus_work(
    request: Request, scores: Path, processes: int
) -> tuple[list[staging.Work], list[Rejection], staging.Make]:
    """`scores`: where the parsed scores lie, shared by all data sets of a data_dir."""
    from data_pipelines.corpus import specs

    held = {"validation": round(request.clips * request.validation), "test": round(request.clips * request.test)}
    counts = {"train": request.clips - sum(held.values()), **held}
    chosen = specs.specify(request.seed, counts, scores, request.seconds, request.restricted, processes)
    work = [staging.Work(item.id, item, item.split) for item in chosen]
    return work, [], functools.partial(make_corpus_clip, font=request.font, form=request.form)


def make_corpus_clip(item: Any, font: str, form: decode.ClipFormat) -> Iterator[Clip]:
    """The one clip of a specification of the corpus.

    Raises:
        decode.UnusableError: nothing is heard.
    """
    from data_pipelines.corpus import render

    clip = render.render(item, font or None, form.sample_rate, form.seconds)
    if decode.is_silent(clip.audio, form):
        raise decode.UnusableError("silent")
    yield clip
