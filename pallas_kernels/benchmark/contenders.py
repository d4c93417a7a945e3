"""Who competes: our implementations, and what a user would otherwise call.

A contender takes a problem and returns its two passes as runs. It refuses a problem
with NotImplementedError and one sentence, like an implementation; whatever else it
raises is recorded as its failure.
"""

import functools
import importlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels.benchmark.timing import Run
from pallas_kernels.benchmark.visibility_cases import Heads, VisibilityCase
from pallas_kernels.device import current_device
from pallas_kernels.routed_attention import routed_attention
from pallas_kernels.routed_attention.reference import reference, visible_keys

FORWARD, FORWARD_BACKWARD = "forward", "forward_backward"
PASSES = (FORWARD, FORWARD_BACKWARD)
RESULTS = ("out", "dq", "dk", "dv")


class Problem(NamedTuple):
    """A case with numbers: q, k, v and the cotangent of the output, on the device.

    `sees_BT` tells which queries see a key; the cotangent of the others is zero,
    because libraries disagree on their outputs.
    """

    case: VisibilityCase
    q_BTHE: jax.Array
    k_BSGE: jax.Array
    v_BSGE: jax.Array
    dout_BTHE: jax.Array
    visibility: tuple[jax.Array, ...]
    sees_BT: jax.Array

    @property
    def scale(self) -> float:
        """Of the scores."""
        return self.q_BTHE.shape[-1] ** -0.5


class Prepared(NamedTuple):
    """The passes of a contender, and how to read what they return.

    `passes` maps "forward" and "forward_backward" to runs, whose results `read` turns
    into out, or out, dq, dk and dv, in the shapes of the problem.
    """

    passes: dict[str, Run]
    read: Callable[[Any], tuple[Any, ...]]


Contender = Callable[[Problem], Prepared]


def make_problem(case: VisibilityCase, dtype: str) -> Problem:
    """Draw normal numbers on the device."""
    sees_BT = jnp.asarray(
        np.stack([case.visible_TS(row).any(axis=1) for row in range(case.num_rows)])
    )
    q, k, v, dout = _draw(sees_BT, case.num_keys, case.heads, dtype)
    visibility = tuple(jnp.asarray(x) for x in case.visibility)
    return Problem(case, q, k, v, dout, visibility, sees_BT)


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _draw(sees_BT: jax.Array, num_keys: int, heads: Heads, dtype: str) -> list:
    rows, num_queries = sees_BT.shape
    query_shape = (rows, num_queries, heads.heads, heads.head_dim)
    key_shape = (rows, num_keys, heads.kv_heads, heads.head_dim)
    shapes = (query_shape, key_shape, key_shape, query_shape)
    keys = jax.random.split(jax.random.key(0), len(shapes))
    *qkv, dout = (
        jax.random.normal(key, shape, jnp.dtype(dtype))
        for key, shape in zip(keys, shapes, strict=True)
    )
    return [*qkv, jnp.where(sees_BT[:, :, None, None], dout, 0)]


def exact_results(problem: Problem) -> tuple[jax.Array, ...]:
    """Return out, dq, dk and dv of the definition in float32, one kv head at a time."""
    arrays = (problem.q_BTHE, problem.k_BSGE, problem.v_BSGE, problem.dout_BTHE)
    with jax.default_matmul_precision("highest"):
        return _exact(*arrays, *problem.visibility, scale=problem.scale)


@functools.partial(jax.jit, static_argnames="scale")
def _exact(q_BTHE, k_BSGE, v_BSGE, dout_BTHE, *visibility, scale: float):
    rows, _, kv_heads, head_dim = k_BSGE.shape
    repeats = q_BTHE.shape[2] // kv_heads
    widths = (repeats, 1, 1, repeats)

    def one_kv_head(number: jax.Array) -> tuple[jax.Array, ...]:
        row, head = number // kv_heads, number % kv_heads
        q, k, v, dout = (
            jax.lax.dynamic_slice(
                x, (row, 0, head * width, 0), (1, x.shape[1], width, head_dim)
            ).astype(jnp.float32)
            for x, width in zip(
                (q_BTHE, k_BSGE, v_BSGE, dout_BTHE), widths, strict=True
            )
        )
        of_row = [x[row][None] for x in visibility]
        attend = functools.partial(reference, scale=scale)
        return with_gradients(attend, q, k, v, dout, *of_row)

    def together(x: jax.Array) -> jax.Array:
        x = x.reshape(rows, kv_heads, *x.shape[2:]).swapaxes(1, 2)
        return x.reshape(rows, x.shape[1], -1, head_dim)

    results = jax.lax.map(one_kv_head, jnp.arange(rows * kv_heads))
    return tuple(together(x) for x in results)


# Largest error that counts as correct, as a share of a result's largest entry: the
# libraries round probabilities to bfloat16 before the second product.
TOLERANCE = {"bfloat16": 3e-2, "float32": 1e-3}


def largest_errors(
    results: Sequence[Any],
    exact: Sequence[jax.Array],
    sees_BT: jax.Array,
    names: Sequence[str] = RESULTS,
) -> dict[str, float]:
    """Largest error of each result, as a share of its largest exact entry.

    Args:
      results: as many of `names` as there are.
      exact: what they should be.
      sees_BT: queries whose out and dq count.
      names: of the results.
    """
    errors = {}
    for name, actual, wanted in zip(names, results, exact, strict=False):
        actual = jnp.asarray(actual).astype(jnp.float32)
        if name in ("out", "dq"):
            actual = jnp.where(sees_BT[:, :, None, None], actual, 0.0)
        largest = jnp.maximum(jnp.max(jnp.abs(wanted)), 1e-30)
        errors[name] = float(jnp.max(jnp.abs(actual - wanted)) / largest)
    return errors


def implementation_function(name: str) -> Callable[..., jax.Array]:
    """The function of an implementation: each has a module of its name.

    Raises:
      NotImplementedError: there is none.
    """
    module_name = f"pallas_kernels.routed_attention.{name}"
    try:
        return getattr(importlib.import_module(module_name), name)
    except (ModuleNotFoundError, AttributeError):
        raise NotImplementedError(
            f"there is no {module_name}.{name} here; name an implementation that is "
            "a function in a module of its name, such as xla_chunked."
        ) from None


def ours(implementation: str | Callable[..., jax.Array]) -> Contender:
    """An implementation of `routed_attention`, by name or as a function."""

    def prepare(problem: Problem) -> Prepared:
        function = implementation
        if isinstance(function, str):
            function = implementation_function(function)
        attend = functools.partial(
            routed_attention, scale=problem.scale, implementation=function
        )
        return _of_jax(attend, problem, problem.visibility)

    return prepare


def jax_cudnn(problem: Problem) -> Prepared:
    """cuDNN's fused attention: causal by a flag where that says it all, else a mask."""
    if current_device().platform != "gpu":
        raise NotImplementedError("cuDNN needs an NVIDIA GPU; run this on one.")
    attend = functools.partial(jax.nn.dot_product_attention, implementation="cudnn")
    return _library(attend, problem)


def jax_xla(problem: Problem) -> Prepared:
    """What JAX does by itself, with a stored mask."""
    attend = functools.partial(jax.nn.dot_product_attention, implementation="xla")
    return _library(attend, problem, always_mask=True)


def tokamax(problem: Problem) -> Prepared:
    """Tokamax, where it is installed, with the implementation that it chooses."""
    try:
        library = importlib.import_module("tokamax")
    except ImportError:
        raise NotImplementedError(
            "tokamax is not installed; install it to compare."
        ) from None
    return _library(library.dot_product_attention, problem)


def _library(attend: Callable, problem: Problem, always_mask: bool = False) -> Prepared:
    """A function like `jax.nn.dot_product_attention`; its mask is made beforehand."""
    options: dict[str, Any] = {"scale": problem.scale}
    if problem.case.is_plain_causal and not always_mask:
        attend = functools.partial(attend, is_causal=True, **options)
        return _of_jax(attend, problem, ())
    mask_B1TS = jax.jit(visible_keys)(*problem.visibility)[:, None]

    def attend_with_mask(q, k, v, mask):
        return attend(q, k, v, mask=mask, **options)

    return _of_jax(attend_with_mask, problem, (mask_B1TS,))


def _of_jax(
    attend: Callable, problem: Problem, extra: tuple[jax.Array, ...]
) -> Prepared:
    forward = jax.jit(attend)
    forward_backward = jax.jit(functools.partial(with_gradients, attend))
    qkv = (problem.q_BTHE, problem.k_BSGE, problem.v_BSGE)
    passes = {
        FORWARD: Run(lambda: forward(*qkv, *extra), jax.block_until_ready),
        FORWARD_BACKWARD: Run(
            lambda: forward_backward(*qkv, problem.dout_BTHE, *extra),
            jax.block_until_ready,
        ),
    }
    return Prepared(passes, lambda x: x if isinstance(x, tuple) else (x,))


def with_gradients(
    attend: Callable,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    dout: jax.Array,
    *extra: jax.Array,
) -> tuple[jax.Array, ...]:
    """Return out, dq, dk and dv of `attend(q, k, v, *extra)`."""
    out, pull_back = jax.vjp(lambda *qkv: attend(*qkv, *extra), q, k, v)
    return out, *pull_back(dout)
