"""A bundle as an instrument: from sentences, or from music, to music."""

import dataclasses
import functools
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Unpack, overload

import numpy as np

from melody_jax.bundle.bundle import Bundle
from melody_jax.codes.control_words import pace_of, read_sentence
from melody_jax.codes.controls import Controls, encode, merge, to_json
from melody_jax.config import from_dict
from melody_jax.errors import UserError
from melody_jax.generate import work
from melody_jax.generate.compose import Composer, Known, Row
from melody_jax.generate.given import Given, check_audio, check_spans, digest, moments_in, redrawn
from melody_jax.generate.loudness import brought_to, faded, limited, lufs
from melody_jax.generate.options import RUN, TOLD, Options, controls_of
from melody_jax.generate.prompts import check_prompts
from melody_jax.generate.replay import read_call
from melody_jax.generate.result import Result
from melody_jax.generate.settings import Settings, seeds_of, with_settings
from melody_jax.generate.splice import JOINT_SECONDS, matched, spliced
from melody_jax.generate.stream import Stream
from melody_jax.geometry import Geometry
from melody_jax.mulan.config import PretrainedText
from melody_jax.shapes import Float, Int
from melody_jax.storage import Path
from melody_jax.system import Loaded

Audio = Float[np.ndarray, " _"]  # lengths come and go
Music = np.ndarray | Result


class Melody:
    """A bundle that makes music, on all accelerators of this host.

    `generate`, `continue_`, `inpaint` and `vary` take one prompt or piece of music and return one `Result`, or a list and
    return a list. Music is mono float arrays at the bundle's sample rate. Keywords are those of `Options`: the fields of
    `Settings` and how the call is made.

    What a prompt becomes depends on its seed and the settings, not on what is made beside it: the same tokens, and the same
    sound up to rounding (products of another batch size may round differently).

    Args:
      devices: on these ones.
      programs: a folder in which compiled programs are kept for later processes (`system.programs.Programs`).

    Attributes:
      bundle: what it was loaded from.
      loaded: its models.
      defaults: settings where the caller chooses none; the bundle may carry its own.
    """

    def __init__(self, bundle: Bundle, devices: Sequence[Any] | None = None, programs: Path | None = None):
        self.bundle = bundle
        self.defaults = with_settings(Settings(), bundle.sampling)
        text = bundle.references.get("mulan/text")
        text = None if text is None else from_dict(PretrainedText, text)
        self.loaded = Loaded(bundle.parts, bundle.tokenizer, devices, text, programs)
        self._composer = Composer(self.loaded)

    @classmethod
    def load(
        cls,
        directory: str | os.PathLike,
        devices: Sequence[Any] | None = None,
        adapters: Mapping[str, float] | None = None,
        programs: Path | None = None,
    ) -> "Melody":
        """Loads a bundle.

        Args:
          directory: its folder.
          devices, programs: see the class.
          adapters: folder -> weight, of adapters that `melody finetune --lora` trained on this bundle.

        Raises:
          UserError: it is missing, damaged, edited, its parts do not belong together, or an adapter is of other parts.
        """
        return cls(Bundle.load(directory, adapters), devices, programs)

    @property
    def sample_rate(self) -> int:
        """Hz, of all music that is given and made."""
        return self.bundle.geometry.sample_rate

    @overload
    def generate(self, prompts: str, *, negative: str | None = None, **options: Unpack[Options]) -> Result: ...

    @overload
    def generate(
        self,
        prompts: Sequence[str] | None = None,
        *,
        audio: Sequence[np.ndarray] | None = None,
        negative: str | Sequence[str] | None = None,
        **options: Unpack[Options],
    ) -> list[Result]: ...

    def generate(
        self,
        prompts: Any = None,
        *,
        audio: Any = None,
        negative: Any = None,
        **options: Unpack[Options],
    ) -> Result | list[Result]:
        """Music for each prompt, in their order; one piece for one sentence.

        Args:
          prompts: sentences.
          audio: instead of sentences, music to resemble. The first clip length counts; shorter ones are repeated to that
            length.
          negative: what the music should not be: one sentence for all prompts, or one for each.
          **options: see `Options`.

        Raises:
          UserError: no prompt, an empty one, or a bad setting.
          Cancelled: `cancel` said so; it holds what was finished.
        """
        chosen = self._settings(options)
        if (prompts is None) == (audio is None):
            raise UserError("give either sentences (prompts) or music (audio)")
        alone = isinstance(prompts, str) or isinstance(audio, np.ndarray) and audio.ndim == 1
        if prompts is not None:
            given = sources = check_prompts([prompts] if isinstance(prompts, str) else list(prompts))
            self._warn_of_cuts(sources)
        else:
            given = [audio] if alone else list(audio)
            sources = [self._clip(clip, index) for index, clip in enumerate(given)]
            if not sources:
                raise UserError("there is no music prompt")
        seeds, negatives = (
            seeds_of(options.get("seed", 0), len(sources)),
            self._negatives(negative, len(sources), chosen),
        )
        samples = max(1, round(chosen.seconds * self.sample_rate))
        finish = functools.partial(self._whole, samples, chosen)
        moments = self.bundle.geometry.tokens_in(chosen.seconds)
        jobs, flags = [], controls_of(options.get("controls"), len(sources))
        for one, source, seed, away, wanted in zip(given, sources, seeds, negatives, flags, strict=True):
            sentence = source if isinstance(source, str) else ""
            codes, said = self._asked(sentence, wanted, seed)
            row = Row(source, seed, moments, away, controls=codes)
            jobs.append(work.Job(row, sentence, self._call("generate", one, away) | said, finish))
        return self._made(jobs, chosen, alone, options)

    def continue_(
        self,
        audio: Music | Sequence[Music],
        prompt: str | Sequence[str] | None = None,
        *,
        negative: str | Sequence[str] | None = None,
        **options: Unpack[Options],
    ) -> Any:
        """Goes on with music for `seconds`; what was given comes back bit for bit but for its last 20 ms.

        Args:
          audio: music, or a list of pieces: arrays or `Result`s. Its last clip length is what the models see.
          prompt: what comes next; None for music like that which was given.
          negative, **options: as of `generate`.

        Returns:
          A `Result`, or a list for a list: the given music and what follows it.

        Raises:
          UserError, Cancelled: as `generate`.
        """
        chosen, g = self._settings(options), self.bundle.geometry
        pieces, alone = self._pieces(audio, options)
        fresh = g.tokens_in(chosen.seconds)
        added = max(1, round(chosen.seconds * self.sample_rate))
        joint = round(JOINT_SECONDS * self.sample_rate)

        def known(piece: Audio) -> tuple[Known, Any]:
            context = min(len(piece) // g.token_samples, g.clip_tokens)
            seen = context * g.token_samples
            start = len(piece) - seen
            tokens, latents = self._given.represent(piece[start:])
            new = np.arange(context + fresh) >= context
            spans = [(max(0, seen - joint), seen + added)]

            def finish(made: Audio) -> tuple[Audio, None]:
                whole = self._repainted(piece[start:], made[: seen + added], spans)
                return faded(np.concatenate([piece[:start], whole]), self.sample_rate, False, True), None

            return _known(tokens, latents, new, new, g, piece[start:], since=start / self.sample_rate), finish

        return self._edit(
            "continue_", pieces, alone, prompt, negative, chosen, options, known, lambda p: p[-g.clip_samples :]
        )

    def inpaint(
        self,
        audio: Music | Sequence[Music],
        spans: Any,
        prompt: str | Sequence[str] | None = None,
        *,
        negative: str | Sequence[str] | None = None,
        **options: Unpack[Options],
    ) -> Any:
        """Makes some spans of music anew; all other samples come back bit for bit.

        Cross-fades of 20 ms lie inside the spans. `seconds` and `loudness` do not count here.

        Args:
          audio: music, or a list of pieces: arrays or `Result`s.
          spans: (begin, end) in seconds, the same ones of every piece.
          prompt: what the spans should hold; None for music like the rest.
          negative, **options: as of `generate`.

        Returns:
          A `Result`, or a list for a list.

        Raises:
          UserError, Cancelled: as `generate`.
        """
        chosen, g = self._settings(options), self.bundle.geometry
        pieces, alone = self._pieces(audio, options)
        spans = spans if isinstance(spans, str) else list(spans)
        places = [check_spans(spans, len(piece), self.sample_rate) for piece in pieces]

        def known(piece: Audio) -> tuple[Known, Any]:
            there = check_spans(spans, len(piece), self.sample_rate)
            tokens, latents = self._given.represent(piece)
            new = moments_in(there, len(latents) // g.frames_per_token, g.token_samples)

            def finish(made: Audio) -> tuple[Audio, None]:
                whole = self._repainted(piece, made[: len(piece)], there)
                cut = there[0][0] == 0, there[-1][1] == len(piece)
                return faded(whole, self.sample_rate, *cut), None

            return _known(tokens, latents, new, new, g, piece), finish

        middle = {len(piece): sum(there[0]) // 2 for piece, there in zip(pieces, places, strict=True)}

        def around(piece: Audio) -> Audio:
            return piece[max(0, min(middle[len(piece)] - g.clip_samples // 2, len(piece) - g.clip_samples)) :]

        plain = [[begin, end] for begin, end in sorted((float(b), float(e)) for b, e in spans)]
        return self._edit("inpaint", pieces, alone, prompt, negative, chosen, options, known, around, spans=plain)

    def vary(
        self,
        audio: Music | Sequence[Music],
        strength: Any,
        prompt: str | Sequence[str] | None = None,
        *,
        negative: str | Sequence[str] | None = None,
        **options: Unpack[Options],
    ) -> Any:
        """Another version of music, as long as it is.

        Args:
          audio: music, or a list of pieces: arrays or `Result`s.
          strength: from 0, the given music as the models hear it, to 1, a new piece. It is the share of the music whose
            tokens are drawn anew, in stretches of a second, and of the way to noise that diffusion starts at.
          prompt: where it should go; None for music like that which was given.
          negative, **options: as of `generate`; `seconds` does not count.

        Returns:
          A `Result`, or a list for a list.

        Raises:
          UserError, Cancelled: as `generate`.
        """
        chosen, g = self._settings(options), self.bundle.geometry
        try:
            share = float(strength)
        except (TypeError, ValueError):
            share = math.nan
        if not 0 <= share <= 1:
            raise UserError(f"strength must be a number from 0 to 1, got {strength!r:.40}")
        pieces, alone = self._pieces(audio, options)

        def known(piece: Audio) -> tuple[Known, Any]:
            tokens, latents = self._given.represent(piece)
            count = len(latents) // g.frames_per_token
            drawn = redrawn(count, share, max(1, round(g.token_rate)))
            made = np.ones(count, bool)
            finish = functools.partial(self._whole, len(piece), chosen)
            return _known(tokens, latents, drawn, made, g, strength=share), finish

        return self._edit("vary", pieces, alone, prompt, negative, chosen, options, known, lambda p: p, strength=share)

    def perform(
        self,
        tokens: Int[np.ndarray, "n W"],
        *,
        seed: int = 0,
        batch_size: int = 16,
        progress: bool = False,
        **settings: Any,
    ) -> Float[np.ndarray, "n T"]:
        """Music of given semantic tokens, those of whole training clips: what diffusion and decoder make of them.

        Args:
          tokens: as `Loaded.represent` gives them.
          seed: of the first row; the others count on.
          batch_size: how many rows are worked on at once.
          progress: whether a bar on stderr shows the work done and the time left.
          **settings: any field of `Settings` but seconds.
        """
        chosen, moments = with_settings(self.defaults, settings), self.bundle.geometry.clip_tokens

        def play(rows: Any) -> Any:
            return self._composer.play(tokens[rows], [seed + int(row) for row in rows], moments, chosen)

        return work.in_batches(play, len(tokens), self.loaded.filled(min(batch_size, len(tokens))), progress)

    def decode(self, latents: Float[np.ndarray, "n L D"], *, batch_size: int = 16) -> Float[np.ndarray, "n T"]:
        """Waveforms of latents by the decoder that sampling uses."""

        def play(rows: Any) -> Any:
            return np.asarray(self.loaded.decode(latents[rows].astype(np.float32)))

        return work.in_batches(play, len(latents), self.loaded.filled(min(batch_size, len(latents))), False)

    def stream(
        self,
        prompt: str,
        *,
        negative: str | None = None,
        seed: int = 0,
        controls: Controls | None = None,
        settings: Settings | None = None,
        **changes: Any,
    ) -> Stream:
        """Endless music, an iterator of arrays [T] that follow each other without a seam; see `Stream`.

        Args:
          prompt: a sentence; `Stream.change` takes another one, other controls and settings, while the music plays.
          negative, seed, controls, settings: as of `generate`; seconds and candidates do not count.
          **changes: other fields of `Settings`.

        Raises:
          UserError: an empty prompt or a bad setting.
        """
        chosen = with_settings(settings or self.defaults, changes)
        (seed,) = seeds_of(seed, 1)
        self._warn_of_cuts(check_prompts([prompt]))
        (away,) = self._negatives(negative, 1, chosen)

        def codes(sentence: str, fixed: Controls | None) -> np.ndarray | None:
            return self._asked(sentence, fixed, seed)[0]

        return Stream(self._composer, chosen, prompt, away, seed, controls, codes)

    def replay(self, call: Mapping[str, Any], audio: np.ndarray | None = None, **options: Unpack[Options]) -> Result:
        """Makes a piece again, from `Result.call` or the JSON that is written beside a piece.

        Args:
          call: what it says.
          audio: the music that was given, where some was.
          **options: how the call is made (`progress`, `cancel`).

        Raises:
          UserError: it is no such thing, comes from another bundle, or wants other music.
        """
        wanted = read_call(call, self.bundle.ids)
        chosen = dataclasses.replace(wanted.settings, candidates=1)
        run: Any = {"progress": options.get("progress", False), "cancel": options.get("cancel")}
        run |= {
            "controls": wanted.controls,
            "settings": chosen,
            "seed": wanted.seed,
            "candidate": wanted.candidate,
            "negative": wanted.negative,
        }
        if wanted.sha256 is not None:
            given = check_audio(audio, self.bundle.geometry) if audio is not None else None
            if given is None or digest(given) != wanted.sha256:
                raise UserError("this piece was made from other music; give the same samples")
            run |= {"audio": given}
        return getattr(self, wanted.name)(**wanted.arguments, **run)

    @functools.cached_property
    def _given(self) -> Given:
        return Given(self.loaded)

    def _edit(
        self,
        name: str,
        pieces: list[Audio],
        alone: bool,
        prompt: Any,
        negative: Any,
        chosen: Settings,
        options: Options,
        known: Any,
        resembled: Any,
        **arguments: Any,
    ) -> Any:
        """The common part of what is done to given music; `resembled` is what stands for a prompt where there is none."""
        prompts: list[str | None] = [None] * len(pieces)
        if prompt is not None:
            given = [prompt] * len(pieces) if isinstance(prompt, str) else list(prompt)
            prompts = [*check_prompts(given)]
            self._warn_of_cuts([*dict.fromkeys(given)])
        if len(prompts) != len(pieces):
            raise UserError(f"{len(prompts)} prompts for {len(pieces)} pieces of music")
        seeds, negatives = seeds_of(options.get("seed", 0), len(pieces)), self._negatives(negative, len(pieces), chosen)
        jobs, seen, flags = [], {}, controls_of(options.get("controls"), len(pieces))
        each = pieces, prompts, seeds, negatives, flags, controls_of(options.get("heard"), len(pieces))
        for piece, sentence, seed, away, wanted, heard in zip(*each, strict=True):
            identity = digest(piece)
            if identity not in seen:
                seen[identity] = known(piece)
            stands, finish = seen[identity]
            source = (
                self._clip(resembled(piece)[: self.bundle.geometry.clip_samples], 0) if sentence is None else sentence
            )
            codes, said = self._asked(sentence or "", wanted, heard=heard, since=stands.since)
            row = Row(source, seed, len(stands.made), away, stands, controls=codes)
            call = self._call(name, sentence, away) | arguments | said | {"source": identity}
            jobs.append(work.Job(row, sentence or "", call, finish))
        return self._made(jobs, chosen, alone, options)

    def _made(self, jobs: list[work.Job], chosen: Settings, alone: bool, options: Options) -> Any:
        candidate = options.get("candidate")
        if candidate is not None:
            jobs = [dataclasses.replace(job, row=dataclasses.replace(job.row, candidate=candidate)) for job in jobs]
        told: Any = {name: value for name, value in options.items() if name in TOLD}
        results = work.run(jobs, self._composer, chosen, **told)
        return results[0] if alone else results

    def _settings(self, options: Options) -> Settings:
        base = options.get("settings") or self.defaults
        if not isinstance(base, Settings):
            raise UserError(f"settings must be Settings, got {base!r:.60}")
        return with_settings(base, {name: value for name, value in options.items() if name not in RUN})

    def _asked(
        self,
        sentence: str,
        flags: Controls | None,
        seed: int | None = None,
        heard: Controls | None = None,
        since: float = 0.0,
    ) -> tuple[np.ndarray | None, dict[str, Any]]:
        """(codes of the controls, what they say for `Result.call`): those of the flags, and what the sentence names.

        Of given music, whose first moment is `since` seconds from its start, the beat counts that was `heard`. With a seed the
        music is all new: it begins with a bar, and for a model that reads beats a tempo is drawn that suits the sentence where
        none is named, for such a model keeps no time without one.
        """
        if not self.loaded.system.vocabulary.controls:
            if flags:
                raise UserError("this bundle's language model knows no controls; say it in the sentence")
            return None, {}
        asked, contradictions = merge(flags or Controls(), read_sentence(sentence))
        for line in contradictions:
            warnings.warn(line, stacklevel=4)
        pace = pace_of(sentence) if sentence and self.loaded.system.lm.config.beats else None
        if seed is not None and asked.tempo is None and pace is not None:
            asked = dataclasses.replace(asked, tempo=float(np.random.default_rng(seed).integers(*pace)))
        if seed is not None and asked.tempo is not None and asked.downbeat is None:
            asked = dataclasses.replace(asked, downbeat=0.0)
        if heard is not None and asked.tempo is None:
            metre = asked.metre or heard.metre
            asked = dataclasses.replace(asked, tempo=heard.tempo, downbeat=heard.downbeat, metre=metre)
        there = asked if asked.downbeat is None else dataclasses.replace(asked, downbeat=asked.downbeat - since)
        return encode(there), {"controls": to_json(asked)}

    def _negatives(self, negative: Any, count: int, chosen: Settings) -> list[str | None]:
        if negative is None:
            return [None] * count
        if chosen.lm_guidance == 1:
            raise UserError("a negative prompt needs lm_guidance above 1: guidance leads away from it")
        given = check_prompts([negative] * count if isinstance(negative, str) else list(negative))
        if len(given) != count:
            raise UserError(f"{len(given)} negative prompts for {count} pieces")
        self._warn_of_cuts([*dict.fromkeys(given)])
        return [*given]

    def _pieces(self, audio: Any, options: Options) -> tuple[list[Audio], bool]:
        """(the pieces, whether one was given and no list); what `Result`s among them say of their beat goes into options."""
        # an array of another shape than [T] is refused, not taken for several pieces
        alone = isinstance(audio, np.ndarray | Result)
        given = [audio] if alone else list(audio)
        if not given:
            raise UserError("there is no music")
        heard = controls_of(options.get("heard"), len(given))
        said = [piece.controls if isinstance(piece, Result) else None for piece in given]
        options["heard"] = [own or other for own, other in zip(heard, said, strict=True)]
        given = [piece.audio if isinstance(piece, Result) else piece for piece in given]
        name = "the music" if alone else "piece {} of the music"
        return [check_audio(piece, self.bundle.geometry, name.format(i + 1)) for i, piece in enumerate(given)], alone

    def _clip(self, clip: Any, index: int) -> Audio:
        array = np.asarray(clip)
        if array.ndim != 1 or array.size == 0 or array.dtype.kind != "f" or not np.isfinite(array).all():
            raise UserError(f"music prompt {index + 1} is not a non-empty mono array of finite numbers")
        return np.resize(array.astype(np.float32), self.bundle.geometry.clip_samples)

    def _warn_of_cuts(self, prompts: Sequence[str]) -> None:
        for prompt in prompts:
            kept = self.loaded.tokenizer.kept(prompt, self.loaded.text_length)
            if kept is not None:
                warnings.warn(
                    f"a prompt is longer than the {self.loaded.text_length} tokens that the model reads; it reads up to "
                    f"{'...' + kept[-40:]!r}",
                    stacklevel=4,
                )

    def _call(self, name: str, source: Any, negative: str | None) -> dict[str, Any]:
        call: dict[str, Any] = {"name": name, "bundle": self.bundle.ids}
        if isinstance(source, str):
            call["prompt"] = source
        elif source is not None:
            call["source"] = digest(source)
        if negative is not None:
            call["negative"] = negative
        return call

    def _whole(self, samples: int, chosen: Settings, made: Audio) -> tuple[Audio, tuple[float, float] | None]:
        """A piece of new music: its length, its loudness, its ends."""
        audio = made[:samples].astype(np.float32)
        if chosen.loudness is None:
            audio = audio / max(1.0, float(np.abs(audio).max()))
            return faded(audio, self.sample_rate, True, True), None
        level = brought_to(audio, self.sample_rate, chosen.loudness)
        level = faded(level, self.sample_rate, True, True)
        return level, (lufs(audio, self.sample_rate), lufs(level, self.sample_rate))

    def _repainted(self, old: Audio, made: Audio, spans: list[tuple[int, int]]) -> Audio:
        """New spans in old music, as loud as it is."""
        new = limited(matched(made.astype(np.float32), old, spans, self.sample_rate), self.sample_rate)
        return spliced(old, new, spans, self.sample_rate)


def _known(
    tokens: Any,
    latents: Any,
    drawn: Any,
    made: Any,
    g: Geometry,
    audio: Audio | None = None,
    strength: float = 1.0,
    since: float = 0.0,
) -> Known:
    """With room for what is to come behind it."""
    count = len(made)
    tokens = np.pad(tokens, (0, count * g.semantic_levels - len(tokens)))
    latents = np.pad(latents, ((0, count * g.frames_per_token - len(latents)), (0, 0)))
    if audio is not None:
        audio = np.pad(audio, (0, count * g.token_samples - len(audio)))
    return Known(tokens, latents, drawn, made, audio, strength, since)
