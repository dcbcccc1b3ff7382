"""The state that a training step maps to the next one."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from melody_jax.nn.measured import joined

PyTree = Any
Leaf = Any  # an array, or in a tree of the same structure its abstract shape or its sharding


class TrainState(struct.PyTreeNode):
    """Everything that a step reads and writes. Checkpoints hold all of it but `frozen`.

    Attributes:
      step: int32 scalar, steps (micro-batches where gradients are accumulated) taken so far.
      params: the optimised parameters (a GAN keeps its two networks under two keys).
      opt_state: optax state of `params` (any pytree; a GAN keeps one per network).
      ema: exponential moving average of (part of) `params` in float32, or None.
      key: uint32 [2], the run's PRNG key, constant: step randomness is `fold_in(key, step)`, so that a resumed run
        draws what the uninterrupted one would have drawn.
      measured: values of the model that are measured, not learnt (`nn/measured.py`), {} if none.
      extra: anything else that steps remember, {} if nothing.
      frozen: weights of the parents that the step only reads, {} if none; reloaded from the parents at every start.
    """

    step: Leaf
    params: PyTree
    opt_state: PyTree
    ema: PyTree
    key: Leaf
    extra: PyTree
    frozen: PyTree
    measured: PyTree = struct.field(default_factory=dict)

    @classmethod
    def create(
        cls,
        key: jax.Array,
        params: PyTree,
        optimizer: optax.GradientTransformation,
        *,
        ema: bool = True,
        extra: PyTree | None = None,
        frozen: PyTree | None = None,
        measured: PyTree | None = None,
    ) -> "TrainState":
        """The state before step 0 of a stage with one optimizer. `params` may be boxed with logical axes."""
        return cls(
            step=jnp.zeros((), jnp.int32),
            params=params,
            opt_state=optimizer.init(params),
            ema=jax.tree.map(lambda p: p.astype(jnp.float32), params) if ema else None,
            key=key,
            extra={} if extra is None else extra,
            frozen={} if frozen is None else frozen,
            measured={} if measured is None else measured,
        )

    @property
    def averaged(self) -> PyTree:
        """What evaluation and the finished part use: the EMA where there is one, else the parameters."""
        return self.params if self.ema is None else self.ema

    @property
    def weights(self) -> PyTree:
        """The averaged parameters and the measured values in one tree, as a part holds them."""
        return joined(self.averaged, self.measured)

    @property
    def arrays(self) -> dict[str, jax.Array]:
        """Name -> array of all that is in a checkpoint, which is all but `frozen`."""
        leaves = jax.tree_util.tree_leaves_with_path(self.replace(frozen={}))
        return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}

    def with_arrays(self, arrays: Mapping[str, jax.Array]) -> "TrainState":
        """The same with other `arrays`."""
        structure = jax.tree.structure(self.replace(frozen={}))
        return jax.tree.unflatten(structure, [arrays[name] for name in self.arrays]).replace(frozen=self.frozen)

    @property
    def step_key(self) -> jax.Array:
        """The PRNG key of this step."""
        return jax.random.fold_in(self.key, self.step)
