"""Each model alone, on held-out clips: autoencoder, MuLan, codes, language model, diffusion.

Clips come from the caller, with `audio`, `captions` and `truth` (data_pipelines.clip.Clip).
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from melody_jax.dpd import loss as dpd_loss
from melody_jax.dpd import wiener
from melody_jax.evaluate import measures
from melody_jax.evaluate.columns import BATCH, Columns, batched
from melody_jax.evaluate.estimate import whole_mean
from melody_jax.evaluate.figures import Figure
from melody_jax.evaluate.players import Listener
from melody_jax.system import Loaded

DIFFUSION_CLIPS = 64  # each is denoised at eight angles under three conditions
DIFFUSION_SEED = 20230515  # the same noise in every evaluation, so that figures compare


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
    return figures + measures.diffusion(diffusion_errors(loaded, some))


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


def diffusion_batch(clips: int) -> int:
    """Clips of a batch: as many as give four batches, for what is said of a mean comes from the differences of its batches."""
    return max(1, min(BATCH, clips // 4))


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
    own = clips.semantic, np.asarray(loaded.condition(clips.mulan, 0, clips.controls))
    others = [np.roll(known, 1, axis=0) for known in own]
    size, weights = diffusion_batch(len(clean)), loaded.weights["dpd"]
    places = [slice(i, i + size) for i in range(0, len(clean) - size + 1, size)]
    return np.asarray(
        [errors(weights, clean[at], [known[at] for known in own], [known[at] for known in others]) for at in places]
    )
