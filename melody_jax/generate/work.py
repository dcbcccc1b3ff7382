"""Many pieces in batches: the loop around `Composer`, which all calls of `Melody` share."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tqdm

from melody_jax.errors import UserError
from melody_jax.generate.clock import Clock
from melody_jax.generate.compose import Batch, Composer, Row, laps
from melody_jax.generate.result import Cancelled, Progress, ProgressCallback, Result
from melody_jax.generate.settings import BATCH_SIZE, Settings
from melody_jax.shapes import Float

Finish = Callable[[Float[np.ndarray, " T"]], tuple[Float[np.ndarray, " T"], tuple[float, float] | None]]
"""What a decoder gave for a row -> (the piece, its loudness before and after)."""


@dataclasses.dataclass(frozen=True)
class Job:
    """A piece that is wanted.

    Attributes:
      row: what is to be made.
      name: the sentence, or "".
      call: what makes it again (see `Result.call`), without seed, candidate and settings.
      finish: what is done with the sound.
    """

    row: Row
    name: str
    call: Mapping[str, Any]
    finish: Finish


def run(
    jobs: Sequence[Job],
    composer: Composer,
    settings: Settings,
    batch_size: Any = BATCH_SIZE,
    progress: bool | ProgressCallback = False,
    cancel: Callable[[], bool] | None = None,
    each: Callable[[int, Result], Any] | None = None,
    keep_all: bool = False,
) -> list[Result]:
    """Makes all of them, in batches of rows that can be made together; in the order of `jobs`.

    Raises:
      UserError: batch_size is not a whole number of at least 1.
      Cancelled: with what was finished.
    """
    if not isinstance(batch_size, (int, np.integer)) or isinstance(batch_size, bool) or batch_size < 1:
        raise UserError(f"batch_size must be a whole number of at least 1, got {batch_size!r:.40}")
    groups: dict[Any, list[int]] = {}
    for index, job in enumerate(jobs):
        groups.setdefault(job.row.group, []).append(index)
    batches = []
    for members in groups.values():
        size = composer.loaded.filled(min(int(batch_size), len(members)))
        batches += [(size, members[at : at + size]) for at in range(0, len(members), size)]
    results: dict[int, Result] = {}
    with _told(progress) as tell:
        clock = Clock(len(batches) * laps(settings), tell, cancel)
        for size, members in batches:
            # filled up for chips without a row, and the last batch of several so that it needs no program of its own
            filled = members + members[-1:] * (size - len(members))
            clock.begin()
            try:
                made = _candidates(composer, [jobs[i].row for i in filled], settings, clock, keep_all)
            except Cancelled:
                raise Cancelled([results[i] for i in sorted(results)]) from None
            for place, index in enumerate(members):
                all_of_it = [_result(jobs[index], batch, place, composer, settings, clock, size) for batch in made]
                results[index] = dataclasses.replace(all_of_it[0], others=tuple(all_of_it[1:]))
                clock.pieces += 1
                if each is not None:
                    each(index, results[index])
    return [results[index] for index in range(len(jobs))]


def in_batches(
    play: Callable[[np.ndarray], np.ndarray], count: int, size: int, progress: bool
) -> Float[np.ndarray, "..."]:
    """`play(rows)` for batches of `size` of `count` rows, the last one filled up; its results, row by row."""
    made = []
    for start in tqdm.tqdm(range(0, count, size), "playing", unit="batch", disable=not progress):
        rows = np.minimum(np.arange(start, start + size), count - 1)
        made.append(play(rows)[: count - start])
    return np.concatenate(made)


def _candidates(
    composer: Composer, rows: Sequence[Row], settings: Settings, clock: Clock, keep_all: bool
) -> list[Batch]:
    """The best candidate of every row, then, if wanted, all others, from the nearest to the prompt on."""
    best, others = None, []
    for batch in composer.batches(rows, settings, clock):
        if keep_all:
            others.append(batch)
        best = batch if best is None else best.better(batch)
    assert best is not None
    if len(others) < 2:
        return [best]
    similarity = np.stack([batch.similarity for batch in others])  # [C, B]
    order = np.argsort(-similarity, axis=0, kind="stable")
    fields = [field.name for field in dataclasses.fields(Batch)]
    stacked = {name: np.stack([getattr(batch, name) for batch in others]) for name in fields}
    columns = np.arange(len(rows))
    return [Batch(**{name: stacked[name][place, columns] for name in fields}) for place in order]


def _result(
    job: Job, batch: Batch, place: int, composer: Composer, settings: Settings, clock: Clock, rows: int
) -> Result:
    audio, loudness = job.finish(batch.audio[place])
    candidate, geometry = int(batch.candidates[place]), composer.geometry
    call = {**job.call, "seed": job.row.seed, "candidate": candidate, "settings": dataclasses.asdict(settings)}
    return Result(
        prompt=job.name,
        audio=audio,
        sample_rate=geometry.sample_rate,
        mulan=batch.mulan[place],
        tokens=batch.tokens[place],
        latent_frames=job.row.moments * geometry.frames_per_token,
        settings=settings,
        seed=job.row.seed,
        times=dict(clock.times),
        batch=rows,
        similarity=None if batch.similarity is None else float(batch.similarity[place]),
        candidate=candidate,
        lufs=loudness,
        call=call,
    )


@contextlib.contextmanager
def _told(progress: bool | ProgressCallback) -> Iterator[ProgressCallback | None]:
    """What shows the progress: a bar, the caller's function, or nothing."""
    if not isinstance(progress, bool):
        yield progress
        return
    if not progress:
        yield None
        return
    with tqdm.tqdm(desc="sampling", unit="step") as bar:

        def tell(state: Progress) -> None:
            bar.total = state.total
            bar.update(state.done - bar.n)

        yield tell
