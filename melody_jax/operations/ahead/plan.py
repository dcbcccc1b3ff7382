"""Programs that can be compiled ahead of time: the training step of every stage, and the three of sampling."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from melody_jax import graph
from melody_jax.lm.network import empty_cache
from melody_jax.nn.measured import joined, variables
from melody_jax.operations.ahead.program import bytes_per_chip
from melody_jax.parallel import rules
from melody_jax.parallel.batch import batch_sharding, check_batch_size
from melody_jax.parallel.init import abstract_state
from melody_jax.system import System
from melody_jax.train.stage import Stage
from melody_jax.train.steps import train_program
from melody_jax.watch import flops

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Plan:
    """A program and what it is called with, abstractly.

    Attributes:
      program: jitted, with shardings.
      arguments: ShapeDtypeStructs.
      model_flops: of all chips together, without recomputation and without the zero rows of padding.
      hardware_flops: the same with what the backward pass computes again.
      held: name -> bytes per chip of what lies in memory during the whole run.
    """

    program: Any
    arguments: tuple[Any, ...]
    model_flops: int
    hardware_flops: int
    held: dict[str, int]


def training(stage: Stage, mesh: Mesh, step: int | None = None) -> Plan:
    """The step that `melody train` runs after `step` steps (`Stage.phase`); None for the last step of the training.

    Raises:
      UserError: parameters or batch do not fit the mesh.
    """
    check_batch_size(stage.batch_size, mesh)
    state = abstract_state(stage.init, mesh)
    whole = NamedSharding(mesh, PartitionSpec())
    frozen = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole), state.frozen)
    state = state.replace(frozen=frozen)
    rows = batch_sharding(mesh)
    batch = {
        name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=rows) for name, leaf in stage.batch_shapes().items()
    }
    phase = stage if step is None else stage.phase(step)
    needed = flops.count(flops.without_remat(phase).train_step, state, batch)
    done = flops.count(phase.train_step, state, batch)
    held = {
        "parameters": bytes_per_chip((state.params, state.frozen)),
        "optimiser": bytes_per_chip((state.opt_state, state.ema)),
        "batch": bytes_per_chip(batch),
    }
    layout = jax.tree.map(lambda leaf: leaf.sharding, state)
    return Plan(train_program(phase, mesh, layout), (state, batch), needed, done, held)


def sampling(name: str, stages: Mapping[str, Stage], mesh: Mesh, rows: int, steps: int, guidance: float) -> Plan:
    """A program of `melody generate` for `rows` clips, with weights in the dtypes that `melody generate` uses.

    "lm-decode": one token of every clip, its cache as long as a clip; "dpd-sampler": all `steps` of a clip;
    "decoder": latents to waveforms. Guided programs run 2 x `rows`.

    Raises:
      UserError: parameters or rows do not fit the mesh.
    """
    check_batch_size(rows, mesh)
    stage = stages[graph.PROGRAMS[name]]
    system = System({key: one.config for key, one in stages.items()}, stage.geometry)
    params = _weights(stage, system, mesh)
    function, inputs, split = _sampling_program(name, system, mesh, rows, steps, guidance)
    layouts = [
        jax.tree.map(lambda axis: NamedSharding(mesh, _rows_at(axis)), axes, is_leaf=lambda axis: axis is None)
        for axes in split
    ]
    arguments = tuple(
        jax.tree.map(lambda leaf, layout: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=layout), *pair)
        for pair in zip(inputs, layouts, strict=True)
    )
    count = flops.count(function, params, *inputs)
    held = {"parameters": bytes_per_chip(params), "inputs": bytes_per_chip(arguments)}
    donated = (2,) if name == "lm-decode" else ()
    program = jax.jit(rules.on_mesh(function, mesh), donate_argnums=donated)
    return Plan(program, (params, *arguments), count, count, held)


def _sampling_program(
    name: str, system: System, mesh: Mesh, rows: int, steps: int, guidance: float
) -> tuple[Callable[..., Any], tuple[Any, ...], tuple[Any, ...]]:
    """(program, its inputs after the weights, where the rows are in each of their arrays)."""
    geometry, twice = system.geometry, rows * (1 if guidance == 1 else 2)
    tokens = jax.ShapeDtypeStruct((rows, geometry.clip_semantic), jnp.int32)
    latents = jax.ShapeDtypeStruct((rows, geometry.clip_frames, geometry.latent_channels), jnp.float32)
    if name == "decoder":
        return system.decode, (latents,), (0,)
    if name == "dpd-sampler":

        def diffuse(params: PyTree, tokens: Any, keys: Any, known: Any, mask: Any, condition: Any) -> Any:
            how = {"steps": steps, "schedule": "linear", "scale": guidance, "clip": 1.0}
            return system.diffuse(params, tokens, keys, known, mask, condition, **how)

        keys = jax.ShapeDtypeStruct((rows, 2), jnp.uint32)
        mask = jax.ShapeDtypeStruct((1, geometry.clip_frames), bool)
        condition = jax.ShapeDtypeStruct((rows, system.vocabulary.prefix), jnp.int32)
        return diffuse, (tokens, keys, latents, mask, condition), (0, 0, 0, None, 0)
    length = system.vocabulary.prefix + tokens.shape[1]
    cache = jax.eval_shape(rules.on_mesh(lambda: empty_cache(system.lm.config, twice, length), mesh))
    split = cache.replace(key=1, value=1, length=None, tokens=0)

    def extend(params: PyTree, tokens: Any, cache: Any) -> Any:
        return system.lm.apply(variables(params), tokens, cache, method="extend")

    return extend, (jax.ShapeDtypeStruct((twice, 1), jnp.int32), cache), (0, split)


def _weights(stage: Stage, system: System, mesh: Mesh) -> PyTree:
    """Abstract weights of the stage's finished part, laid out as in training."""
    state = abstract_state(stage.init, mesh)
    params = joined(state.params, state.measured)
    params = params[stage.averaged_part] if stage.averaged_part else params

    def kept(path: tuple[Any, ...], leaf: Any) -> Any:
        return jax.ShapeDtypeStruct(leaf.shape, system.kept_dtype(stage.name, path), sharding=leaf.sharding)

    return jax.tree_util.tree_map_with_path(kept, params)


def _rows_at(axis: int | None) -> PartitionSpec:
    return PartitionSpec() if axis is None else PartitionSpec(*[None] * axis, rules.RULES["batch"])
