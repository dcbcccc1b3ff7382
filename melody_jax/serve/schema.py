"""Requests as JSON, and what they become once all of it is checked. Imports no jax."""

import secrets
from collections.abc import Callable
from typing import Any, Literal

import pydantic
from pydantic import Field

from melody_jax.codes.control_words import parse, read_sentence
from melody_jax.codes.controls import Controls, merge
from melody_jax.errors import UserError
from melody_jax.generate.prompts import check_prompts
from melody_jax.generate.settings import Settings, check_changes, seeds_of, with_settings
from melody_jax.serve.jobs import Wanted
from melody_jax.serve.limits import Limits
from melody_jax.serve.takes import Take


class _Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", allow_inf_nan=False)


class Sampling(_Strict):
    """What changes of the bundle's settings; what is not given stays."""

    seconds: float | None = Field(
        default=None, description="length of the music; of what is added, where music is continued"
    )
    steps: int | None = Field(default=None, description="of the diffusion")
    guidance: float | None = Field(default=None, description="of the diffusion, 1 for none")
    schedule: Literal["linear", "uniform"] | None = Field(default=None, description="step sizes of the diffusion")
    lm_guidance: float | None = Field(default=None, description="of the language model, 1 for none")
    temperature: float | None = Field(default=None, description="of the language model, 0 for the most likely tokens")
    top_k: int | None = Field(default=None, description="draw from the k most likely tokens, 0 for all")
    top_p: float | None = Field(default=None, description="draw from the most likely tokens of this total probability")
    mulan_levels: int | None = Field(default=None, description="MuLan tokens that count, coarse to fine, 0 for all")
    clip_latents: float | None = Field(default=None, description="bound of predicted latents, 0 for none")
    noise: float | None = Field(default=None, description="deviation of the noise that diffusion starts from, 0 to 1")
    window_seconds: float | None = Field(default=None, description="length diffused at once, 0 for the training clip")
    overlap: float | None = Field(default=None, description="share of every further window that stands already")
    candidates: int | None = Field(
        default=None, description="pieces made, of which the nearest to the sentence comes first"
    )
    loudness: float | None = Field(default=None, description="LUFS; null leaves the level alone")

    def changes(self) -> dict[str, Any]:
        """Those that were given; null is a choice for the loudness alone."""
        given = self.model_dump(exclude_unset=True)
        return {name: value for name, value in given.items() if value is not None or name == "loudness"}


class Asked(_Strict):
    """Controls: what can be counted. What is not given is read from the sentence."""

    bpm: float | None = Field(default=None, description="beats per minute, 40 to 208")
    key: str | None = Field(default=None, description='"D minor", "F# major", "Bb m"', max_length=40)
    metre: str | None = Field(default=None, description='"3/4", or a dance that has one: "waltz"', max_length=40)
    instruments: list[str] | None = Field(
        default=None, description="all who play, the leading one first", max_length=16
    )
    drums: bool | None = Field(default=None, description="with or without a drum kit")
    downbeat: float | None = Field(
        default=None, description="of given music: seconds from its start to the first beat of a bar"
    )

    def parsed(self) -> Controls | None:
        """Raises UserError: a value that cannot be."""
        controls = parse(self.bpm, self.key, self.metre, self.instruments, self.drums, self.downbeat)
        return controls if controls else None


class _Common(_Strict):
    negative: str | None = Field(default=None, description="what the music should not be; needs lm_guidance above 1")
    seed: int | None = Field(default=None, description="0 to 2^32 - 1; drawn if not given, and said in the answer")
    controls: Asked = Asked()
    settings: Sampling = Sampling()
    keep_all: bool = Field(default=False, description="whether all candidates become takes")


class Generate(_Common):
    """New music from a sentence, or like a take."""

    prompt: str | None = Field(
        default=None, description="a sentence", examples=["a slow waltz for solo violin in D minor"]
    )
    like: str | None = Field(default=None, description="instead of a sentence: id of a take to resemble")


class _Edit(_Common):
    take: str = Field(description="id of the take that is given")
    prompt: str | None = Field(
        default=None, description="what the new music should be; like the given if there is none"
    )


class Continue(_Edit):
    """The given music, and `settings.seconds` more."""


class Inpaint(_Edit):
    """The given music with some spans made anew; all other samples stay."""

    spans: list[tuple[float, float]] = Field(description="begin and end in seconds", min_length=1, max_length=32)


class Vary(_Edit):
    """Another version of the given music."""

    strength: float = Field(default=0.5, description="from 0, as it was, to 1, a new piece", ge=0, le=1)


class Stream(_Strict):
    """Endless music."""

    prompt: str = Field(description="a sentence")
    negative: str | None = None
    seed: int | None = None
    controls: Asked = Asked()
    settings: Sampling = Sampling()
    format: Literal["wav", "mp3"] = "wav"


class Change(_Strict):
    """What a stream goes on with."""

    prompt: str | None = None
    negative: str | None = None
    controls: Asked | None = Field(
        default=None, description="all that is fixed from now on, {} for nothing; what was fixed stays if not given"
    )
    settings: Sampling = Sampling()


class Checker:
    """Turns requests into what can be made, or says in one line why not.

    Args:
      defaults: the bundle's settings.
      limits: of the server.
      controls: whether the language model knows controls.
      edits: whether the bundle can represent given music.
      find: take by id; raises where there is none.
    """

    def __init__(self, defaults: Settings, limits: Limits, controls: bool, edits: bool, find: Callable[[str], Take]):
        self._defaults, self._limits = defaults, limits
        self._knows_controls, self._edits, self._find = controls, edits, find

    def wanted(self, verb: str, request: Generate | Continue | Inpaint | Vary) -> Wanted:
        """Raises UserError: something of it cannot be."""
        settings = self.settings(request.settings)
        source = request.like if isinstance(request, Generate) else request.take
        if isinstance(request, Generate) and (request.prompt is None) == (source is None):
            raise UserError("give either a sentence (prompt) or a take to resemble (like)")
        if isinstance(request, _Edit) and not self._edits:
            raise UserError("this bundle has no semantic encoder, which continuing, repainting and varying need")
        take = None if source is None else self._find(source)
        self.check_words(request.prompt, request.negative, settings)
        controls, notes = self._controls(request.controls, request.prompt or "")
        spans: tuple[tuple[float, float], ...] = ()
        if isinstance(request, Inpaint) and take is not None:
            spans = tuple(request.spans)
            for begin, end in spans:
                if not 0 <= begin < end <= take.seconds + 0.5 / take.sample_rate:
                    raise UserError(
                        f"the span from {begin:g} to {end:g} s is not inside the music of {take.seconds:g} s"
                    )
        if verb == "continue" and take is not None and take.seconds + settings.seconds > self._limits.seconds:
            raise UserError(f"music has at most {self._limits.seconds:g} s here; this would be longer")
        return Wanted(
            verb,
            settings,
            self.seed(request.seed),
            request.prompt,
            request.negative,
            controls,
            request.keep_all,
            take,
            spans,
            request.strength if isinstance(request, Vary) else 0.0,
            tuple(notes),
        )

    def stream(self, request: Stream) -> dict[str, Any]:
        """Arguments of `Melody.stream`. Raises UserError."""
        settings = self.settings(request.settings)
        self.check_words(request.prompt, request.negative, settings)
        controls, _ = self._controls(request.controls, request.prompt)
        return {
            "prompt": request.prompt,
            "negative": request.negative,
            "seed": self.seed(request.seed),
            "controls": controls,
            "settings": settings,
        }

    def change(self, request: Change, now: dict[str, Any]) -> dict[str, Any]:
        """Arguments of `Stream.change`; `now` are those of `Melody.stream`, and become those after it. Raises UserError."""
        changes = request.settings.changes()
        check_changes(changes)
        settings = self.settings(request.settings, now["settings"])
        negative = request.negative if request.negative is not None else now["negative"]
        self.check_words(request.prompt, negative, settings)
        controls = None
        if request.controls is not None:
            controls = self._controls(request.controls, request.prompt or now["prompt"])[0] or Controls()
        now |= {"settings": settings, "negative": negative, "prompt": request.prompt or now["prompt"]}
        return {"prompt": request.prompt, "negative": request.negative, "controls": controls, **changes}

    def settings(self, sampling: Sampling, base: Settings | None = None) -> Settings:
        """Raises UserError: out of range, or beyond the limits."""
        limits, settings = self._limits, with_settings(base or self._defaults, sampling.changes())
        for name, most in (("seconds", limits.seconds), ("candidates", limits.candidates), ("steps", limits.steps)):
            if getattr(settings, name) > most:
                raise UserError(f"{name} may be at most {most:g} here, got {getattr(settings, name):g}")
        if settings.window_seconds > limits.seconds:
            raise UserError(f"window_seconds may be at most {limits.seconds:g} here")
        return settings

    def check_words(self, prompt: str | None, negative: str | None, settings: Settings) -> None:
        """Raises UserError: empty, too long, or a negative prompt that would do nothing."""
        for text in (prompt, negative):
            if text is not None:
                check_prompts([text])
                if len(text) > self._limits.text:
                    raise UserError(f"a sentence has at most {self._limits.text} letters here, got {len(text)}")
        if negative is not None and settings.lm_guidance == 1:
            raise UserError("a negative prompt needs lm_guidance above 1: guidance leads away from it")

    def seed(self, seed: int | None) -> int:
        """Raises UserError: none that is one."""
        return secrets.randbelow(2**32) if seed is None else seeds_of(seed, 1)[0]

    def _controls(self, asked: Asked, sentence: str) -> tuple[Controls | None, list[str]]:
        controls = asked.parsed()
        if controls is not None and not self._knows_controls:
            raise UserError("this bundle's language model knows no controls; say it in the sentence")
        return controls, merge(controls, read_sentence(sentence))[1] if controls is not None else []
