"""Training the semantic language model: MuLan tokens of a clip or of its caption, then the clip's semantic tokens."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from melody_jax import storage
from melody_jax.bundle.part import read_info
from melody_jax.codes.forgetting import choose_codes, forget_condition
from melody_jax.codes.vocabulary import Vocabulary
from melody_jax.geometry import Geometry
from melody_jax.lm.config import LMConfig
from melody_jax.lm.decode import Sampling
from melody_jax.lm.loss import token_losses, weighted_mean
from melody_jax.lm.network import SemanticLM
from melody_jax.lm.redraw import redraw_ids
from melody_jax.shapes import Array, Int
from melody_jax.system import System
from melody_jax.train.optim import OptimConfig, apply_gradients, make_optimizer
from melody_jax.train.stage import HostBatch, Metrics, Stage
from melody_jax.train.state import TrainState


@dataclasses.dataclass(frozen=True)
class LMStage(Stage):
    """Next-token prediction on [bos, 12 MuLan tokens, semantic tokens], or a window of these (`LMConfig.window`).

    With `LMConfig.controls` the codes of the clip's controls stand between them, as far as they are known.

    Attributes:
      config: shape of the network.
      geometry: token counts and code counts.
      optim: optimiser.
      batch_size: clips per step, over all hosts.
      prefix_weight: weight of the loss on the MuLan tokens themselves; 0 models semantic tokens only.
      condition_dropout: probability that a clip's MuLan tokens are all replaced by `unknown`, and its controls by "not
        known": the unconditional model that classifier-free guidance needs.
      control_dropout: probability that a control is "not known", drawn for each clip and control; half of this again
        forgets all controls of a clip, for most sentences name none.
      level_dropout: probability that only the first q MuLan tokens of a clip are kept, q uniform in 1 .. Q-1. Text and
        music agree on the first, coarse levels of the residual VQ more than on the last ones.
      text_share: probability that a clip's MuLan tokens are its caption's, not its music's. The publication has 0, for its
        corpus has no captions. Where there are captions, the model can learn from what it will be sampled with: the two
        towers' codes agree in part only.
      opening_weight: additional weight of the loss on the first semantic token, which falls by e every
        `opening_tokens` tokens. Later tokens can be guessed from those before them; the first ones only from the MuLan
        tokens, and what a sampled piece begins with it goes on with.
      opening_tokens: see `opening_weight`.
      history_dropout: probability that a semantic token is hidden from the tokens after it ("word dropout": Bowman et al.,
        "Generating Sentences from a Continuous Space", 2016). What the hidden tokens would tell must then come from MuLan
        tokens and controls, and a wrong token misleads what follows it less.
      own_history: up to this share of a clip's semantic tokens, drawn for each clip, is replaced in the history by what the
        model itself draws in their places, as in sampling, where an error of its own is followed by more of them ("Parallel
        scheduled sampling": Duckworth et al., 2019).
      own_passes: how often they are drawn: once, after the true tokens; again, after those that were drawn before
        (`lm.redraw.redraw_ids`). Each costs another forward pass.
      parents_dir: folder with the part "codes" that made the tokens.
    """

    config: LMConfig
    geometry: Geometry
    optim: OptimConfig
    batch_size: int
    prefix_weight: float = 0.0
    condition_dropout: float = 0.1
    control_dropout: float = 0.3
    level_dropout: float = 0.0
    text_share: float = 0.0
    opening_weight: float = 0.0
    opening_tokens: float = 12.0
    history_dropout: float = 0.0
    own_history: float = 0.0
    own_passes: int = 1
    parents_dir: str = ""
    name: ClassVar[str] = "lm"
    starts: ClassVar[Mapping[str, str]] = {"lm": "", "llama": ""}
    unread: ClassVar[Mapping[str, str]] = {"beats": "clips that do not tell tempo and downbeat (docs/controls.md)"}

    @property
    def system(self) -> System:
        """The language model's part of it."""
        return System({"lm": self.config}, self.geometry)

    @property
    def vocabulary(self) -> Vocabulary:
        """Layout of the token ids."""
        return self.system.vocabulary

    @property
    def model(self) -> SemanticLM:
        """The network."""
        return self.system.lm

    @property
    def window(self) -> int:
        """Moments with semantic tokens in one sequence."""
        return self.system.window

    @property
    def width(self) -> int:
        """Semantic tokens in one sequence."""
        return self.window * self.geometry.semantic_levels

    @property
    def row_seconds(self) -> float:
        """Of a window."""
        return self.window / self.geometry.token_rate

    @property
    def row_tokens(self) -> int:
        """bos, MuLan tokens, controls and the semantic tokens of a window."""
        return self.vocabulary.prefix + self.width

    def init(self, key: jax.Array) -> TrainState:
        """Random parameters; no file is read."""
        init_key, run_key = jax.random.split(key)
        tokens = jnp.zeros((1, self.vocabulary.prefix + 1), jnp.int32)
        params = self.model.init(init_key, tokens)["params"]
        return TrainState.create(run_key, params, make_optimizer(self.optim), ema=self.optim.ema_decay > 0)

    def loss(self, params: Any, batch: Mapping[str, jax.Array], key: jax.Array) -> tuple[jax.Array, Metrics]:
        """(weighted cross entropy in nats, {"perplexity"} of the semantic tokens) of a training batch."""
        text_key, condition_key, dropout_key, window_key = jax.random.split(key, 4)
        history_key = jax.random.fold_in(key, 1)
        semantic, starts = self._draw_window(window_key, batch["semantic"])
        mulan = choose_codes(text_key, batch["mulan"], batch["text"], self.text_share)
        targets = self.vocabulary.sequence(mulan, semantic, controls=batch.get("controls"))
        targets = self.vocabulary.later(targets, starts)
        inputs = self._forgotten(condition_key, targets)
        inputs = self._own_history(jax.random.fold_in(key, 2), params, inputs)
        inputs = self._drop_history(history_key, inputs)
        logits = self.model.apply({"params": params}, inputs[:, :-1], train=True, rngs={"dropout": dropout_key})
        losses = token_losses(logits, targets[:, 1:])
        semantic = jnp.mean(losses[:, self.vocabulary.prefix - 1 :])
        return weighted_mean(losses, self._weights()), {"perplexity": jnp.exp(semantic)}

    def train_step(self, state: TrainState, batch: Mapping[str, jax.Array]) -> tuple[TrainState, Metrics]:
        """One update on the weighted cross entropy."""
        loss_of = jax.value_and_grad(self.loss, has_aux=True)
        (loss, metrics), gradients = loss_of(state.params, batch, state.step_key)
        state, updates = apply_gradients(self.optim, state, gradients)
        return state, {"loss": loss, **metrics, **updates}

    def eval_step(self, state: TrainState, batch: Mapping[str, jax.Array]) -> Metrics:
        """`metrics` of the averaged weights."""
        return self.metrics(state.weights, batch)

    def metrics(self, weights: Any, batch: Mapping[str, jax.Array]) -> Metrics:
        """Cross entropy (nats) and perplexity per semantic token: with the clip's own MuLan tokens and controls, with the
        MuLan tokens of its caption (`text_*`), with the condition of the next clip of the batch (`shuffled_*`), without any
        (`unconditional_*`)."""
        mulan, semantic, controls = batch["mulan"], batch["semantic"], batch.get("controls")
        next_clip = None if controls is None else jnp.roll(controls, 1, axis=0)
        conditions = {
            "": (mulan, controls, None),
            "text_": (batch["text"], controls, None),
            "shuffled_": (jnp.roll(mulan, 1, axis=0), next_clip, None),
            "unconditional_": (mulan, controls, jnp.zeros(mulan.shape[0], bool)),
        }
        metrics = {}
        for label, (codes, known, keep) in conditions.items():
            loss = jnp.mean(self.system.token_losses(weights, codes, semantic, keep, known))
            metrics |= {f"{label}loss": loss, f"{label}perplexity": jnp.exp(loss)}
        return metrics

    def batch_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """mulan [B, Q] of the music, text [B, Q] of one of its captions, semantic [B, N R] codes and, where the model has
        them, controls [B, controls], int32."""
        levels = self.geometry.mulan_tokens
        widths = {"mulan": levels, "text": levels, "semantic": self.geometry.clip_semantic}
        if self.config.controls:
            widths["controls"] = len(self.vocabulary.controls)
        return {name: jax.ShapeDtypeStruct((self.batch_size, width), jnp.int32) for name, width in widths.items()}

    def finish(self, state: TrainState, batches: Iterator[HostBatch]) -> dict[str, Any]:
        """The averaged parameters."""
        return state.averaged

    def part(self) -> tuple[LMConfig, Geometry, dict[str, str]]:
        """Config, geometry and the id of the codes it was trained on."""
        return self.config, self.geometry, {"codes": read_info(storage.path(self.parents_dir) / "codes")["id"]}

    def _draw_window(self, key: jax.Array, semantic: Int[Array, "B N"]) -> tuple[Int[Array, "B W"], Array | int]:
        """(a window of each clip, the moment that it begins with)."""
        if self.width == semantic.shape[1]:
            return semantic, 0
        levels = self.geometry.semantic_levels
        last = semantic.shape[1] // levels - self.window
        starts = jax.random.randint(key, (semantic.shape[0],), 0, last + 1)
        cut = jax.vmap(lambda row, start: jax.lax.dynamic_slice_in_dim(row, start, self.width))
        return cut(semantic, levels * starts), starts

    def _forgotten(self, key: jax.Array, tokens: Int[Array, "B W"]) -> Int[Array, "B W"]:
        dropouts = self.condition_dropout, self.level_dropout, self.control_dropout
        return forget_condition(self.vocabulary, key, tokens, *dropouts)

    def _drop_history(self, key: jax.Array, tokens: Int[Array, "B W"]) -> Int[Array, "B W"]:
        """Replaces some semantic tokens by `unknown`."""
        if not self.history_dropout:
            return tokens
        hidden = jax.random.uniform(key, tokens.shape) < self.history_dropout
        hidden &= jnp.arange(tokens.shape[1])[None, :] >= self.vocabulary.prefix
        return jnp.where(hidden, self.vocabulary.unknown, tokens)

    def _own_history(self, key: jax.Array, params: Any, tokens: Int[Array, "B W"]) -> Int[Array, "B W"]:
        """Replaces some semantic tokens by draws of the model; see `own_history`, `own_passes`."""
        if not self.own_history:
            return tokens
        draw_key, share_key, place_key = jax.random.split(key, 3)
        weights, clips = {"params": jax.lax.stop_gradient(params)}, tokens.shape[0]
        share = self.own_history * jax.random.uniform(share_key, (clips, 1))
        own = jax.random.uniform(place_key, (clips, self.width)) < share
        keys = jax.vmap(jax.random.fold_in, (None, 0))(draw_key, jnp.arange(clips))
        logits_of = functools.partial(self.model.apply, weights)
        return redraw_ids(logits_of, self.vocabulary, tokens, own, keys, Sampling(), self.own_passes)

    def _weights(self) -> Array:
        """Loss weight of each predicted position [1, W-1]: 1 for semantic tokens, or more for the first of them,
        `prefix_weight` for MuLan tokens and controls."""
        opening = self.opening_weight * np.exp(-np.arange(self.width) / self.opening_tokens)
        prefix = np.full(self.vocabulary.prefix - 1, self.prefix_weight)
        return jnp.asarray(np.concatenate([prefix, 1.0 + opening])[None], jnp.float32)
