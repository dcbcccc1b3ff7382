"""Batches as a stage gets them: their order, what is in them, and how fast they come."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import jax
import numpy as np

from melody_jax.geometry import Geometry
from melody_jax.operations.doctor.finding import Finding, judge
from melody_jax.parallel.batch import widened
from melody_jax.shapes import Float
from melody_jax.train.stage import Batches, HostBatch, Stage

SILENT = 1e-3  # root mean square of a row, full scale 1: -60 dB
CLIPPED = 0.999  # of full scale
READY = 4  # batches that a pipeline may have prepared before anybody asks


def check_order(opened: Callable[[], Batches], count: int) -> tuple[list[Finding], list[HostBatch], Batches]:
    """Whether two iterators of one seed agree, and a restored position gives the batch that would have followed.

    Args:
      opened: gives an iterator at its beginning.
      count: batches to take.

    Returns:
      findings, the first `count` batches, and the iterator that gave them.
    """
    batches, again = opened(), opened()
    taken: list[HostBatch] = [next(batches) for _ in range(count)]
    repeated = [_same(next(again), batch) for batch in taken[:2]]
    taken = [widened(batch) for batch in taken]  # as steps get them
    with TemporaryDirectory() as position:
        batches.save(Path(position))
        following = next(batches)
        again.restore(Path(position))
        restored = _same(next(again), following)
    note = "look for randomness that does not come from the seed: runs that are interrupted would not end alike"
    return [
        judge("data order", f"{sum(repeated)} of {len(repeated)} batches of two iterators of one seed are equal", note,
              failure=not all(repeated)),
        judge("data position", f"after a restored position {'the same' if restored else 'another'} batch follows",
              "look at save and restore of the iterator: a restart would skip or repeat clips", failure=not restored),
    ], taken, batches  # fmt: skip


def check_shapes(
    check: str, batch: HostBatch, wanted: Mapping[str, jax.ShapeDtypeStruct], shards: int = 1
) -> list[Finding]:
    """Whether a host's batch is what the stage asks for; `shards` hosts' rows make the global batch."""
    findings = []
    for name, shape in wanted.items():
        local = (shape.shape[0] // shards, *shape.shape[1:])
        expected = f"{np.dtype(shape.dtype).name}{list(local)}"
        found = f"{batch[name].dtype.name}{list(batch[name].shape)}" if name in batch else "absent"
        measured = found if found == expected else f"{found}, the stage wants {expected}"
        advice = "the data set was made for another --size, or a converter lacks this feature"
        findings.append(judge(f"{check} {name}", measured, advice, failure=found != expected))
    return findings


def check_finite(check: str, taken: Sequence[HostBatch]) -> list[Finding]:
    """Whether all numbers are finite."""
    findings = []
    for name in taken[0]:
        rows = np.concatenate([batch[name] for batch in taken])
        bad = ~np.isfinite(rows.reshape(len(rows), -1)).all(axis=1)
        measured = f"{int(bad.sum())} of {len(rows)} rows hold numbers that are not finite"
        advice = "such a row ends the run at its step: find the clip and leave it out"
        findings.append(judge(f"{check} {name} finite", measured, advice, failure=bool(bad.any())))
    return findings


def check_rows(taken: Sequence[HostBatch]) -> Finding:
    """Whether the rows of a batch differ."""
    rows = [_row_bytes(batch) for batch in taken]
    repeated = 1 - sum(len(set(batch)) for batch in rows) / sum(len(batch) for batch in rows)
    alike = any(len(batch) > 1 and len(set(batch)) == 1 for batch in rows)
    advice = "a batch of copies teaches as much as one row: look at the shuffling, or use more clips or a smaller batch"
    measured = f"{repeated:.1%} of the rows repeat another one of their batch"
    return judge("batch rows differ", measured, advice, failure=alike, warning=repeated > 0.25)


def check_contents(taken: Sequence[HostBatch], stage: Stage) -> list[Finding]:
    """What the audio, the codes and the latents of the batches hold, as far as the stage has any."""
    arrays = {name: np.concatenate([batch[name] for batch in taken]) for name in taken[0]}
    findings = check_audio(arrays["audio"]) if "audio" in arrays else []
    geometry = stage.geometry
    sizes = {"mulan": geometry.mulan_codes, "text": geometry.mulan_codes, "semantic": geometry.semantic_size}
    findings += [check_codes(name, arrays[name], size) for name, size in sizes.items() if name in arrays]
    if "latents" in arrays:
        findings += check_latents(arrays["latents"], stage.config.data_std)
    return findings


def check_audio(audio: Float[np.ndarray, "n T"]) -> list[Finding]:
    """Shares of silent rows (below -60 dB) and of clipped samples."""
    silent = float(np.mean(np.sqrt(np.mean(np.square(audio.astype(np.float64)), axis=1)) < SILENT))
    clipped = float(np.mean(np.abs(audio) >= CLIPPED))
    return [
        judge("audio silence", f"{silent:.1%} of the rows are below -60 dB",
              "leave silent clips out of the data set: they teach silence", failure=silent > 0.5, warning=silent > 0.05),
        judge("audio clipping", f"{clipped:.3%} of the samples are at full scale",
              "use sources with headroom, or lower their level before the data set is built", warning=clipped > 1e-3),
    ]  # fmt: skip


def check_codes(name: str, codes: np.ndarray, size: int) -> Finding:
    """How much of a codebook is in use: share of entries, perplexity of their use, share of the most frequent one.

    Args:
      codes: int [n, N] of one codebook, or [n, Q] of which every column has its own (name "mulan" or "text": then the
        column of least perplexity counts).
      size: entries of a codebook.
    """
    check = f"codes {name}"
    if codes.min() < 0 or codes.max() >= size:
        measured = f"values from {codes.min()} to {codes.max()}, the codebook has {size} entries"
        return judge(check, measured, "tokens and configuration are of different sizes", failure=True)
    books = [codes.ravel()] if name == "semantic" else list(codes.T)
    hits = [np.bincount(book, minlength=size) / len(book) for book in books]
    perplexities = [float(np.exp(-np.sum(share[share > 0] * np.log(share[share > 0])))) for share in hits]
    worst = int(np.argmin(perplexities))
    share, perplexity, drawn = hits[worst], perplexities[worst], len(books[worst])
    frequent = float(share.max())
    reachable = min(size, drawn)
    level = "" if name == "semantic" else f" (level {worst + 1} of {len(books)}, the least used)"
    measured = (
        f"{np.mean(share > 0):.1%} of {size} entries in use by {drawn} tokens, perplexity {perplexity:.1f}, "
        f"the most frequent has {frequent:.1%}{level}"
    )
    return judge(check, measured, "train the codes, and what they are made of, again: the tokens say little of the music",
                 failure=perplexity < min(2.0, 0.75 * reachable),
                 warning=perplexity < 0.05 * reachable or frequent > 0.5)  # fmt: skip


def check_latents(latents: Float[np.ndarray, "n L D"], data_std: float) -> list[Finding]:
    """Mean and deviation of latents against `DPDConfig.data_std`, and the share at the bounds -1 and 1."""
    mean, deviation = float(latents.mean(dtype=np.float64)), float(latents.std(dtype=np.float64))
    ratio = deviation / data_std
    bounded = float(np.mean(np.abs(latents) >= 0.9995))  # float16 next to 1
    advice = f"--set dpd.DPDConfig.data_std={deviation:.2g} balances signal and noise in the middle of the angles"
    constant = not ratio > 1e-3
    return [
        judge("latents deviation", f"mean {mean:.3f}, deviation {deviation:.3f}, {ratio:.2f} of data_std {data_std:g}",
              "train the autoencoder again: its latents say nothing" if constant else advice,
              failure=constant, warning=not 0.5 <= ratio <= 2 or abs(mean) > data_std),
        judge("latents at the bounds", f"{bounded:.3%} are at -1 or 1",
              "train the autoencoder again: its latent scale was measured on quieter music", warning=bounded > 1e-3),
    ]  # fmt: skip


def measure_rate(batches: Iterator[HostBatch], seconds: float, at_most: int = 200) -> float:
    """Batches per second that the input gives to a reader who does nothing else, after those it had ready."""
    for _ in range(READY):
        next(batches)
    started, count = time.monotonic(), 0
    while count < 3 or (count < at_most and time.monotonic() - started < seconds):
        next(batches)
        count += 1
    return count / (time.monotonic() - started)


def check_rate(rate: float, step_seconds: float, batch: HostBatch, geometry: Geometry) -> Finding:
    """The share of its time that a step would wait for this host's batches, if both run side by side.

    Args:
      rate: batches per second (`measure_rate`).
      step_seconds: what a training step takes.
    """
    waiting = max(0.0, 1 - step_seconds * rate)
    if "audio" in batch:
        given = f"{rate * batch['audio'].size / geometry.sample_rate:,.0f} s of audio"
    else:
        given = f"{rate * sum(array.size for array in batch.values() if array.dtype.kind == 'i'):,.0f} tokens"
    measured = (
        f"{rate:.2f} batches/s ({given} a second) against {1 / step_seconds:.2f} steps/s: "
        f"a step waits {waiting:.0%} of its time"
    )
    advice = "put the data on a local disk, use more CPU cores or hosts for the input, or larger models"
    return judge("input rate", measured, advice, warning=waiting > 0.1)


def _row_bytes(batch: HostBatch) -> list[bytes]:
    arrays = [np.ascontiguousarray(batch[name]) for name in sorted(batch)]
    return [b"".join(array[row].tobytes() for array in arrays) for row in range(len(arrays[0]))]


def _same(one: HostBatch, other: HostBatch) -> bool:
    """Whether two batches are equal to the bit."""
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype
        and one[name].shape == other[name].shape
        and one[name].tobytes() == other[name].tobytes()
        for name in one
    )
