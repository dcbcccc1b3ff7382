"""Music from a sentence, by the programs beside this file. Needs jax and numpy; `tokenizers` too, unless --ids says the sentence.

    python sample.py "a slow waltz for solo violin" --seed 1 --out waltz.wav

`sample` makes several pieces at once.
"""

import argparse
import functools
import json
import math
import pathlib
import wave
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.export
import numpy as np

HERE = pathlib.Path(__file__).resolve().parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sentence", nargs="?", help="what it should sound like")
    parser.add_argument("--seed", type=int, default=0, help="another one, another piece (0)")
    parser.add_argument(
        "--control", type=_pair, action="append", default=[], metavar="NAME=VALUE", help="see sampler.json"
    )
    parser.add_argument(
        "--ids", type=_numbers, metavar="N,N,...", help="instead of a sentence: its WordPiece ids, [CLS] and [SEP] too"
    )
    parser.add_argument("--out", default="music.wav", metavar="FILE", help="a 16-bit wav file (music.wav)")
    args = parser.parse_args()
    if (args.sentence is None) == (args.ids is None):
        raise SystemExit("error: give either a sentence or --ids")
    if not 0 <= args.seed < 2**32:
        raise SystemExit("error: a seed is a whole number of at least 0 and less than 2^32")
    ids = encode([args.sentence]) if args.ids is None else padded([args.ids])
    made = sample(ids, [args.seed], control_codes(dict(args.control))[None])
    write(args.out, made["audio"][0])
    print(args.out)


def sample(ids: np.ndarray, seeds: Sequence[int], controls: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """One piece for each row.

    Args:
      ids: [B, W] int32, from `encode`.
      seeds: B numbers of at least 0 and less than 2^32.
      controls: [B, controls] int32, from `control_codes`; None asks for nothing.

    Returns:
      codes [B, Q] of the sentences, semantic tokens [B, N R], latents [B, L, D], audio [B, T] from -1 to 1.
    """
    about = info()
    keys = np.array([[0, seed] for seed in seeds], np.uint32)  # jax.random.PRNGKey
    asked = []
    if about["controls"]:
        asked = [np.zeros((len(ids), len(about["controls"])), np.int32) if controls is None else controls]
    codes = program("codes")(ids)
    condition = program("condition")(codes, *asked)
    tokens = program("tokens")(condition, keys)
    latents = program("latents")(tokens, condition, keys)
    audio = np.asarray(program("audio")(latents))[:, : about["samples"]]
    audio = audio / np.maximum(np.abs(audio).max(axis=1, keepdims=True), 1.0)
    made = {"codes": codes, "tokens": tokens, "latents": latents, "audio": audio}
    return {name: np.asarray(array) for name, array in made.items()}


@functools.cache
def program(name: str) -> Callable[..., Any]:
    """An arrow, with its weights on this machine's accelerator; compiled once for every number of rows."""
    exported = jax.export.deserialize(bytearray((HERE / f"{name}.jax").read_bytes()))
    with np.load(HERE / f"{name}.npz") as file:
        weights = jax.device_put(dict(file))
    return functools.partial(jax.jit(exported.call), weights)


@functools.cache
def info() -> dict[str, Any]:
    """What sampler.json says."""
    return json.loads((HERE / "sampler.json").read_text(encoding="utf-8"))


def encode(sentences: Sequence[str]) -> np.ndarray:
    """WordPiece ids [B, W] of sentences."""
    try:
        import tokenizers
    except ImportError:
        raise SystemExit(
            "error: sentences need the package tokenizers (pip install tokenizers); or give --ids"
        ) from None
    tokenizer = tokenizers.Tokenizer.from_file(str(HERE / "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    tokenizer.enable_truncation(max_length=info()["text_length"])
    tokenizer.no_padding()
    return padded([encoding.ids for encoding in tokenizer.encode_batch(list(sentences))])


def padded(ids: Sequence[Sequence[int]]) -> np.ndarray:
    """Rows of ids as an array [B, W], filled up with 0."""
    length = info()["text_length"]
    if max(map(len, ids)) > length:
        raise SystemExit(f"error: at most {length} ids")
    return np.array([[*row, *[0] * (length - len(row))] for row in ids], np.int32)


def control_codes(asked: Mapping[str, str]) -> np.ndarray:
    """Codes [controls]: {"key": "D minor", "tempo": "96", "instrument_1": "violin", "instrument_2": "none"}."""
    table = info()["controls"]
    codes = np.zeros(len(table), np.int32)
    for name, value in asked.items():
        if name not in table:
            raise SystemExit(f"error: control {name!r}; there are {', '.join(table) or 'none'}")
        words = table[name]
        if value not in words and name == "tempo" and value.replace(".", "", 1).isdigit() and float(value) > 0:
            value = min(words, key=lambda word: abs(math.log(float(word) / float(value))))
        if value not in words:
            raise SystemExit(f"error: {name} {value!r}; possible are {', '.join(words)}")
        codes[list(table).index(name)] = words[value]
    return codes


def _pair(text: str) -> list[str]:
    if "=" not in text:
        raise argparse.ArgumentTypeError("a control is NAME=VALUE")
    return text.split("=", 1)


def _numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",")]


def write(path: str, audio: np.ndarray) -> None:
    """Mono samples [T] from -1 to 1 as a 16-bit wav file."""
    with wave.open(path, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(info()["sample_rate"])
        file.writeframes(np.clip(np.round(audio * 32768.0), -32768, 32767).astype("<i2").tobytes())


if __name__ == "__main__":
    main()
