"""A bundle's sampler as a folder that runs with jax and numpy alone, for pieces of one length, sampled in one way.

sampler.json               rates, lengths, settings, ids of the parts, codes of the controls
sample.py                  runs all of it (`sample_exported.py`)
tokenizer.json             of the sentences
NAME.jax, NAME.npz         a program for each arrow of `System`, as `jax.export` serialises it, and the weights it reads
MODEL_CARD.md              the bundle's
"""

import dataclasses
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from melody_jax.bundle.bundle import CARD_FILE, TOKENIZER_FILE
from melody_jax.bundle.part import flatten, unflatten
from melody_jax.codes import controls
from melody_jax.errors import UserError, exporting
from melody_jax.files import UNFINISHED, whole_folder
from melody_jax.generate import sample_exported
from melody_jax.generate.compose import Composer
from melody_jax.generate.pipeline import Melody
from melody_jax.generate.settings import Settings
from melody_jax.generate.windows import starts
from melody_jax.mulan import minilm
from melody_jax.parallel import rules
from melody_jax.parallel.mesh import make_mesh
from melody_jax.shapes import Array

INFO_FILE = "sampler.json"
FORMAT = 1
PLATFORMS = ("cpu", "cuda", "tpu")

Weights = Mapping[str, Any]
"""Arrays by part and path: "lm/embed/embedding"."""


class Arrows:
    """What becomes of sentences, in order: a pure function of weights and arrays for each arrow, any number of rows.

    Args:
      melody: its models; its weights are not looked at.
      settings: all that is fixed.
    """

    def __init__(self, melody: Melody, settings: Settings):
        composer = Composer(melody.loaded)
        self.system, self.geometry, self.settings = melody.loaded.system, melody.bundle.geometry, settings
        self.moments = self.geometry.tokens_in(settings.seconds)
        new, (size, overlap) = np.ones(self.moments, bool), composer.window(settings)
        self._places, self._window = starts(new, size, overlap), min(size, self.moments)
        self._stretches = list(composer.stretches(new, settings))

    def inputs(self) -> dict[str, tuple[tuple[str, ...], list[jax.ShapeDtypeStruct]]]:
        """Name of an arrow -> the parts that it runs, and what it takes beside weights."""
        (rows,) = jax.export.symbolic_shape("rows")
        g, vocabulary = self.geometry, self.system.vocabulary

        def array(*shape: int, dtype: Any = jnp.int32) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((rows, *shape), dtype)

        keys, mulan = array(2, dtype=jnp.uint32), array(g.mulan_tokens)
        asked = [array(len(vocabulary.controls))] if vocabulary.controls else []
        latents = array(self.moments * g.frames_per_token, g.latent_channels, dtype=jnp.float32)
        return {
            "codes": (("mulan", "codes"), [array(self.system.mulan.config.text_length)]),
            "condition": ((), [mulan, *asked]),
            "tokens": (("lm",), [array(vocabulary.prefix), keys]),
            "latents": (("dpd",), [array(self.moments * g.semantic_levels), array(vocabulary.prefix), keys]),
            "audio": (("autoencoder",), [latents]),
        }

    def codes(self, weights: Weights, text_tokens: Array) -> Array:
        """MuLan codes [B, Q] of WordPiece ids [B, W]."""
        return self.system.text_codes(self._kept(weights), text_tokens)

    def condition(self, weights: Weights, codes: Array, asked: Array | None = None) -> Array:
        """What the language model starts from [B, prefix]: MuLan codes and, where it knows some, controls [B, controls]."""
        del weights
        return self.system.condition(codes, asked, levels=self.settings.mulan_levels)

    def tokens(self, weights: Weights, condition: Array, keys: Array) -> Array:
        """Semantic tokens [B, N R], window after window; keys [B, 2] of the pieces."""
        lm, keys, levels = self._kept(weights)["lm"], self.system.fold_in(keys, 0), self.geometry.semantic_levels
        tokens = jnp.zeros((condition.shape[0], 0), jnp.int32)
        for index, stretch in enumerate(self._stretches):
            seen = stretch.begin - stretch.earlier
            fresh = self.system.write_tokens(
                lm,
                self.system.later(condition, seen),
                tokens[:, seen * levels :],
                self.system.fold_in(keys, index),
                length=stretch.length * levels,
                sampling=self.settings.sampling,
            )
            tokens = jnp.concatenate([tokens, fresh[:, : stretch.kept * levels].astype(tokens.dtype)], axis=1)
        return tokens

    def latents(self, weights: Weights, tokens: Array, condition: Array, keys: Array) -> Array:
        """Latents [B, L, D] of tokens and their condition, window after window, each of which keeps what the one before made."""
        dpd, keys, chosen, g = self._kept(weights)["dpd"], self.system.fold_in(keys, 1), self.settings, self.geometry
        frames, levels, size = g.frames_per_token, g.semantic_levels, self._window
        places = np.array(self._places, np.int32)
        ends = np.array([0, *places[:-1] + size], np.int32)  # of what stands when a window is made

        def window(latents: Array, which: tuple[Array, Array, Array]) -> tuple[Array, None]:
            index, start, end = which
            made = self.system.diffuse(
                dpd,
                jax.lax.dynamic_slice_in_dim(tokens, start * levels, size * levels, axis=1),
                self.system.fold_in(keys, index),
                jax.lax.dynamic_slice_in_dim(latents, start * frames, size * frames, axis=1),
                (start * frames + jnp.arange(size * frames, dtype=jnp.int32) < end * frames)[None],
                condition,
                steps=chosen.steps,
                schedule=chosen.schedule,
                scale=chosen.guidance,
                clip=chosen.clip_latents,
                noise=chosen.noise,
            )
            return jax.lax.dynamic_update_slice_in_dim(latents, made, start * frames, axis=1), None

        latents = jnp.zeros((tokens.shape[0], self.moments * frames, g.latent_channels), jnp.float32)
        inputs = np.arange(len(places), dtype=np.int32), places, ends
        return jax.lax.scan(window, latents, jax.tree.map(jnp.asarray, inputs))[0]

    def audio(self, weights: Weights, latents: Array) -> Array:
        """Waveforms [B, T] of latents [B, L, D]."""
        autoencoder, system, hop = self._kept(weights)["autoencoder"], self.system, self.geometry.hop
        if not system.decodes_magnitudes:
            return system.in_pieces(lambda z: system.decode(autoencoder, z), latents, hop)
        frames = system.autoencoder.config.magnitude.frames
        magnitudes = system.in_pieces(lambda z: system.decode_magnitudes(autoencoder, z), latents, frames)
        shape = latents.shape[0], latents.shape[1] * hop
        return system.find_phases(magnitudes, jnp.zeros(shape, jnp.float32), jnp.zeros(shape, bool))

    def _kept(self, weights: Weights) -> dict[str, Any]:
        """By part, in the dtypes that `Loaded` keeps them in."""
        return {name: self.system.kept(name, tree) for name, tree in unflatten(weights).items()}


def export_sampler(melody: Melody, out: str | os.PathLike, settings: Settings) -> pathlib.Path:
    """Writes the folder, whole or not at all; an older one there is replaced.

    What a program gives is what `Melody.generate` gives with the same settings, up to rounding: tokens, and sound before its
    loudness is set and its ends are faded. `candidates` and `loudness` do not count.

    Raises:
      UserError: `out` holds something else, or cannot be written.
      OSError: the disk is full or refuses; what stood in `out` stays.
    """
    out = pathlib.Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir()) and not _is_ours(out)):
        raise UserError(f"cannot export to {out}: it exists and is no exported sampler")
    arrows = Arrows(melody, settings)
    bundle = melody.bundle
    weights = flatten({name: part.params for name, part in bundle.parts.items()})
    weights |= flatten({"mulan": {"text": melody.loaded.weights["mulan"]["text"]}})  # which may be in no part
    with exporting(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        with whole_folder(out, INFO_FILE) as scratch:
            for name, (parts, inputs) in arrows.inputs().items():
                given = {path: leaf for path, leaf in weights.items() if path.split("/")[0] in parts}
                program, read = exported(getattr(arrows, name), given, inputs)
                (scratch / f"{name}.jax").write_bytes(program.serialize())
                arrays: dict[str, Any] = {path: _plain(leaf) for path, leaf in read.items()}
                np.savez(scratch / f"{name}.npz", **arrays)
            shutil.copyfile(sample_exported.__file__, scratch / "sample.py")
            tokenizer = bundle.tokenizer or minilm.directory() / TOKENIZER_FILE
            (scratch / TOKENIZER_FILE).write_bytes(tokenizer.read_bytes())
            (scratch / CARD_FILE).write_bytes((bundle.directory / CARD_FILE).read_bytes())
            (scratch / INFO_FILE).write_text(json.dumps(_info(melody, arrows), indent=1) + "\n")
    return out


def exported(
    arrow: Callable[..., Array], weights: Weights, inputs: list[jax.ShapeDtypeStruct]
) -> tuple[jax.export.Exported, Weights]:
    """A program for every platform, and those of the weights that it reads; it takes no others.

    It is traced as for one CPU: kernels of one platform would run on no other.
    """
    types = {path: jax.ShapeDtypeStruct(leaf.shape, _plain(leaf).dtype) for path, leaf in weights.items()}
    mesh = make_mesh("data=-1", jax.devices("cpu")[:1])

    def export(read: Weights, inputs: list[jax.ShapeDtypeStruct]) -> jax.export.Exported:
        def whole(read: Weights, *inputs: Array) -> Array:
            unread = {path: jnp.zeros(leaf.shape, leaf.dtype) for path, leaf in types.items() if path not in read}
            return arrow({**unread, **read}, *inputs)

        return jax.export.export(jax.jit(rules.on_mesh(whole, mesh)), platforms=PLATFORMS)(read, *inputs)

    # with a symbolic number of rows jax says of all arguments that they are read
    one = [jax.ShapeDtypeStruct((1, *array.shape[1:]), array.dtype) for array in inputs]
    kept = set(export(types, one).module_kept_var_idx)
    read = [path for index, path in enumerate(sorted(types)) if index in kept]
    return export({path: types[path] for path in read}, inputs), {path: weights[path] for path in read}


def _plain(leaf: Any) -> np.ndarray:
    """An array that NumPy's files can hold, which bfloat16 is not."""
    array = np.asarray(leaf)
    return array.astype(np.float32) if array.dtype == jnp.bfloat16 else array


def _info(melody: Melody, arrows: Arrows) -> dict[str, Any]:
    settings = dataclasses.replace(arrows.settings, candidates=1, loudness=None)
    return {
        "format": FORMAT,
        "sample_rate": melody.sample_rate,
        "samples": max(1, round(settings.seconds * melody.sample_rate)),
        "text_length": melody.loaded.text_length,
        "settings": dataclasses.asdict(settings),
        "controls": _controls() if arrows.system.vocabulary.controls else {},
        "bundle": melody.bundle.ids,
        "platforms": PLATFORMS,
        "jax": jax.__version__,
    }


def _controls() -> dict[str, dict[str, int]]:
    """Slot -> what may be asked for -> its code.

    A code that says nothing by itself is called by its number, or "none" where it is the only one: nobody further.
    """
    table: dict[str, dict[str, int]] = {}
    for place, (slot, size) in enumerate(zip(controls.SLOTS, controls.SIZES, strict=True)):
        words, silent = {}, []
        for code in range(1, size):
            codes = np.zeros(len(controls.SLOTS), np.int32)
            codes[place] = code
            known = [*controls.to_json(controls.decode(codes)).values()]
            if known:
                words[_word(known[0])] = code
            else:
                silent.append(code)
        table[slot] = words | ({"none": silent[0]} if len(silent) == 1 else {str(code): code for code in silent})
    return table


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _is_ours(folder: pathlib.Path) -> bool:
    return any((folder / name).is_file() for name in (INFO_FILE, UNFINISHED))
