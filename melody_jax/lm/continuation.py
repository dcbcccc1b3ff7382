"""Semantic codes from the language model: what follows a condition and the codes before."""

from typing import Any

import jax.numpy as jnp

from melody_jax.lm import decode
from melody_jax.lm.network import SemanticLM, empty_cache
from melody_jax.nn.measured import variables
from melody_jax.shapes import Array, Int, UInt32


def continue_codes(
    model: SemanticLM,
    params: Any,
    condition: Int[Array, "B prefix"],
    earlier: Int[Array, "B N"],
    length: int,
    keys: UInt32[Array, "B 2"],
    sampling: decode.Sampling,
    negative: Int[Array, "B prefix"] | None = None,
) -> Int[Array, "B length"]:
    """`length` semantic codes after the condition (`Vocabulary.condition`) and the earlier codes.

    Args:
      model: the network, without weights.
      params: its weights.
      condition: `Vocabulary.condition`.
      earlier: semantic codes that stand already, all levels of whole moments; [B, 0] for none.
      length: how many to draw.
      keys: one per row.
      sampling: how they are drawn; with guidance every step runs twice the rows.
      negative: the condition that guidance leads away from; no condition if None.
    """
    vocabulary = model.vocabulary
    earlier = vocabulary.semantic_ids(earlier).astype(condition.dtype)
    nothing = vocabulary.without_condition(condition) if negative is None else negative
    prompt, null_prompt = (jnp.concatenate([start, earlier], axis=1) for start in (condition, nothing))
    rows = prompt.shape[0] * (1 if sampling.guidance == 1 else 2)

    def step(tokens: Array, cache: decode.Cache) -> tuple[Array, decode.Cache]:
        return model.apply(variables(params), tokens, cache, method="extend")  # pyright: ignore[reportReturnType]

    ids = decode.generate(
        step,
        empty_cache(model.config, rows, prompt.shape[1] + length),
        prompt,
        length,
        keys,
        vocabulary.legal(),
        sampling,
        null_prompt,
    )
    return vocabulary.semantic_codes_of(ids)
