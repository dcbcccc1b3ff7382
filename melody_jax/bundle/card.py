"""The model card of a bundle: what it is, what it was trained on and for how long, under which licences."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from melody_jax.bundle.lineage import short
from melody_jax.bundle.part import Part


@dataclasses.dataclass(frozen=True)
class Card:
    """What only the person who exports can say.

    Attributes:
      title: heading of the card.
      description: a paragraph on what the bundle is for and what it does badly.
      data: what it was trained on.
      licences: licence of the weights, and of the data and pretrained parts behind them, one a line.
      sections: further Markdown, such as the table of held-out figures; appended as it is.
    """

    title: str = "A MeLoDy bundle"
    description: str = "Text to music: a sentence in, 24 kHz mono music out."
    data: str = "not stated"
    licences: tuple[str, ...] = ()
    sections: tuple[str, ...] = ()


def render(card: Card, parts: Mapping[str, Part], references: Mapping[str, Mapping[str, Any]], size: int) -> str:
    """The card as Markdown; `size` is the bundle's bytes without the card."""
    geometry = next(iter(parts.values())).geometry
    lines = [
        f"# {card.title}",
        "",
        card.description,
        "",
        f"{geometry.sample_rate} Hz mono; {geometry.token_rate:g} Hz semantic tokens of {geometry.semantic_codes} "
        f"codes; {geometry.latent_rate:g} Hz latents of {geometry.latent_channels} channels; trained on clips of "
        f"{geometry.clip_seconds:g} s.",
        "",
        "## Parts",
        "",
        "| part | parameters | stored as | id | steps | training time | data |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [_row(name, part) for name, part in parts.items()]
    total = sum(part.parameters for part in parts.values())
    lines += ["", f"Together {total / 1e6:.2f} M parameters in {size / 2**20:.1f} MiB."]
    for name, source in references.items():
        lines.append(
            f"Not among these files: {name}, frozen in training, read from the Python package {source['package']} "
            f"{source['version']} (sha256 {short(source['sha256'])})."
        )
    lines += ["", "## Data", "", card.data, "", "## Licences", ""]
    lines += [f"- {licence}" for licence in card.licences] or ["not stated"]
    for section in card.sections:
        lines += ["", section.strip()]
    return "\n".join(lines) + "\n"


def _row(name: str, part: Part) -> str:
    steps = part.training.get("steps", "")
    seconds = part.training.get("seconds")
    minutes = "" if seconds is None else f"{seconds / 60:.1f} min"
    data = part.training.get("data", "")
    return (
        f"| {name} | {part.parameters / 1e6:.2f} M | {part.dtype} | `{short(part.id)}` | {steps} | {minutes} | {data} |"
    )
