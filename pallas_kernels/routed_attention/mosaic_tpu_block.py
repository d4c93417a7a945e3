"""One block of scores on a TPU core: products, masks, and numbers across its lanes.

Vectors of a TPU have 128 lanes. Numbers per query lie in memory as a row, `[1, Q]`, and
meet blocks of scores `[Q, K]` as `[Q, 128]`, the same number in each lane: it is moved
between lanes once, and then repeated for wider blocks without moving anything.

Legend: Q queries and K keys of a block, L = 128 lanes, E head dimension.
"""

import jax
import jax.numpy as jnp

from pallas_kernels.routed_attention.mosaic_tpu_layout import LANES
from pallas_kernels.routed_attention.reference import INVISIBLE_SCORE


def product(a: jax.Array, b: jax.Array, *, contract: tuple[int, int]) -> jax.Array:
    """Multiply two matrices over one axis of each, in float32.

    16-bit numbers are multiplied exactly by the matrix unit; for float32 ones it takes
    several passes to be as exact.
    """
    is_float32 = a.dtype == jnp.float32
    return jax.lax.dot_general(
        a,
        b,
        (((contract[0],), (contract[1],)), ((), ())),
        precision=jax.lax.Precision.HIGHEST if is_float32 else None,
        preferred_element_type=jnp.float32,
    )


def spread(rows_NQ: jax.Array, *lanes_QL) -> None:
    """Write each row of `[N, Q]` to a scratch reference, equal in all lanes."""
    for n, reference in enumerate(lanes_QL):
        row_1Q = rows_NQ[n : n + 1]
        reference[...] = jnp.broadcast_to(row_1Q, (LANES, row_1Q.shape[1])).T


def widen(x_QL: jax.Array, width: int) -> jax.Array:
    """Repeat `[Q, L]`, equal in all lanes, to `[Q, width]`."""
    return jnp.tile(x_QL, (1, -(-width // LANES)))[:, :width]


def mask_scores(
    score: jax.Array, start: jax.Array, length: jax.Array, position: jax.Array
) -> jax.Array:
    """Replace the scores of keys outside a window; all arguments broadcast to `score`.

    A key before the window, and padding, at -1, is a huge distance from its start as an
    unsigned number: one comparison tests both ends, and for blocks with a mask it is
    the vector unit that limits the newer chips.
    """
    distance = (position - start).astype(jnp.uint32)
    return jnp.where(distance < length.astype(jnp.uint32), score, INVISIBLE_SCORE)
