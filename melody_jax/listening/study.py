"""A blind comparison of pairs: who hears which pair next and on which side, and the answers, which survive a restart."""

import dataclasses
import datetime
import hashlib
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from melody_jax.errors import UserError
from melody_jax.evaluate.estimate import Estimate, mean
from melody_jax.files import Appended, read_lines, read_object
from melody_jax.generate.page import beside
from melody_jax.generate.sound_file import SUBTYPES

QUESTIONS = {
    "musicality": "Which is the better music: melody, harmony, rhythm?",
    "quality": "Which sounds better, as a recording?",
    "fit": "Which is more like the words?",
}
"""What is asked of each pair: the three criteria of the publication's study with music producers."""
CHOICES = ("first", "second", "same")


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two pieces for the same words.

    Attributes:
      prompt: the words.
      a, b: sound files.
    """

    prompt: str
    a: pathlib.Path
    b: pathlib.Path


def pairs_of(a: pathlib.Path, b: pathlib.Path) -> list[Pair]:
    """The pieces of two folders that are called the same, but for the ending, in the order of their names.

    Raises:
      UserError: there is none.
    """
    first, second = _sounds(a), _sounds(b)
    found = [Pair(_prompt(first[name]), first[name], second[name]) for name in sorted(first.keys() & second.keys())]
    if not found:
        raise UserError(f"no sound file of {a} has its like in {b}: make both with the same sentences")
    return found


class Study:
    """The pairs, and what has been answered so far.

    The order of pairs and their sides are drawn from the listener's name: they stay the same after a restart.

    Args:
      pairs: what is compared.
      answers: a file of JSON lines that grows; what it holds of these pairs counts.

    Raises:
      UserError: the file cannot be read or written.
    """

    def __init__(self, pairs: list[Pair], answers: pathlib.Path):
        self.pairs = pairs
        try:
            known = {(str(pair.a), str(pair.b)): index for index, pair in enumerate(pairs)}
            self._answers = [line for line in read_lines(answers) if (line.get("a"), line.get("b")) in known]
            self._heard = {(line["listener"], known[line["a"], line["b"]]) for line in self._answers}
            self._file = Appended(answers)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{answers} cannot hold the answers: {error}") from None

    def next_of(self, listener: str) -> int | None:
        """The next pair of a listener; None where all have been heard."""
        left = [index for index in range(len(self.pairs)) if (listener, index) not in self._heard]
        return min(left, key=lambda index: _drawn("order", listener, index), default=None)

    def heard_by(self, listener: str) -> int:
        """How many pairs a listener has answered."""
        return sum(name == listener for name, _ in self._heard)

    def sides(self, listener: str, index: int) -> tuple[str, str]:
        """("a", "b") or ("b", "a"): which piece of a pair a listener hears first."""
        return ("a", "b") if _drawn("side", listener, index)[0] % 2 else ("b", "a")

    def sound(self, listener: str, index: int, side: int) -> pathlib.Path:
        """The file behind the first (0) or the second (1) piece."""
        return getattr(self.pairs[index], self.sides(listener, index)[side])

    def answer(self, listener: str, index: int, choices: Mapping[Any, str]) -> None:
        """Keeps a listener's choices for a pair: one of `CHOICES` for every question. A second answer does not count."""
        if (listener, index) in self._heard:
            return
        pair, sides = self.pairs[index], self.sides(listener, index)
        named = {"first": sides[0], "second": sides[1], "same": "same"}
        line = {
            "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "listener": listener,
            "prompt": pair.prompt,
            "a": str(pair.a),
            "b": str(pair.b),
            "first": sides[0],
            **{question: named[choices[question]] for question in QUESTIONS},
        }
        self._file.write(line)
        self._answers.append(line)
        self._heard.add((listener, index))

    def shares(self) -> dict[str, Estimate]:
        """Question -> share of the answers in favour of the first folder; "the same" counts a half."""
        worth = {"a": 1.0, "same": 0.5, "b": 0.0}
        return {
            question: mean(np.array([worth.get(str(line.get(question)), np.nan) for line in self._answers]))
            for question in QUESTIONS
        }

    def table(self) -> str:
        """`shares` in Markdown."""
        rows = [f"| {question} | {share} | {share.clips} |" for question, share in self.shares().items()]
        return "\n".join(["| | share of the first folder | answers |", "|---|---|---|", *rows])


def _sounds(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    return {path.stem: path.resolve() for path in sorted(folder.iterdir()) if path.suffix.lower()[1:] in SUBTYPES}


def _prompt(sound: pathlib.Path) -> str:
    """What the JSON beside a sound says that it was made for; else its name, in words."""
    try:
        told = read_object(beside(sound)[1]).get("prompt")
    except UserError:
        told = None
    return str(told or sound.stem.replace("-", " "))


def _drawn(*what: object) -> bytes:
    return hashlib.sha256(repr(what).encode()).digest()
