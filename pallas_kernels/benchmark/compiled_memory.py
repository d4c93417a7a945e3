"""Temporary memory of compiled attention, forward and backward, as T = S grows.

What is stored between the passes, and every T x S matrix, shows here; nothing runs.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from pallas_kernels.benchmark.contenders import implementation_function, with_gradients
from pallas_kernels.benchmark.visibility_cases import Heads
from pallas_kernels.routed_attention import routed_attention
from pallas_kernels.routed_attention.reference import visible_keys

LENGTHS = (512, 1024, 2048, 4096)


def memory_report(
    implementations: Mapping[str, str | Callable] | Sequence[str],
    heads: Heads,
    dtype: str,
    lengths: Sequence[int] = LENGTHS,
) -> list[dict[str, Any]]:
    """Compile each implementation and `jax.nn`'s attention with a stored mask ("xla").

    Returns:
      One flat record per length and contender: `temporary_bytes`, or the `reason` why
      it does not compile here.
    """
    if not isinstance(implementations, Mapping):
        implementations = {name: name for name in implementations}
    records = []
    for length in lengths:
        for name, attend in {"xla": None, **implementations}.items():
            record: dict[str, Any] = {"contender": name, "num_tokens": length}
            try:
                compiled = _compiled(attend, length, heads, dtype)
                analysis = compiled.memory_analysis()
                record |= {
                    "status": "measured",
                    "temporary_bytes": int(analysis.temp_size_in_bytes),
                }
            except Exception as failure:
                text = " ".join(str(failure).split())[:300]
                kind = "refused" if isinstance(failure, NotImplementedError) else ""
                record |= {"status": kind or "failed", "reason": text}
            records.append(record)
    return records


def memory_figures(records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Our bytes over XLA's, and how much the longest needs over half its length.

    Names read `memory.causal_4096.xla_chunked_over_xla` and
    `memory.xla_chunked.growth_2048_to_4096`.
    """
    size = {
        (record["contender"], record["num_tokens"]): record["temporary_bytes"]
        for record in records
        if record["status"] == "measured"
    }
    figures = {}
    for (name, length), temporary in size.items():
        if name != "xla" and ("xla", length) in size:
            figures[f"memory.causal_{length}.{name}_over_xla"] = (
                temporary / size["xla", length]
            )
        if size.get((name, length // 2)):
            figures[f"memory.{name}.growth_{length // 2}_to_{length}"] = (
                temporary / size[name, length // 2]
            )
    return figures


def _compiled(
    implementation: str | Callable | None, length: int, heads: Heads, dtype: str
) -> Any:
    def attend(q, k, v, *visibility):
        scale = heads.head_dim**-0.5
        if implementation is None:
            mask = visible_keys(*visibility)[:, None]
            return jax.nn.dot_product_attention(
                q, k, v, mask=mask, scale=scale, implementation="xla"
            )
        function = implementation
        if isinstance(function, str):
            function = implementation_function(function)
        return routed_attention(
            q, k, v, *visibility, scale=scale, implementation=function
        )

    def loss_and_gradients(*arguments):
        return with_gradients(attend, *arguments)

    query_shape = (1, length, heads.heads, heads.head_dim)
    key_shape = (1, length, heads.kv_heads, heads.head_dim)
    shapes = (query_shape, key_shape, key_shape, query_shape)
    arrays = [jax.ShapeDtypeStruct(shape, jnp.dtype(dtype)) for shape in shapes]
    arrays += [jax.ShapeDtypeStruct((1, length), jnp.int32)] * 3
    return jax.jit(loss_and_gradients).lower(*arrays).compile()
