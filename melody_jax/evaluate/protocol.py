"""What `melody evaluate` measures, in order: representations, models of tokens, notes at every link, text to music.

Clips come from the caller, with `audio`, `captions` and `truth` (data_pipelines.clip.Clip); tokens as columns.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from melody_jax.dpd import loss as dpd_loss
from melody_jax.dpd import wiener
from melody_jax.evaluate import distances, links, measures, memorisation, rates, spectra
from melody_jax.evaluate.estimate import Estimate, mean, whole_mean
from melody_jax.evaluate.families import FamilyJudge
from melody_jax.evaluate.figures import Figure
from melody_jax.evaluate.judge_models import JudgeModel
from melody_jax.evaluate.probe import MusicProbe
from melody_jax.evaluate.tables import Cell, Table
from melody_jax.evaluate.truth import Asked, Truth, choose_prompts
from melody_jax.geometry import Geometry
from melody_jax.system import Loaded

BATCH = 8
DIFFUSION_CLIPS = 64  # each is denoised at eight angles under three conditions
DIFFUSION_SEED = 20230515  # the same noise in every evaluation, so that figures compare
OWN = "diffusion, from the clip's own tokens"
BESIDE_OWN = {"originals": "original", "another clip": links.ANOTHER}
VARIED, SEEDS = 6, 4  # prompts of which several pieces are made, and how many of each
MCC = "MuLan cycle consistency (MCC)"
DISTANCES = {  # each with the least number of pieces that it takes
    "Fréchet distance to unseen music": (distances.frechet, 2),
    "kernel audio distance to unseen music": (distances.kernel_distance, 2),
    "MAUVE audio divergence from unseen music": (distances.mauve_divergence, distances.MAUVE_FEWEST),
}
TARGETS = {
    "family": ">= 0.65",
    "key": ">= 0.64",
    "tempo": ">= 0.61",
    "notes in the best scale": ">= 0.85",
    "median note (s)": "0.1 to 0.6",
    "silent for over 0.7 s": "0",
    "with a click": "0",
}


@runtime_checkable
class Player(Protocol):
    """What makes music; generate.Melody is one."""

    def perform(self, tokens: Any, mulan: Any, controls: Any, *, seed: int, progress: bool) -> np.ndarray:
        """Music [n, T] of semantic tokens [n, W], of clips with these MuLan codes [n, Q] and controls [n, controls] or None."""
        ...

    def decode(self, latents: Any) -> np.ndarray:
        """Waveforms [n, T] of latents [n, L, D]."""
        ...

    def generate(self, prompts: Any = None, **options: Any) -> Sequence[Any]:
        """A piece with `audio` [T], `tokens` [W] and `lufs` for each sentence, or for each clip given as `audio`."""
        ...


@runtime_checkable
class Listener(Protocol):
    """What represents music, as arrays; system.Loaded is one."""

    def reconstruct(self, audio: Any) -> Any:
        """Music [B, T] through the autoencoder and back."""
        ...

    def embed_music(self, audio: Any) -> Any:
        """MuLan embeddings [B, E] of music."""
        ...

    def embed_text(self, sentences: Any) -> Any:
        """MuLan embeddings [B, E] of sentences."""
        ...


@dataclasses.dataclass(frozen=True)
class Columns:
    """Tokens of the clips of one split, in the order of the clips: mulan and text [n, Q], semantic [n, W]; ids of the
    clips, their families ("" where unknown); latents [n, L, D] where they are needed; controls
    [n, controls] where they are stored."""

    ids: list[str]
    families: list[str]
    mulan: np.ndarray
    text: np.ndarray
    semantic: np.ndarray
    latents: np.ndarray | None = None
    controls: np.ndarray | None = None

    def take(self, rows: Sequence[int] | np.ndarray) -> "Columns":
        """Of some of the clips, in this order."""
        index = np.asarray(rows, int)
        some = {
            name: column[index]
            for name in ("mulan", "text", "semantic", "latents", "controls")
            if (column := getattr(self, name)) is not None
        }
        return Columns([self.ids[i] for i in index], [self.families[i] for i in index], **some)

    def of(self, ids: Sequence[str]) -> "Columns":
        """Of the clips with these ids."""
        place = {name: row for row, name in enumerate(self.ids)}
        return self.take([place[name] for name in ids])


def representations(models: Listener, clips: Sequence[Any], sample_rate: int) -> list[Figure]:
    """Autoencoder and MuLan."""
    audio = np.stack([clip.audio for clip in clips])
    music = batched(models.embed_music, audio)
    text = np.asarray(models.embed_text([clip.captions[i % len(clip.captions)] for i, clip in enumerate(clips)]))
    return [
        *measures.reconstruction(audio, batched(models.reconstruct, audio), sample_rate),
        *measures.text_to_music_retrieval(text, music),
    ]


def token_models(loaded: Loaded, train: Columns, held_out: Columns) -> list[Figure]:
    """Codes, language model and diffusion."""
    codes = loaded.geometry.semantic_size
    figures = []
    if all(train.families) and all(held_out.families):
        figures += measures.codes(train.semantic, train.families, held_out.semantic, held_out.families, codes)
    own, shuffled = (language_losses(loaded, held_out, by) for by in (0, 1))
    figures += measures.language_model(own, shuffled, train.semantic, held_out.semantic, codes)
    passage = held_out.semantic[:, : loaded.system.window // 2 * loaded.geometry.semantic_levels]
    figures.append(
        memory(functools.partial(jax.jit(loaded.system.sequence_losses), loaded.weights["lm"]), held_out.mulan, passage)
    )
    some = held_out.take(np.arange(min(DIFFUSION_CLIPS, len(held_out.ids))))
    return figures + measures.diffusion(diffusion_errors(loaded, some), len(some.ids))


def memory(losses: Callable[..., Any], mulan: np.ndarray, semantic: np.ndarray) -> Figure:
    """Whether the language model knows music again: its loss on tokens that repeat a passage, over that on the passage.

    1 for a model that looks at what is near alone; one that copies what it has heard (Olsson et al., "In-context Learning
    and Induction Heads", 2022) comes close to 0.

    Args:
      losses: (MuLan codes [B, Q], tokens [B, 2 N]) -> nats [B, 2 N] of every token.
      mulan: of the clips, [n, Q].
      semantic: the passages, [n, N], half as long as a sequence.
    """
    rows = batched(lambda codes, once: np.asarray(losses(codes, np.concatenate([once, once], axis=1))), mulan, semantic)
    new, known = (half.mean(axis=1) for half in np.split(rows, 2, axis=1))
    ratio, beside = whole_mean(known / new, new), f"{known.mean():.3f} / {new.mean():.3f} nats"
    return Figure("lm", "loss on what is repeated / on what is new", ratio.value, beside, 1.0, "<=", ratio.interval)


def language_losses(loaded: Loaded, clips: Columns, shift: int = 0) -> np.ndarray:
    """Nats per semantic token of each clip [n], given MuLan tokens and controls of the clip `shift` places before."""
    losses, weights = jax.jit(loaded.system.token_losses), loaded.weights["lm"]
    columns = [np.roll(clips.mulan, shift, axis=0), clips.semantic]
    if loaded.system.vocabulary.controls and clips.controls is not None:
        columns.append(np.roll(clips.controls, shift, axis=0))

    def loss(mulan: np.ndarray, semantic: np.ndarray, controls: np.ndarray | None = None) -> np.ndarray:
        return np.asarray(losses(weights, mulan, semantic, None, controls))

    return batched(loss, *columns)


def diffusion_errors(loaded: Loaded, clips: Columns) -> np.ndarray:
    """Velocity errors over a grid of angles, of every batch [batches, 3]: with the clips' own tokens and prompt, with another
    clip's, of the Wiener predictor."""
    grid = dpd_loss.angle_grid()

    @jax.jit
    def errors(weights, clean, own, others):
        def error(known):
            denoise = loaded.system.denoiser(weights, *known)
            return jnp.mean(dpd_loss.grid_errors(denoise, clean, jax.random.key(DIFFUSION_SEED), grid))

        linear = wiener.batch_error(clean, jnp.asarray(grid, jnp.float32))
        return jnp.stack([error(own), error(others), linear])

    if clips.latents is None:
        raise ValueError("diffusion_errors: the clips have no latents")
    clean = clips.latents.astype(np.float32) / loaded.system.dpd.config.data_std
    own = [clips.semantic]
    if loaded.system.dpd.config.prompt:
        own.append(np.asarray(loaded.condition(clips.mulan, 0, clips.controls)))
    others = [np.roll(known, 1, axis=0) for known in own]
    size, weights = min(BATCH, len(clean)), loaded.weights["dpd"]
    places = [slice(i, i + size) for i in range(0, len(clean) - size + 1, size)]
    return np.asarray(
        [errors(weights, clean[at], [known[at] for known in own], [known[at] for known in others]) for at in places]
    )


@dataclasses.dataclass(frozen=True)
class Real:
    """Real renders with truth: what judges are fitted on, and their tokens."""

    audio: np.ndarray
    truth: Truth
    tokens: Columns


def notes_at_every_link(
    geometry: Geometry,
    melody: Player,
    models: Listener,
    train: Real,
    clips: Sequence[Any],
    tokens: Columns,
    judges: links.Judges,
    seed: int = 0,
    progress: bool = True,
) -> tuple[Table, list[Figure]]:
    """The table of links on held-out clips whose notes are known, and the bound that training must reach.

    Args:
      geometry: of the tokens.
      melody, models: of the same weights.
      train: what probes are fitted on.
      clips: held-out ones, solos and others.
      tokens: of these clips, with latents.
      judges: fitted on `train`.
      seed: of diffusion and language model.
      progress: whether bars are shown.
    """
    audio, truth = np.stack([clip.audio for clip in clips]), Truth.of([clip.truth for clip in clips])
    if tokens.latents is None:
        raise ValueError("notes_at_every_link: the clips have no latents")
    own = melody.perform(tokens.semantic, tokens.mulan, tokens.controls, seed=seed, progress=progress)
    written = melody.generate(audio=list(audio), seed=seed, seconds=geometry.clip_seconds, progress=progress)
    levels, codes = geometry.semantic_levels, geometry.semantic_codes
    seen = links.Probed(links.by_level(train.tokens.semantic, levels, codes), train.truth, codes)
    unseen = links.Probed(links.by_level(tokens.semantic, levels, codes), truth, codes)
    bands = spectra.relative(spectra.bands(train.audio, judges.sample_rate))
    table = links.link_table(
        audio,
        {
            "autoencoder": batched(models.reconstruct, audio),
            "decoder that sampling uses": melody.decode(tokens.latents),
            OWN: own,
        },
        truth,
        judges,
        {"language model's own tokens": np.stack([piece.audio for piece in written])},
        links.probe_rows(seen, unseen, audio, bands, judges.sample_rate),
    )
    return table, [own_notes(table)]


def own_notes(table: Table) -> Figure:
    """The bound on the notes that the diffusion plays from a clip's own tokens."""
    name = "pitch class from own tokens, solos"
    own = table.rows[OWN].get(links.PITCH)
    if not isinstance(own, Estimate):
        return Figure.unmeasured("dpd", name, "it takes a held-out solo whose notes are known")
    cells = {words: table.rows.get(row, {}).get(links.PITCH) for words, row in BESIDE_OWN.items()}
    beside = ", ".join(f"{words} {cell.value:.3f}" for words, cell in cells.items() if isinstance(cell, Estimate))
    return Figure("dpd", name, own.value, beside, 0.6, ">=", own.interval)


@dataclasses.dataclass(frozen=True)
class Made:
    """Music for captions of held-out clips.

    Attributes:
      rows: of each piece the clip whose caption it was made for.
      sentences: the captions.
      pieces: as `Player.generate` gives them.
      again: of the first VARIED sentences, SEEDS - 1 more pieces each, sentence by sentence.
    """

    rows: list[int]
    sentences: list[str]
    pieces: Sequence[Any]
    again: Sequence[Any]


def make_music(
    geometry: Geometry,
    melody: Player,
    clips: Sequence[Any],
    known: bool,
    prompts: int,
    seed: int = 0,
    progress: bool = True,
) -> Made:
    """Music for captions of at most `prompts` held-out clips.

    Args:
      geometry: of the pieces, which are as long as a clip.
      melody: makes them.
      clips: held-out ones, with truth or without.
      known: whether captions are chosen by what is true of the clips.
      prompts: how many at most.
      seed: of the first piece; the others count on.
      progress: whether a bar is shown.
    """
    chosen = []
    if known:
        chosen = choose_prompts([clip.captions for clip in clips], [clip.truth for clip in clips], prompts)
    if not chosen:
        chosen = [(i, clip.captions[i % len(clip.captions)]) for i, clip in enumerate(clips[:prompts])]
    rows, sentences = [row for row, _ in chosen], [sentence for _, sentence in chosen]
    wanted = sentences + [sentence for sentence in sentences[:VARIED] for _ in range(SEEDS - 1)]
    seeds = [seed + i for i in range(len(wanted))]
    pieces = melody.generate(wanted, seed=seeds, seconds=geometry.clip_seconds, progress=progress)
    return Made(rows, sentences, pieces[: len(rows)], pieces[len(rows) :])


def text_to_music(
    geometry: Geometry,
    music: Made,
    models: Listener,
    clips: Sequence[Any],
    tokens: Columns,
    train_tokens: Columns,
    judge: FamilyJudge | None,
    probe: MusicProbe | None,
    listeners: Sequence[JudgeModel] = (),
) -> tuple[Table, list[Figure]]:
    """Music for captions of held-out clips, measured beside these clips themselves.

    Args:
      geometry: of the tokens.
      music: what was made.
      models: of the weights that made it.
      clips: held-out ones, with truth or without.
      tokens: of these clips.
      train_tokens: of the training clips, for shared runs.
      judge: of families, fitted on real renders; None without truth.
      probe: of tokens, fitted on the same; None without truth.
      listeners: by whose embeddings distances are measured too.
    """
    rows, sentences, pieces = music.rows, music.sentences, music.pieces
    known = judge is not None and all(clip.truth for clip in clips)
    made, real = np.stack([piece.audio for piece in pieces]), np.stack([clip.audio for clip in clips])
    levels, codes = geometry.semantic_levels, geometry.semantic_codes
    written = links.by_level(np.stack([piece.tokens for piece in pieces]), levels, codes)
    heard, truths = links.by_level(tokens.semantic, levels, codes), [clips[row].truth for row in rows]
    asked = Asked.by(sentences, truths) if known else None
    everything = Asked.all_of([clip.truth for clip in clips]) if known else None
    found: dict[str, Cell] = {**rates.rates(made, geometry.sample_rate, asked, judge, written, probe)}
    beside: dict[str, Cell] = {**rates.rates(real, geometry.sample_rate, everything, judge, heard, probe)}
    for cells, runs in ((found, written), (beside, heard)):
        cells |= _shared_runs(runs, links.by_level(train_tokens.semantic, levels, codes))
    embedded = batched(models.embed_music, made), batched(models.embed_music, real)
    spoken = np.asarray(models.embed_text(sentences))
    others = np.setdiff1d(np.arange(len(real)), rows)
    found[MCC] = distances.cycle_consistency(spoken, embedded[0])
    beside[MCC] = distances.cycle_consistency(spoken, embedded[1][rows])
    different, again = "MuLan distance between prompts", np.stack([piece.audio for piece in music.again])
    found["MuLan distance between seeds of one prompt"] = _between_seeds(
        embedded[0], batched(models.embed_music, again)
    )
    found[different], beside[different] = (mean(distances.apart(x)) for x in (embedded[0], embedded[1][rows]))
    sampled = [piece.lufs[0] for piece in pieces if piece.lufs is not None]
    if sampled:
        found["loudness as sampled (LUFS)"] = mean(np.array(sampled))
    heard_by = {"": embedded}
    for one in listeners:
        heard_by[f", heard by {one.name}"] = (
            one.embed(made, geometry.sample_rate),
            one.embed(real, geometry.sample_rate),
        )
    for by, (own, unseen) in heard_by.items():
        found |= _distances(own, unseen, by)
        beside |= _distances(unseen[rows], unseen[others], by)
    table = rates.table(found, beside, len(rows), TARGETS if known else None)
    family, ceiling, name = found.get("family"), beside.get("family"), "asked family recognised"
    if asked is None or not isinstance(family, Estimate) or not isinstance(ceiling, Estimate):
        return table, []
    kinds = {kind for kind in asked.families if kind}
    if len(kinds) < 2:
        lacks = "it takes held-out captions that name instruments of two families"
        return table, [Figure.unmeasured("text-to-music", name, lacks)]
    chance = 1 / len(kinds)
    words = f"chance {chance:.3f}, real renders {ceiling.value:.3f}"
    name, bound = f"{name}, {len(rows)} prompts", measures.above_chance(chance, 2)
    return table, [Figure("text-to-music", name, family.value, words, bound, ">=", family.interval)]


def _between_seeds(first: np.ndarray, again: np.ndarray) -> Estimate:
    """Of pieces of one prompt, by the embeddings of the first ones [n, E] and of `Made.again`; a value for each prompt."""
    again = again.reshape(-1, SEEDS - 1, again.shape[-1])
    groups = np.concatenate([first[: len(again), None], again], axis=1)
    return mean(np.array([distances.apart(group).mean() for group in groups]))


def _shared_runs(clips: np.ndarray, train: np.ndarray) -> dict[str, Cell]:
    """Longest runs of first-level tokens that training clips hold too."""
    length, _ = memorisation.longest_shared(clips[..., 0], train[..., 0])
    return {
        "longest run shared with training, median (tokens)": float(np.median(length)),
        "longest run shared with training, largest (tokens)": float(length.max()),
    }


def _distances(music: np.ndarray, real: np.ndarray, by: str) -> dict[str, Cell]:
    """How far the music lies from real music, or how many pieces it takes to say; `by` says whose embeddings these are, where
    they are not MuLan's."""
    fewer = min(len(music), len(real))
    return {
        f"{name}{by}": distance(music, real) if fewer >= fewest else f"it takes {fewest} pieces"
        for name, (distance, fewest) in DISTANCES.items()
    }


def batched(function: Callable[..., Any], *columns: np.ndarray) -> np.ndarray:
    """`function` over batches of one shape; the last one is filled up and cut."""
    count = len(columns[0])
    index = np.minimum(np.arange(count + -count % BATCH), count - 1)
    starts = range(0, len(index), BATCH)
    rows = [function(*(column[index[i : i + BATCH]] for column in columns)) for i in starts]
    return np.concatenate(rows)[:count]


def balanced(truths: Sequence[Any], count: int) -> list[int]:
    """At most `count` clips whose notes are known, solos and others in turn."""
    known = [i for i, truth in enumerate(truths) if truth is not None and truth.notes]
    kinds: Mapping[bool, list[int]] = {
        solo: [i for i in known if (truths[i].texture == "solo") is solo] for solo in (True, False)
    }
    turns = max(map(len, kinds.values()))
    rows = [rows[turn] for turn in range(turns) for rows in kinds.values() if turn < len(rows)]
    return sorted(rows[:count])
