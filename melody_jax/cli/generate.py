"""`melody generate`: sentences to music."""

import argparse
import dataclasses
import pathlib
import re

from melody_jax.errors import UserError

REPOSITORY_BUNDLE = pathlib.Path(__file__).parents[2] / "bundles" / "tiny"


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser("generate")
    parser.set_defaults(run=run)
    parser.add_argument("prompts", nargs="*", metavar="PROMPT", help="sentences, one piece of music each")
    parser.add_argument("--prompts", dest="file", metavar="FILE", help="a text file with one prompt a line")
    parser.add_argument("--music", nargs="+", metavar="FILE", help="instead of sentences: sound files to resemble")
    parser.add_argument("--bundle", metavar="DIR", help="exported models (default: bundles/tiny of this repository)")
    parser.add_argument(
        "--out",
        default="music",
        metavar="PATH",
        help="X.wav (X-0.wav, X-1.wav, ... for several prompts) or a folder (default: music); a picture (.png) and the "
        "settings (.json) are written beside each wav",
    )
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same file (default 0)")
    parser.add_argument("--batch_size", type=int, default=16, help="prompts worked on at once (default 16)")
    sampling = parser.add_argument_group("sampling (defaults: the bundle's, else as given)")
    sampling.add_argument("--seconds", type=float, help="length of the music (10)")
    sampling.add_argument("--steps", type=int, help="diffusion steps (20)")
    sampling.add_argument("--guidance", type=float, help="guidance of the diffusion, 1 for none (2.5)")
    sampling.add_argument("--schedule", help="diffusion step sizes: linear or uniform (linear)")
    sampling.add_argument("--lm_guidance", type=float, help="guidance of the language model, 1 for none (1)")
    sampling.add_argument("--temperature", type=float, help="of the language model, 0 for the most likely tokens (1)")
    sampling.add_argument("--top_k", type=int, help="draw from the k most likely tokens, 0 for all (0)")
    sampling.add_argument("--top_p", type=float, help="draw from the most likely tokens of this total probability (1)")
    sampling.add_argument("--mulan_levels", type=int, help="MuLan tokens that count, coarse to fine, 0 for all (0)")
    sampling.add_argument("--clip_latents", type=float, help="bound of predicted latents, 0 for none (1)")
    sampling.add_argument("--noise", type=float, help="deviation of the noise at the start, from 0 to 1 (1)")
    sampling.add_argument("--griffin_lim", type=int, help="iterations that find phases, 0 for the decoder's (0)")
    sampling.add_argument("--candidates", type=int, help="pieces per prompt; the one MuLan hears nearest is kept (1)")
    sampling.add_argument("--window_seconds", type=float, help="length diffused at once, 0 for the training clip (0)")


def run(args: argparse.Namespace) -> None:
    """Makes the music and says where it is.

    Raises:
      UserError: a bad argument; found before the models are loaded wherever possible.
    """
    from melody_jax.generate.settings import Settings

    chosen = {
        field.name: getattr(args, field.name)
        for field in dataclasses.fields(Settings)
        if getattr(args, field.name) is not None
    }
    Settings(**chosen)
    if not 0 <= args.seed < 2**32:
        raise UserError(f"--seed must be a whole number of at least 0 and less than 2^32, got {args.seed}")
    if args.batch_size < 1:
        raise UserError(f"--batch_size must be at least 1, got {args.batch_size}")
    prompts = _prompts(args)
    titles = [pathlib.Path(path).stem for path in args.music] if args.music else prompts
    outputs = _outputs(pathlib.Path(args.out), titles)
    bundle = _bundle(args.bundle)

    from melody_jax.generate import Melody
    from melody_jax.generate.writer import write_result

    melody = Melody.load(bundle)
    if args.music:
        from melody_jax.generate.reader import read_music

        source = {"audio": [read_music(path, melody.bundle.geometry.sample_rate) for path in args.music]}
    else:
        source = {"prompts": prompts}
    results = melody.generate(**source, seed=args.seed, batch_size=args.batch_size, progress=True, **chosen)
    for result, wav in zip(results, outputs, strict=True):
        try:
            write_result(result, wav, melody.bundle)
        except OSError as error:
            raise UserError(f"cannot write {wav}: {error}") from None
        print(f"{wav}  {result.prompt}".rstrip())


def _prompts(args: argparse.Namespace) -> list[str]:
    given = [bool(args.prompts), args.file is not None, bool(args.music)]
    if sum(given) > 1:
        raise UserError("give prompts, or --prompts FILE, or --music FILE, not several of them")
    if args.music:
        return []
    if args.file is None:
        if not args.prompts:
            raise UserError('there is no prompt; try: melody generate "a slow waltz for solo violin" --out x.wav')
        if any(not prompt.strip() for prompt in args.prompts):
            raise UserError("a prompt is empty")
        return args.prompts
    try:
        text = pathlib.Path(args.file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the prompts in {args.file}: {error}") from None
    prompts = [line.strip() for line in text.splitlines() if line.strip()]
    if not prompts:
        raise UserError(f"{args.file} holds no prompt: it wants one a line")
    return prompts


def _outputs(out: pathlib.Path, titles: list[str]) -> list[pathlib.Path]:
    """One wav path per prompt, in a folder that exists and can be written."""
    if out.suffix.lower() == ".wav":
        folder = out.parent
        several = [out.with_name(f"{out.stem}-{i}{out.suffix}") for i in range(len(titles))]
        paths = [out] if len(titles) == 1 else several
    elif out.suffix:
        raise UserError(f"--out {out}: music is written as .wav; give a name that ends in .wav, or a folder")
    else:
        folder = out
        width = len(str(len(titles) - 1))
        paths = [folder / f"{i:0{width}d}-{_slug(title)}.wav" for i, title in enumerate(titles)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in paths:
            fresh = not path.exists()
            path.open("ab").close()
            if fresh:
                path.unlink()
    except OSError as error:
        raise UserError(f"cannot write to {out}: {error.strerror or error}") from None
    return paths


def _slug(title: str) -> str:
    words = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
    return words[:60].rstrip("-") or "music"


def _bundle(directory: str | None) -> pathlib.Path:
    if directory is not None:
        return pathlib.Path(directory)
    if not REPOSITORY_BUNDLE.is_dir():
        raise UserError(f"there is no bundle at {REPOSITORY_BUNDLE}; name one with --bundle DIR")
    return REPOSITORY_BUNDLE
