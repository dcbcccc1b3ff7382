"""Parameters and FLOPs of the model of a stage, without a single weight."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from melody_jax.nn.measured import joined, variables
from melody_jax.operations import configuration
from melody_jax.watch import flops


def describe(name: str, size: str) -> dict[str, Any]:
    """{"parameters", "forward_flops", "training_flops", ...} of one model and one clip of the geometry's length.

    Raises:
      UserError: no such size.
    """
    stage = configuration.compose(configuration.gin_files(name, size, "cpu")).stage
    stage = _for_one_clip(flops.without_remat(stage))
    state = nn.unbox(jax.eval_shape(stage.init, jax.random.PRNGKey(0)))
    weights = joined(joined(state.params, state.frozen), state.measured)
    weights = weights[stage.averaged_part] if stage.averaged_part else weights
    what, forward, inputs = _forward(name, stage)
    row: dict[str, Any] = {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(weights)),
        "seconds": stage.geometry.clip_seconds,
        "forward": what,
        "forward_flops": flops.count(forward, weights, *inputs),
        "training_flops": flops.count(stage.train_step, state, stage.batch_shapes()),
    }
    if "discriminator" in state.params:
        row["discriminator_parameters"] = sum(leaf.size for leaf in jax.tree.leaves(state.params["discriminator"]))
    return row


def table(size: str, models: Mapping[str, Mapping[str, Any]]) -> str:
    """What `describe` says of the models of a size, as Markdown."""
    lines = [f"| {size} | parameters | forward | training step | one pass is |", "|---|---|---|---|---|"]
    for name, row in models.items():
        work = [f"{row[key] / 1e9:,.1f} GFLOPs" for key in ("forward_flops", "training_flops")]
        lines.append(f"| {name} | {row['parameters'] / 1e6:.2f} M | {' | '.join(work)} | {row['forward']} |")
    total = sum(row["parameters"] for row in models.values())
    return "\n".join([*lines, f"| together | {total / 1e6:.2f} M | | | |"])


def _for_one_clip(stage: Any) -> Any:
    """The stage with one whole clip a step."""
    whole = {
        "batch_size": 1,
        "segment_samples": stage.geometry.clip_samples,
        "adversarial_samples": 0,
        "clip_seconds": 0.0,
        "crop_seconds": 0.0,
    }
    names = {field.name for field in dataclasses.fields(stage)}
    return dataclasses.replace(stage, **{name: value for name, value in whole.items() if name in names})


def _forward(name: str, stage: Any) -> tuple[str, Any, tuple[Any, ...]]:
    """(what one pass is, the pass, its inputs after the parameters)."""
    geometry = stage.geometry
    ids = jax.ShapeDtypeStruct((1, geometry.clip_semantic), jnp.int32)
    audio = jax.ShapeDtypeStruct((1, geometry.clip_samples), jnp.float32)

    def apply(params: Any, *inputs: Any, **options: Any) -> Any:
        return stage.model.apply(variables(params), *inputs, **options)

    if name == "mulan":
        text = jax.ShapeDtypeStruct((1, stage.config.text_length), jnp.int32)
        return "music and caption to embeddings", apply, (audio, text)
    if name == "semantic":
        return "audio to features", lambda params, x: apply(params, x, method="hidden"), (audio,)
    if name == "lm":
        sequence = jax.ShapeDtypeStruct((1, stage.vocabulary.prefix + geometry.clip_semantic), jnp.int32)
        return "all tokens in parallel", apply, (sequence,)
    if name == "dpd":
        latents = jax.ShapeDtypeStruct((1, geometry.clip_frames, geometry.latent_channels), jnp.float32)
        angles = jax.ShapeDtypeStruct((1, geometry.clip_frames), jnp.float32)
        return "one velocity (a step without guidance)", apply, (latents, angles, ids)
    key = jax.ShapeDtypeStruct((2,), jnp.uint32)
    return "encoding and decoding", apply, (audio, key)
