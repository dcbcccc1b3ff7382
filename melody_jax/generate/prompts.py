"""Sentences as users give them: checked, or read from a file. Imports no jax."""

import os
import unicodedata
from collections.abc import Sequence
from typing import Any

from melody_jax.errors import UserError
from melody_jax.files import read_text

LONGEST = 10_000
"""Characters of a prompt. A text tower reads a few hundred words; all of a prompt is searched for controls."""


def check_prompts(prompts: Sequence[Any]) -> list[str]:
    """The prompts, each a text in which something can be read.

    Raises:
      UserError: there is none, or one is no text, longer than `LONGEST`, or holds nothing but spaces and signs without
        width.
    """
    if not prompts:
        raise UserError("there is no prompt")
    for index, prompt in enumerate(prompts, start=1):
        place = "the prompt" if len(prompts) == 1 else f"prompt {index} of {len(prompts)}"
        if not isinstance(prompt, str):
            raise UserError(f"{place} is not a text: {prompt!r:.60}")
        if len(prompt) > LONGEST:
            raise UserError(f"{place} has {len(prompt)} characters, at most {LONGEST} can be used: {prompt!r:.40}")
        if any(unicodedata.category(sign) == "Cs" for sign in prompt):
            raise UserError(f"{place} holds bytes that are no text in UTF-8: {prompt!r:.60}")
        if is_empty(prompt):
            raise UserError(f"{place} is empty")
    return list(prompts)


def is_empty(text: str) -> bool:
    """Whether all of it is spaces, control characters, marks on nothing, or signs without width."""
    return all(unicodedata.category(sign)[0] in "CMZ" for sign in text)


def read_prompts(path: str | os.PathLike) -> list[str]:
    """The lines of a text file (`files.read_text`) that are not empty.

    Raises:
      UserError: the file cannot be read, is no text or holds no prompt.
    """
    prompts = [line.strip() for line in read_text(path).splitlines() if not is_empty(line)]
    if not prompts:
        raise UserError(f"{path} holds no prompt: it wants one a line")
    return check_prompts(prompts)
