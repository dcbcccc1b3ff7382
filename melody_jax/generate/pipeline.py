"""A bundle as an instrument: from sentences, or from music, to music."""

import dataclasses
import functools
import math
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Unpack, overload

import numpy as np

from melody_jax.bundle.bundle import Bundle
from melody_jax.codes.controls import Controls
from melody_jax.config import from_dict
from melody_jax.errors import UserError
from melody_jax.generate import work
from melody_jax.generate.asked import controls_for
from melody_jax.generate.compose import Composer, Row
from melody_jax.generate.edits import Audio, Edit, continued, repainted, varied
from melody_jax.generate.given import Given, check_audio, check_clip, check_spans, digest
from melody_jax.generate.loudness import mastered
from melody_jax.generate.options import RUN, TOLD, Options, controls_of
from melody_jax.generate.prompts import check_prompts
from melody_jax.generate.replay import read_call
from melody_jax.generate.result import Result
from melody_jax.generate.settings import BATCH_SIZE, Settings, seeds_of, with_settings
from melody_jax.generate.stream import Stream
from melody_jax.mulan.config import PretrainedText
from melody_jax.shapes import Float, Int
from melody_jax.storage import Path
from melody_jax.system import Loaded

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
        chosen, g = self._settings(options), self.bundle.geometry
        if (prompts is None) == (audio is None):
            raise UserError("give either sentences (prompts) or music (audio)")
        alone = isinstance(prompts, str) or isinstance(audio, np.ndarray) and audio.ndim == 1
        if prompts is not None:
            given = sources = check_prompts([prompts] if isinstance(prompts, str) else list(prompts))
            self._warn_of_unread(sources)
        else:
            given = [audio] if alone else list(audio)
            sources = [check_clip(clip, g, f"music prompt {index + 1}") for index, clip in enumerate(given)]
            if not sources:
                raise UserError("there is no music prompt")
        seeds = seeds_of(options.get("seed", 0), len(sources))
        negatives = self._negatives(negative, len(sources), chosen)
        samples = max(1, round(chosen.seconds * self.sample_rate))

        def finish(made: Audio) -> tuple[Audio, tuple[float, float] | None]:
            return mastered(made[:samples], self.sample_rate, chosen.loudness)

        jobs, flags = [], controls_of(options.get("controls"), len(sources))
        for one, source, seed, away, wanted in zip(given, sources, seeds, negatives, flags, strict=True):
            sentence = source if isinstance(source, str) else ""
            codes, said = controls_for(self.loaded.system, sentence, wanted, seed)
            row = Row(source, seed, g.tokens_in(chosen.seconds), away, controls=codes)
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
        chosen, pieces = self._settings(options), self._pieces(audio, options)

        def edit(piece: Audio) -> Edit:
            return continued(self._given, piece, chosen.seconds)

        return self._edit("continue_", pieces, edit, prompt, negative, chosen, options)

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

        Cross-fades lie inside the spans, 20 ms at the beginning and 80 ms at the end. `seconds` and `loudness` do not count here.

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
        chosen, pieces = self._settings(options), self._pieces(audio, options)
        spans = spans if isinstance(spans, str) else list(spans)
        for piece in pieces.audio:  # all of them before the first is made
            check_spans(spans, len(piece), self.sample_rate)
        plain = sorted((float(begin), float(end)) for begin, end in spans)

        def edit(piece: Audio) -> Edit:
            return repainted(self._given, piece, plain)

        arguments = {"spans": [[*span] for span in plain]}
        return self._edit("inpaint", pieces, edit, prompt, negative, chosen, options, arguments)

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
        chosen = self._settings(options)
        try:
            share = float(strength)
        except (TypeError, ValueError, OverflowError):
            share = math.nan
        if not 0 <= share <= 1:
            raise UserError(f"strength must be a number from 0 to 1, got {strength!r:.40}")
        pieces = self._pieces(audio, options)

        def edit(piece: Audio) -> Edit:
            return varied(self._given, piece, share, chosen.loudness)

        return self._edit("vary", pieces, edit, prompt, negative, chosen, options, {"strength": share})

    def perform(
        self,
        tokens: Int[np.ndarray, "n W"],
        mulan: Int[np.ndarray, "n Q"] | None = None,
        controls: Int[np.ndarray, "n controls"] | None = None,
        *,
        seed: int = 0,
        batch_size: int = BATCH_SIZE,
        progress: bool = False,
        **settings: Any,
    ) -> Float[np.ndarray, "n T"]:
        """Music of given semantic tokens, those of whole training clips: what diffusion and decoder make of them.

        Args:
          tokens: as `Loaded.represent` gives them.
          mulan: MuLan codes of the clips, for a diffusion model that reads a prompt; None: nothing is known of the clips.
          controls: codes of their controls, likewise.
          seed: of the first row; the others count on.
          batch_size: how many rows are worked on at once.
          progress: whether a bar on stderr shows the work done and the time left.
          **settings: any field of `Settings` but seconds.
        """
        chosen, moments = with_settings(self.defaults, settings), self.bundle.geometry.clip_tokens

        def play(rows: Any) -> Any:
            condition = None
            if mulan is not None:
                known = None if controls is None else controls[rows]
                condition = self.loaded.condition(mulan[rows], chosen.mulan_levels, known)
            return self._composer.play(tokens[rows], condition, [seed + int(row) for row in rows], moments, chosen)

        return work.in_batches(play, len(tokens), self.loaded.filled(min(batch_size, len(tokens))), progress)

    def decode(self, latents: Float[np.ndarray, "n L D"], *, batch_size: int = BATCH_SIZE) -> Float[np.ndarray, "n T"]:
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
        self._warn_of_unread(check_prompts([prompt]))
        (away,) = self._negatives(negative, 1, chosen)

        def codes(sentence: str, fixed: Controls | None) -> np.ndarray | None:
            return controls_for(self.loaded.system, sentence, fixed, seed)[0]

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
        pieces: "_Pieces",
        edit: Callable[[Audio], Edit],
        prompt: Any,
        negative: Any,
        chosen: Settings,
        options: Options,
        arguments: Mapping[str, Any] | None = None,
    ) -> Any:
        """The common part of what is done to given music; equal pieces are looked at once."""
        count = len(pieces.audio)
        prompts: list[str | None] = [None] * count
        if prompt is not None:
            given = [prompt] * count if isinstance(prompt, str) else list(prompt)
            prompts = [*check_prompts(given)]
            self._warn_of_unread([*dict.fromkeys(given)])
        if len(prompts) != count:
            raise UserError(f"{len(prompts)} prompts for {count} pieces of music")
        seeds, negatives = seeds_of(options.get("seed", 0), count), self._negatives(negative, count, chosen)
        jobs, seen, flags = [], {}, controls_of(options.get("controls"), count)
        each = pieces.audio, pieces.heard, prompts, seeds, negatives, flags
        for piece, heard, sentence, seed, away, wanted in zip(*each, strict=True):
            identity = digest(piece)
            if identity not in seen:
                seen[identity] = edit(piece)
            made, geometry = seen[identity], self.bundle.geometry
            source = sentence or check_clip(made.resembled[: geometry.clip_samples], geometry, "the music")
            codes, said = controls_for(self.loaded.system, sentence or "", wanted, heard=heard, since=made.known.since)
            row = Row(source, seed, len(made.known.made), away, made.known, controls=codes)
            call = self._call(name, sentence, away) | dict(arguments or {}) | said | {"source": identity}
            jobs.append(work.Job(row, sentence or "", call, made.finish))
        return self._made(jobs, chosen, pieces.alone, options)

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

    def _negatives(self, negative: Any, count: int, chosen: Settings) -> list[str | None]:
        if negative is None:
            return [None] * count
        if chosen.lm_guidance == 1:
            raise UserError("a negative prompt needs lm_guidance above 1: guidance leads away from it")
        given = check_prompts([negative] * count if isinstance(negative, str) else list(negative))
        if len(given) != count:
            raise UserError(f"{len(given)} negative prompts for {count} pieces")
        self._warn_of_unread([*dict.fromkeys(given)])
        return [*given]

    def _pieces(self, audio: Any, options: Options) -> "_Pieces":
        # an array of another shape than [T] is refused, not taken for several pieces
        alone = isinstance(audio, np.ndarray | Result)
        given = [audio] if alone else list(audio)
        if not given:
            raise UserError("there is no music")
        name = "the music" if alone else "piece {} of the music"
        checked, heard = [], controls_of(options.get("heard"), len(given))
        for index, piece in enumerate(given):
            if isinstance(piece, Result):
                heard[index] = heard[index] or piece.controls
                piece = piece.audio
            checked.append(check_audio(piece, self.bundle.geometry, name.format(index + 1)))
        return _Pieces(checked, heard, alone)

    def _warn_of_unread(self, prompts: Sequence[str]) -> None:
        unknown: dict[str, str] = {}
        for prompt in prompts:
            kept = self.loaded.tokenizer.kept(prompt, self.loaded.text_length)
            if kept is not None:
                warnings.warn(
                    f"a prompt is longer than the {self.loaded.text_length} tokens that the model reads; it reads up to "
                    f"{'...' + kept[-40:]!r}",
                    stacklevel=3,
                )
            for word in self.loaded.tokenizer.unknown(kept or prompt):
                unknown.setdefault(word, prompt)
        if unknown:
            first = next(iter(unknown.values()))
            warnings.warn(f"the model knows no word for {', '.join(unknown):.60}, as in {first!r:.60}", stacklevel=3)

    def _call(self, name: str, source: Any, negative: str | None) -> dict[str, Any]:
        call: dict[str, Any] = {"name": name, "bundle": self.bundle.ids}
        if isinstance(source, str):
            call["prompt"] = source
        elif source is not None:
            call["source"] = digest(source)
        if negative is not None:
            call["negative"] = negative
        return call


@dataclasses.dataclass(frozen=True)
class _Pieces:
    """Given music.

    Attributes:
      audio: of each piece.
      heard: what is known of its beat.
      alone: one piece was given, and no list.
    """

    audio: list[Audio]
    heard: list[Controls | None]
    alone: bool
