"""The one table of stages: which there are, who is made with whom, what each reads. All lists of stages follow from it."""

from typing import Literal, NamedTuple

Reads = Literal["audio", "tokens"]


class Node(NamedTuple):
    """A stage among the others.

    Attributes:
      reads: the data that it is trained on: "audio" of `melody data`, or "tokens" of `melody tokenize`.
      parents: the stages whose parts it is trained with.
      samples: whether sampling needs its part.
      learns: whether it has a network, which a gradient trains.
      program: of sampling, that runs its network alone, as `melody precompile` calls it; empty for none.
    """

    reads: Reads
    parents: tuple[str, ...] = ()
    samples: bool = True
    learns: bool = True
    program: str = ""


STAGES: dict[str, Node] = {
    "autoencoder": Node("audio", program="decoder"),
    "mulan": Node("audio"),
    "semantic": Node("audio", samples=False),
    "codes": Node("audio", parents=("mulan", "semantic"), learns=False),
    "lm": Node("tokens", parents=("codes",), program="lm-decode"),
    "dpd": Node("tokens", parents=("codes", "autoencoder"), program="dpd-sampler"),
}
"""Every stage after its parents."""

ORDER = tuple(STAGES)
PARENTS = {name: node.parents for name, node in STAGES.items() if node.parents}
READ_AUDIO = tuple(name for name, node in STAGES.items() if node.reads == "audio")
"""They make the tokens: `melody tokenize` needs the parts of all of them."""
READ_TOKENS = tuple(name for name, node in STAGES.items() if node.reads == "tokens")
SAMPLING = tuple(name for name, node in STAGES.items() if node.samples)
NETWORKS = tuple(name for name, node in STAGES.items() if node.learns)
PROGRAMS = {node.program: name for name, node in STAGES.items() if node.program}
"""Program of sampling -> the stage whose network it runs."""


def needed_by(name: str) -> tuple[str, ...]:
    """The parts that must be there before a stage is trained: its parents, and, where it reads tokens, their makers."""
    return READ_AUDIO if name in READ_TOKENS else PARENTS.get(name, ())
