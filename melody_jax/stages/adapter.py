"""Training a low-rank adapter of a finished part: the part's weights stay, what is added to its kernels is learnt."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from melody_jax.bundle.adapter import DOWN, NAME, UP, AdapterConfig, float32, merged
from melody_jax.bundle.part import load_part, read_info
from melody_jax.geometry import Geometry
from melody_jax.stages.dpd import DPDStage
from melody_jax.stages.lm import LMStage
from melody_jax.train.optim import OptimConfig, apply_gradients, make_optimizer
from melody_jax.train.stage import HostBatch, Metrics, Stage
from melody_jax.train.state import TrainState


@dataclasses.dataclass(frozen=True)
class AdapterStage(Stage):
    """A stage of which only an adapter is trained (bundle/adapter.py). Loss, batches and evaluation are the stage's.

    What the part measured on its own data (the DPD's linear predictor) is kept with it.

    Attributes:
      config: rank and scale.
      geometry: the part's.
      optim: optimiser of the adapter.
      batch_size: rows per step, over all hosts.
      stage: how the part is trained.
      base: folder of the part.
    """

    config: AdapterConfig
    geometry: Geometry
    optim: OptimConfig
    batch_size: int
    stage: LMStage | DPDStage
    base: str

    part_name: ClassVar[str] = NAME

    @property
    def name(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The stage's: it reads the same data and has the same place in a model folder."""
        return self.stage.name

    @property
    def parents_dir(self) -> str:
        """Of the stage: what made its data."""
        return self.stage.parents_dir

    @property
    def row_seconds(self) -> float:
        """The stage's."""
        return self.stage.row_seconds

    @property
    def row_tokens(self) -> int:
        """The stage's."""
        return self.stage.row_tokens

    def batch_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """The stage's."""
        return self.stage.batch_shapes()

    def init(self, key: jax.Array) -> TrainState:
        """Adapters that change nothing yet: `down` random, `up` zero."""
        init_key, run_key = jax.random.split(key)
        boxed = jax.eval_shape(self.stage.init, key).params
        kernels, rank = _kernels(boxed, self.config.rank), self.config.rank
        pairs: dict[str, Any] = {}
        for index, (path, box) in enumerate(sorted(kernels.items())):
            *leading, width, height = box.value.shape
            deviation = width**-0.5
            down = deviation * jax.random.normal(jax.random.fold_in(init_key, index), (*leading, width, rank))
            pair = {
                DOWN: box.replace(value=down, names=(*box.names[:-1], None)),
                UP: box.replace(
                    value=jnp.zeros((*leading, rank, height)), names=(*box.names[:-2], None, box.names[-1])
                ),
            }
            _put(pairs, path, pair)
        return TrainState.create(run_key, pairs, make_optimizer(self.optim), ema=self.optim.ema_decay > 0)

    def load(self, state: TrainState) -> TrainState:
        """The part's weights, which every step reads.

        Raises:
          UserError: there is no such part.
        """
        return state.replace(frozen=float32(load_part(self.base).params))

    def train_step(self, state: TrainState, batch: Mapping[str, jax.Array]) -> tuple[TrainState, Metrics]:
        """One update of the adapter on the stage's loss."""

        def loss_of(adapter):
            return self.stage.loss(self._whole(state, adapter), batch, state.step_key)

        (loss, metrics), gradients = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        state, updates = apply_gradients(self.optim, state, gradients)
        return state, {"loss": loss, **metrics, **updates}

    def eval_step(self, state: TrainState, batch: Mapping[str, jax.Array]) -> Metrics:
        """What the stage measures of the part with its adapter."""
        weights = self._whole(state, state.averaged)
        return self.stage.eval_step(state.replace(params=weights, ema=None), batch)

    def finish(self, state: TrainState, batches: Iterator[HostBatch]) -> dict[str, Any]:
        """The averaged adapter."""
        return state.averaged

    def part(self) -> tuple[AdapterConfig, Geometry, dict[str, str]]:
        """Rank and scale, geometry and the id of the part."""
        return self.config, self.geometry, {self.name: read_info(self.base)["id"]}

    def _whole(self, state: TrainState, adapter: Any) -> dict[str, Any]:
        return merged(state.frozen, adapter, self.config.scale)


def _kernels(boxed: Mapping[str, Any], rank: int, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Path -> kernel [..., I, O], boxed, of all that are wider than `rank` in both directions."""
    found = {}
    for name, leaf in boxed.items():
        if isinstance(leaf, Mapping):
            found |= _kernels(leaf, rank, (*path, name))
        elif name == "kernel" and isinstance(leaf, nn.LogicallyPartitioned) and min(leaf.value.shape[-2:]) > rank:
            found[(*path, name)] = leaf
    return found


def _put(tree: dict[str, Any], path: tuple[str, ...], leaf: Any) -> None:
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
    tree[path[-1]] = leaf
