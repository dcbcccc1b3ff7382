"""Do the inputs of a training belong together? Parts by their hashes and ids, data sets by the ids that they record."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from melody_jax import config as config_lib
from melody_jax.bundle.lineage import check_lineage, short
from melody_jax.bundle.part import INFO_FILE, Part, load_part, locate
from melody_jax.errors import UserError
from melody_jax.geometry import Geometry
from melody_jax.operations.doctor.finding import FAILURE, Finding, judge, ok
from melody_jax.operations.opening import differing


def check_parts(folder: Path, names: Sequence[str], geometry: Geometry) -> tuple[list[Finding], dict[str, Part]]:
    """Whether the parts `names` in `folder` are there, undamaged, of `geometry` and trained with one another.

    Returns the findings and the parts that could be read.
    """
    findings, parts = [], {}
    for name in names:
        check = f"part {name}"
        if not (locate(folder / name) / INFO_FILE).is_file():
            findings.append(Finding(FAILURE, check, f"not in {folder}", f"run melody train {name} first"))
            continue
        try:
            part = parts[name] = load_part(folder / name)
        except UserError as error:
            findings.append(Finding(FAILURE, check, str(error), f"copy it again, or run melody train {name} again"))
            continue
        other = differing(config_lib.to_dict(part.geometry), config_lib.to_dict(geometry))
        measured = f"{short(part.id)}, {part.parameters:,} parameters, files as written"
        advice = f"use the --size that {name} was trained at, or train it again"
        findings.append(judge(check, f"{measured}{other and f'; of another geometry: {other}'}", advice,
                              failure=bool(other)))  # fmt: skip
    if len(parts) > 1:
        try:
            check_lineage(parts)
            findings.append(ok("parts together", "each was trained with the others that are here"))
        except UserError as error:
            advice = "run melody train all: it trains again what has another parent"
            findings.append(Finding(FAILURE, "parts together", str(error), advice))
    return findings, parts


def check_tokens(facts: Mapping[str, Any], parts: Mapping[str, str], source: str, geometry: Geometry) -> list[Finding]:
    """Whether a tokenised data set was made from these parts and this audio, at this geometry.

    Args:
      facts: metadata of the tokenised data set: lineage, source, geometry.
      parts: name -> id of the parts that are here.
      source: id of the audio data set that is here; "" where there is none.
    """
    again = "run melody tokenize again (melody train does)"
    made = facts.get("lineage", {})
    others = [name for name in parts if made.get(name) != parts[name]]
    said = [f"made by {name} {short(made.get(name, 'none'))}, here is {short(parts[name])}" for name in others]
    measured = "; ".join(said) or f"made by the {len(parts)} parts that are here"
    findings = [judge("tokens of these parts", measured, again, failure=bool(others))]
    recorded = facts.get("source", "")
    if source:
        measured = f"made from audio {short(recorded)}, here is {short(source)}"
        findings.append(judge("tokens of this audio", measured, again, failure=recorded != source))
    other = differing(facts.get("geometry", {}), config_lib.to_dict(geometry))
    measured = other or "as this configuration's"
    findings.append(judge("tokens of this geometry", measured, f"use their --size, or {again}", failure=bool(other)))
    return findings


def check_splits(data_id: str, counts: Mapping[str, int], batch_size: int) -> list[Finding]:
    """Which data set it is and how many clips each split has, against the global batch."""
    train, held_out = counts.get("train", 0), counts.get("validation", 0)
    measured = f"{short(data_id)}, " + ", ".join(f"{count} clips in {split}" for split, count in counts.items())
    few = f"batches of {batch_size} repeat clips: more music or a smaller batch"
    none = "evaluation would be on clips that are trained on: more music, from several tunes or files"
    return [
        judge("data set", measured, few if train < batch_size else none,
              failure=train == 0, warning=train < batch_size or held_out == 0)
    ]  # fmt: skip


def check_sample_rate(found: int, geometry: Geometry) -> Finding:
    """Whether an audio data set has the rate of the configuration, in Hz."""
    advice = "build the data set again with melody data: nothing is resampled in training"
    measured = f"{found} Hz, the configuration has {geometry.sample_rate} Hz"
    return judge("data set rate", measured, advice, failure=found != geometry.sample_rate)
