"""How many tokens a routed layer keeps: a static number, so every shape is static."""

import math


def capacity(keep_ratio: float, num_tokens: int) -> int:
    """Tokens kept per row: ceil(keep_ratio * num_tokens), at least one.

    UniMoD's pruning ratio is 1 - keep_ratio (2502.06474, section 4.1). A ratio of 0
    keeps none: the task skips the layer.

    Raises:
      ValueError: if keep_ratio is not in [0, 1].
    """
    if not 0.0 <= keep_ratio <= 1.0:
        raise ValueError(
            f"keep_ratio is {keep_ratio}, but a routed layer keeps a share of its "
            f"tokens; choose a number in [0, 1], or leave the layer dense."
        )
    if keep_ratio == 0.0:
        return 0
    # The tolerance keeps 0.2 * 15 = 3.0000000000000004 at three tokens.
    return max(1, math.ceil(keep_ratio * num_tokens - 1e-9))
