"""What attention's backward pass needs of its forward pass, under a name.

A layer that is computed again in the backward pass need not attend again: a remat
policy that saves this name keeps the result and the log-sum-exp, a few numbers per
query, and recomputes the projections around them.
"""

import jax
from jax.ad_checkpoint import checkpoint_name

ATTENTION_RESULT = "attention_result"
"""For `jax.checkpoint_policies.save_only_these_names`."""


def saved_results(
    out_BTHE: jax.Array, log_sum_exp: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Names a forward pass's results; each implementation calls it in its own.

    Args:
      out_BTHE: what attention returns.
      log_sum_exp: of the scores of each query, in the implementation's own layout.

    Returns:
      The same two arrays.
    """
    return checkpoint_name((out_BTHE, log_sum_exp), ATTENTION_RESULT)
