"""A step's rows in parts, one after the other: a large batch in little memory.

The gradient of a mean over all rows is the mean of the gradients of its parts, so the
step is the same and only the parts' activations are stored at once. What differs: each
part's loss is the mean over its own targets, so that parts weigh alike even if one has
fewer; routers' thresholds follow the data part by part; and every part draws its own
dropout.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

type OfRows[Rows, Carry] = Callable[[Carry, Rows, jax.Array], tuple[Any, Any, Carry]]
"""(carry, rows, which part) -> (gradient, metrics, carry)."""


def check_parts(rows: dict[str, int], parts: int, shards: int = 1) -> None:
    """Refuses rows that do not divide into equal parts.

    Args:
      rows: task -> rows of a step.
      parts: of each task's rows.
      shards: devices that the rows of a part are cut over.

    Raises:
      ValueError: for a task whose rows do not divide, saying which.
    """
    for task, count in rows.items():
        if count % (parts * shards):
            over = f" over {shards} devices" if shards > 1 else ""
            how = f"in {parts} equal parts" if parts > 1 else "evenly"
            raise ValueError(
                f"{count} rows of {task} a step cannot be taken {how}{over}; change "
                "training.accumulation_steps, data.batch_size or mesh."
            )


def in_parts(rows: Any, parts: int) -> Any:
    """Arrays [B, ...] as [parts, B / parts, ...], every part on all devices.

    Part p has the rows p, p + parts, p + 2 parts, ... A device holds consecutive rows,
    so each part has equally many of every device's, and no row moves.

    Args:
      rows: tree of arrays whose leading axis is rows.
      parts: how many; divides every B.
    """

    def split(array: jax.Array) -> jax.Array:
        grouped = array.reshape(array.shape[0] // parts, parts, *array.shape[1:])
        return jnp.swapaxes(grouped, 0, 1)

    return jax.tree.map(split, rows)


def accumulated[Rows, Carry](
    of_rows: OfRows[Rows, Carry], params: Any, carry: Carry, rows: Rows, parts: int
) -> tuple[Any, Any, Carry]:
    """Gradient and metrics of all rows, in so many parts.

    Args:
      of_rows: gradient and metrics of a part; the carry is threaded through the parts.
      params: what the gradient is like; it adds up in these dtypes.
      carry: before the first part.
      rows: tree of arrays [B, ...].
      parts: how many; 1 takes all rows at once.

    Returns:
      (mean gradient, mean metrics, carry after the last part).
    """
    if parts == 1:
        return of_rows(carry, rows, jnp.int32(0))

    def body(carried: tuple, part: tuple) -> tuple[tuple, Any]:
        total, carry = carried
        gradient, metrics, carry = of_rows(carry, *part)
        return (jax.tree.map(jnp.add, total, gradient), carry), metrics

    nothing = jax.tree.map(jnp.zeros_like, params)
    split = (in_parts(rows, parts), jnp.arange(parts, dtype=jnp.int32))
    (total, carry), metrics = jax.lax.scan(body, (nothing, carry), split)
    gradient = jax.tree.map(lambda x: x / parts, total)
    return gradient, jax.tree.map(lambda x: jnp.mean(x, axis=0), metrics), carry
