"""How parameters of ours are paired with tensors of Hugging Face's: rules, and what a model of theirs says of itself.

A rule pairs some of our parameters with the tensors that hold the same numbers, and knows both directions; transposing
is all that ever happens to a number, so a round trip changes no bit.
"""

import abc
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import jax
import numpy as np
from flax import linen as nn

from melody_jax.bundle.part import Part, flatten
from melody_jax.errors import UserError
from melody_jax.nn.measured import MEASURED, joined

Arrays = list[np.ndarray]
Config = Any  # a frozen config dataclass


class NoCounterpartError(UserError):
    """Our model has a feature that theirs lacks."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """A tensor of theirs as a parameter of ours, and back."""

    to_ours: Callable[[np.ndarray], np.ndarray]
    to_theirs: Callable[[np.ndarray], np.ndarray]


SAME = Layout(lambda x: x, lambda x: x)
DENSE = Layout(lambda x: x.T, lambda x: x.T)  # [out, in]
CONV = Layout(lambda x: x.transpose(2, 1, 0), lambda x: x.transpose(2, 1, 0))  # [out, in, taps]
TRANSPOSED = Layout(lambda x: x.transpose(2, 0, 1), lambda x: x.transpose(1, 2, 0))  # [in, out, taps]
ONE_CHANNEL = Layout(lambda x: x[:, 0].T, lambda x: x.T[:, None])  # [out, 1, taps]: depthwise, or of one input
POINTWISE = Layout(lambda x: x[..., 0].T, lambda x: x.T[..., None])  # [out, in, 1]
LAYOUT_OF = {"kernel": DENSE}  # by the last name of our parameter; SAME otherwise


@dataclasses.dataclass(frozen=True)
class Rule:
    """Parameters of ours ("/" between the names) and the tensors of theirs that hold the same numbers.

    Attributes:
      ours: our parameters.
      theirs: their tensors.
      to_ours: the parameters, from the tensors.
      to_theirs: the inverse.
      group: rules of a named group may be absent, all together.
    """

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    to_ours: Callable[[Arrays], Arrays]
    to_theirs: Callable[[Arrays], Arrays]
    group: str = ""


def one(ours: str, theirs: str, layout: Layout | None = None, group: str = "") -> Rule:
    """One parameter, one tensor."""
    layout = layout or LAYOUT_OF.get(ours.rpartition("/")[2], SAME)
    return Rule((ours,), (theirs,), lambda x: [layout.to_ours(x[0])], lambda x: [layout.to_theirs(x[0])], group)


def stacked(ours: str, theirs: str, layers: int, layout: Layout | None = None) -> Rule:
    """One parameter with a leading layer axis, a tensor for every layer ("{}" in its name)."""
    layout = layout or LAYOUT_OF.get(ours.rpartition("/")[2], SAME)
    return Rule(
        (ours,),
        tuple(theirs.format(layer) for layer in range(layers)),
        lambda x: [np.stack([layout.to_ours(tensor) for tensor in x])],
        lambda x: [layout.to_theirs(layer) for layer in x[0]],
    )


def linear(ours: str, theirs: str, layout: Layout | None = None, group: str = "") -> list[Rule]:
    """A linear map or convolution: kernel and bias."""
    return [
        one(f"{ours}/kernel", f"{theirs}.weight", layout, group),
        one(f"{ours}/bias", f"{theirs}.bias", group=group),
    ]


def norm(ours: str, theirs: str) -> list[Rule]:
    """A normalisation: scale and bias."""
    return [one(f"{ours}/scale", f"{theirs}.weight"), one(f"{ours}/bias", f"{theirs}.bias")]


class Counterpart(abc.ABC):
    """A model of Hugging Face's library and what it is here.

    Attributes:
      name: of `melody import hf --model`, and of the part that an import makes.
      model_types: what config.json may say; the first is written.
      stage: whose part holds such a model.
      place: the sub-tree of that part's parameters; "" for all of them.
      prefixes: in front of the tensors' names where the file was written by a model with a head.
      heads: how names begin that never have the prefix.
      unused: patterns of tensors that their model has and that change nothing in ours; kept for the way back.
      config: our config dataclass.
    """

    name: ClassVar[str]
    model_types: ClassVar[tuple[str, ...]]
    stage: ClassVar[str]
    place: ClassVar[str] = ""
    prefixes: ClassVar[tuple[str, ...]] = ()
    heads: ClassVar[tuple[str, ...]] = ()
    unused: ClassVar[tuple[str, ...]] = ()
    config: ClassVar[type]

    @abc.abstractmethod
    def read(self, json: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of our config that a config.json decides, as for `config.from_dict`.

        Raises:
          UserError: it describes something that our model is not.
        """

    @abc.abstractmethod
    def write(self, config: Config) -> dict[str, Any]:
        """The inverse of `read`.

        Raises:
          NoCounterpartError: our model is something that theirs is not.
        """

    @abc.abstractmethod
    def of_stage(self, part: Part) -> Config:
        """Our config, from the part of a stage.

        Raises:
          NoCounterpartError: there is no such model in it.
        """

    @abc.abstractmethod
    def rules(self, config: Config) -> list[Rule]:
        """The table."""

    @abc.abstractmethod
    def module(self, config: Config) -> tuple[nn.Module, tuple[Any, ...], str]:
        """Our module, inputs to initialise it with, and the method that knows all of its parameters."""

    def shapes(self, config: Config) -> dict[str, jax.ShapeDtypeStruct]:
        """Name -> shape of all our parameters."""
        module, inputs, method = self.module(config)
        variables = jax.eval_shape(lambda key: module.init(key, *inputs, method=method), jax.random.PRNGKey(0))
        made = nn.unbox(variables)
        return flatten(joined(made["params"], made.get(MEASURED, {})))


def abstract(rules: Sequence[Rule], shapes: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, tuple[int, ...]]:
    """Tensor -> shape that the rules expect, from the shapes of our parameters. Allocates nothing."""
    expected = {}
    for rule in rules:
        zeros = [np.broadcast_to(np.float32(0), shapes[name].shape) for name in rule.ours]
        expected |= {name: tensor.shape for name, tensor in zip(rule.theirs, rule.to_theirs(zeros), strict=True)}
    return expected


def require(model: str, name: str, value: Any, wanted: Any, unit: str = "") -> None:
    """Raises UserError where a field of their config.json has a value that our model cannot have."""
    if value != wanted:
        raise UserError(f"{model}: {name} is {value!r} {unit}".rstrip() + f"; only {wanted!r} is supported")
