"""What a layer keeps for its backward pass, and what it computes again."""

from collections.abc import Callable
from typing import Any

import jax

KEPT = "kernel"
"""Name of the results of kernels, of depthwise convolutions and of products with weights plus a bias: kept as products are."""

POLICIES: dict[str, Callable[..., Any] | None] = {
    "full": None,
    "dots": jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable, jax.checkpoint_policies.save_only_these_names(KEPT)
    ),
}
"""Setting `remat` of a configuration -> policy: "full" computes everything again, "dots" all but products with weights."""
