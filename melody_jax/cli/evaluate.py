"""`melody evaluate`: every model of a bundle on held-out music, each figure beside its baseline."""

import argparse
import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from melody_jax.errors import UserError

if TYPE_CHECKING:
    from data_pipelines.clip import Clip
    from melody_jax.bundle.bundle import Bundle
    from melody_jax.evaluate.figures import Figure
    from melody_jax.generate.represent import Representations

EVAL_BATCH = 8
DIFFUSION_CLIPS = 64  # each is denoised at eight angles under three conditions
JUDGE_CLIPS = 2000  # real renders that the classifier of instrument families is fitted on
TIMBRE_BATCH = 32


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser("evaluate")
    parser.set_defaults(run=run)
    parser.add_argument("--bundle", required=True, metavar="DIR", help="what `melody export` wrote")
    parser.add_argument(
        "--data", required=True, metavar="NAME", help="name of the audio data set; its test split counts"
    )
    parser.add_argument("--data_dir", default="./data", metavar="DIR", help="where audio data sets lie")
    parser.add_argument("--out", required=True, metavar="DIR", help="report.md, report.json and, if need be, tokens")
    parser.add_argument("--model_dir", metavar="DIR", help="where the bundle was trained, to use its tokens again")
    parser.add_argument("--clips", type=int, default=200, help="held-out clips (default 200)")
    parser.add_argument("--prompts", type=int, default=60, help="held-out captions to make music for (default 60)")
    parser.add_argument("--seed", type=int, default=0, help="of the music (default 0)")


def run(args: argparse.Namespace) -> int:
    """Prints the table and writes it; exit code 1 where a figure is missed.

    Raises:
      UserError: no bundle, no data set, or too few held-out clips.
    """
    if args.clips < 2 * EVAL_BATCH or args.prompts < 0:
        raise UserError(f"--clips must be at least {2 * EVAL_BATCH} and --prompts at least 0")
    try:
        from data_pipelines import read
    except ImportError as error:
        raise UserError(f"melody evaluate needs the extra `data` (pip install 'melody_jax[data]'): {error}") from None
    from melody_jax.bundle.bundle import Bundle
    from melody_jax.evaluate.figures import table, write_report
    from melody_jax.generate.represent import Representations

    bundle = Bundle.load(args.bundle)
    audio = read.audio_directory(args.data_dir, args.data)
    held_out = list(read.read_clips(audio, "test", args.clips))
    if len(held_out) < 2 * EVAL_BATCH:
        raise UserError(f"{audio}: {len(held_out)} clips in the test split are too few to measure on")
    models = Representations(bundle.parts, bundle.tokenizer)
    figures = [*_representations(models, held_out), *_token_models(args, bundle, len(held_out))]
    facts: dict[str, Any] = {"data": read.metadata(audio)["id"][:12], "held-out clips": len(held_out)}
    if args.prompts and all(clip.truth for clip in held_out):
        made, shares = _text_to_music(args, held_out, audio)
        figures += made
        facts["asked family recognised"] = shares
    facts |= {name: {"parameters": part.parameters} | _training(part.training) for name, part in bundle.parts.items()}
    print(table(figures))
    write_report(Path(args.out), figures, facts)
    missed = [f"{figure.stage}: {figure.name}" for figure in figures if not figure.reached]
    if missed:
        print(f"missed: {'; '.join(missed)}")
    return 1 if missed else 0


def _representations(models: "Representations", clips: "list[Clip]") -> "list[Figure]":
    """Autoencoder and MuLan."""
    from melody_jax.evaluate import measures

    audio = np.stack([clip.audio for clip in clips])
    decoded = _batched(models.reconstruct, audio)
    music = _batched(models.embed_music, audio)
    text = models.embed_text([clip.captions[i % len(clip.captions)] for i, clip in enumerate(clips)])
    return [
        *measures.reconstruction(audio, decoded, models.geometry.sample_rate),
        *measures.text_to_music_retrieval(text, music),
    ]


def _token_models(args: argparse.Namespace, bundle: "Bundle", count: int) -> "list[Figure]":
    """Codes, language model and diffusion, on the tokenised data set."""
    from data_pipelines import tokens
    from melody_jax.evaluate import measures
    from melody_jax.operations.tokens import ensure

    folder = args.model_dir or args.out
    directory = ensure(bundle.parts, folder, args.data, args.data_dir, tokenizer=bundle.tokenizer)
    train, test = (_columns(tokens.read_tokens(directory, split)) for split in ("train", "test"))
    test = {name: column[:count] for name, column in test.items()}
    centres = bundle.geometry.semantic_codes
    figures = []
    if all(test["family"]) and all(train["family"]):
        figures += measures.codes(train["semantic"], train["family"], test["semantic"], test["family"], centres)
    some = {name: column[:DIFFUSION_CLIPS] for name, column in test.items()}
    lm, dpd = _means(_lm_stage(bundle), bundle, test), _means(_dpd_stage(bundle), bundle, some)
    perplexity, shuffled = float(np.exp(lm["loss"])), float(np.exp(lm["shuffled_loss"]))
    figures += measures.language_model(perplexity, shuffled, train["semantic"], test["semantic"], centres)
    figures += measures.diffusion(dpd["velocity_error"], dpd["shuffled_velocity_error"], dpd["wiener_error"])
    return figures


def _text_to_music(args: argparse.Namespace, held_out: "list[Clip]", audio: Path):
    """Music for held-out captions, judged by a classifier of real renders."""
    from data_pipelines import read
    from melody_jax.evaluate import measures
    from melody_jax.evaluate.families import timbre
    from melody_jax.generate import Melody

    prompts, asked = zip(*_prompts(held_out, args.prompts), strict=True)
    melody = Melody.load(args.bundle)
    seeds = list(range(args.seed, args.seed + len(prompts)))
    made = melody.generate(list(prompts), seed=seeds, progress=True)
    rate = melody.bundle.geometry.sample_rate
    return measures.prompt_adherence(
        *_timbres(read.read_clips(audio, "train", JUDGE_CLIPS), rate),
        *_timbres(held_out, rate),
        timbre(np.stack([piece.audio for piece in made]), rate),
        asked,
    )


def _timbres(clips: "Iterable[Clip]", sample_rate: int) -> tuple[np.ndarray, list[str]]:
    """Timbre and instrument family of clips, a batch at a time."""
    from melody_jax.evaluate.families import timbre

    rows, families = [], []
    clips = (clip for clip in clips if clip.truth)
    while batch := list(itertools.islice(clips, TIMBRE_BATCH)):
        rows.append(timbre(np.stack([clip.audio for clip in batch]), sample_rate))
        families += [clip.truth.family for clip in batch if clip.truth]
    return np.concatenate(rows), families


def _prompts(clips: "list[Clip]", count: int) -> list[tuple[str, str]]:
    """(caption, family of instruments) of held-out clips in which only one family plays, families in turn.

    Captions that name neither the family nor an instrument ask for nothing that could be recognised.
    """
    by_family: dict[str, list[tuple[str, str]]] = {}
    for index, clip in enumerate(clips):
        if clip.truth is None or len(clip.truth.families) != 1:
            continue
        names = [clip.truth.family, *clip.truth.instruments]
        naming = [text for text in clip.captions if any(name.lower() in text.lower() for name in names)]
        if naming:
            row = (naming[index % len(naming)], clip.truth.family)
            by_family.setdefault(clip.truth.family, []).append(row)
    turns = max((len(rows) for rows in by_family.values()), default=0)
    rows = [rows[turn] for turn in range(turns) for _, rows in sorted(by_family.items()) if turn < len(rows)]
    if len(rows) < count:
        raise UserError(f"only {len(rows)} held-out captions of one instrument family, {count} prompts were asked for")
    return rows[:count]


def _lm_stage(bundle: "Bundle"):
    from melody_jax.config import from_dict
    from melody_jax.lm.config import LMConfig
    from melody_jax.stages.lm import LMStage
    from melody_jax.train.optim import OptimConfig

    config = from_dict(LMConfig, bundle.parts["lm"].config)
    return LMStage(config, bundle.geometry, OptimConfig(), EVAL_BATCH)


def _dpd_stage(bundle: "Bundle"):
    from melody_jax.config import from_dict
    from melody_jax.dpd.config import DPDConfig
    from melody_jax.stages.dpd import DPDStage
    from melody_jax.train.optim import OptimConfig

    config = from_dict(DPDConfig, bundle.parts["dpd"].config)
    return DPDStage(config, bundle.geometry, OptimConfig(), EVAL_BATCH)


def _means(stage, bundle: "Bundle", columns: dict[str, Any]) -> dict[str, float]:
    """The stage's evaluation, averaged over whole batches of the held-out clips."""
    import jax
    import jax.numpy as jnp

    from melody_jax.train.state import TrainState

    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), dict(bundle.parts[stage.name].params))
    state = TrainState(jnp.int32(0), params, None, None, jax.random.PRNGKey(0), {}, {})
    evaluate = jax.jit(stage.eval_step)
    names = list(stage.batch_shapes())
    starts = range(0, len(columns["id"]) - EVAL_BATCH + 1, EVAL_BATCH)
    rows = [
        jax.device_get(evaluate(state, {name: jnp.asarray(columns[name][i : i + EVAL_BATCH]) for name in names}))
        for i in starts
    ]
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def _columns(examples) -> dict[str, Any]:
    rows = list(examples)
    arrays = {name: np.stack([row[name] for row in rows]) for name in ("mulan", "semantic", "latents")}
    arrays["text"] = np.stack([row["text"][0] for row in rows])  # of the first caption
    return {**arrays, "family": [row["family"] for row in rows], "id": [row["id"] for row in rows]}


def _batched(function, audio: np.ndarray) -> np.ndarray:
    """`function` over batches of one shape; the last one is filled up and cut."""
    padded = np.concatenate([audio, np.repeat(audio[-1:], -len(audio) % EVAL_BATCH, axis=0)])
    rows = [function(padded[i : i + EVAL_BATCH]) for i in range(0, len(padded), EVAL_BATCH)]
    return np.concatenate(rows)[: len(audio)]


def _training(training: dict[str, Any]) -> dict[str, Any]:
    return {name: training[name] for name in ("steps", "seconds", "batch_size", "data", "device") if name in training}
