"""What moving a router's kept tokens costs under XLA, and what a kernel could save.

A routed layer gathers the tokens it keeps, norms them, and adds its weighted delta back
to all tokens (UniMoD, arXiv 2502.06474, equation 4). Fusing gather and norm, or weight
and put-back, would save at most the difference to the same work on tokens that need no
moving, because they stand together already: the floor. Both are timed, and beside them
the feed-forward network of the kept tokens, to say whether the difference matters.

Legend: B rows, T tokens, C kept tokens, D width.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels.benchmark.timing import Budget, Run, seconds_in_turns
from pallas_kernels.inverse_gather import inverse_gather


class MovesCase(NamedTuple):
    """A routed layer's sizes; `num_kept` of `num_tokens` are processed per row."""

    name: str
    num_rows: int
    num_tokens: int
    num_kept: int
    width: int


# Show-o (1,408 tokens of width 2,048) at the middle and the end of its ramp, Emu3
# (4,300 of width 4,096) at its keep ratio.
CASES = (
    MovesCase("show_o.kept_60", 4, 1408, 845, 2048),
    MovesCase("show_o.kept_20", 4, 1408, 282, 2048),
    MovesCase("emu3.kept_20", 2, 4300, 860, 4096),
)


def moves_report(
    cases: Sequence[MovesCase],
    *,
    dtype: str,
    repeats: int,
    budget: Budget,
) -> list[dict[str, Any]]:
    """Time forward and backward of each operation, its floor, and the feed-forward.

    Returns:
      One flat record per case and program with `seconds`, the median of its samples.

    Raises:
      Exception: whatever a program raised; there is no result without all of them.
    """
    records = []
    for case in cases:
        if budget.is_spent:
            budget.dropped.append(case.name)
            continue
        runs = {
            name: Run(lambda step=step: step(), jax.block_until_ready)
            for name, step in _programs(case, dtype).items()
        }
        taken = seconds_in_turns(runs, repeats=repeats, budget=budget)
        for name, samples in taken.items():
            seconds = float(np.median(samples))
            records.append({**case._asdict(), "program": name, "seconds": seconds})
    return records


def moves_figures(records: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Ratios of each operation: to its floor, and of what it could save to a network.

    Names read `moves.emu3.kept_20.put_back.over_floor` and `...saving_over_network`.
    """
    seconds = {(r["name"], r["program"]): r["seconds"] for r in records}
    figures = {}
    for (case, program), moved in seconds.items():
        if (floor := seconds.get((case, f"{program}.floor"))) is None:
            continue
        name = f"moves.{case}.{program}"
        figures[f"{name}.over_floor"] = moved / floor
        network = seconds[case, "network"]
        figures[f"{name}.saving_over_network"] = (moved - floor) / network
    return figures


def _programs(case: MovesCase, dtype: str) -> dict[str, Callable[[], Any]]:
    keys = jax.random.split(jax.random.key(0), 6)
    B, T, C, D = case[1:]

    def normal(key: jax.Array, *shape: int) -> jax.Array:
        return jax.random.normal(key, shape, jnp.dtype(dtype))

    x_BTD, delta_BCD = normal(keys[0], B, T, D), normal(keys[1], B, C, D)
    weight_BC1 = normal(keys[2], B, C, 1)
    w_in, w_out = normal(keys[3], D, 4 * D), normal(keys[4], 4 * D, D)
    scores_BT = jax.random.uniform(keys[5], (B, T))
    index_BC = jnp.sort(jax.lax.top_k(scores_BT, C)[1], axis=1).astype(jnp.int32)
    kept = jnp.zeros((B, T), bool).at[jnp.arange(B)[:, None], index_BC].set(True)
    slot_BT = jnp.where(kept, jnp.cumsum(kept, axis=1, dtype=jnp.int32) - 1, C)
    operations = {
        "gather_norm": (lambda x: _norm(inverse_gather(x, index_BC, slot_BT)), x_BTD),
        "gather_norm.floor": (lambda x: _norm(x[:, :C]), x_BTD),
        "put_back": (
            lambda x, d, w: x + inverse_gather(d * w, slot_BT, index_BC),
            *(x_BTD, delta_BCD, weight_BC1),
        ),
        "put_back.floor": (
            lambda x, d, w: x + jnp.pad(d * w, ((0, 0), (0, T - C), (0, 0))),
            *(x_BTD, delta_BCD, weight_BC1),
        ),
        "network": (
            lambda x, w_in, w_out: jax.nn.gelu(x @ w_in) @ w_out,
            *(delta_BCD.reshape(B * C, D), w_in, w_out),
        ),
    }
    return {name: _step(*operation) for name, operation in operations.items()}


def _norm(x: jax.Array) -> jax.Array:
    x32 = x.astype(jnp.float32)
    variance = jnp.mean(x32 * x32, axis=-1, keepdims=True)
    return (x32 * jax.lax.rsqrt(variance + 1e-6)).astype(x.dtype)


def _step(function: Callable[..., jax.Array], *arguments: jax.Array):
    """Return a compiled call: the output, and every gradient for a given cotangent."""

    @jax.jit
    def step(cotangent: jax.Array, *arguments: jax.Array):
        out, pull_back = jax.vjp(function, *arguments)
        return out, pull_back(cotangent)

    like = jax.eval_shape(function, *arguments)
    cotangent = jax.random.normal(jax.random.key(1), like.shape, like.dtype)
    return lambda: step(cotangent, *arguments)
