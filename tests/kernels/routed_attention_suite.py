"""The claims every implementation of routed attention must pass, values and gradients.

An implementation inherits `RoutedAttentionSuite` and names itself. The oracle is dense
NumPy in float64 with the closed-form gradient of softmax attention.

Legend: B rows, T query tokens, S key tokens, H query heads, G key/value heads, E head
dimension.
"""

import functools
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import routed_attention


class Visibility(NamedTuple):
    """Windows [B, T] and key positions [B, S], int32."""

    window_start: np.ndarray
    window_end: np.ndarray
    key_position: np.ndarray


class Case(NamedTuple):
    """Arrays q, k, v and the cotangent of the output, with who sees whom."""

    q_BTHE: np.ndarray
    k_BSGE: np.ndarray
    v_BSGE: np.ndarray
    dout_BTHE: np.ndarray
    visibility: Visibility
    scale: float


def random_visibility(seed, num_rows, num_queries, num_keys) -> Visibility:
    """Draw windows of any length, some reversed, over keys in shuffled order."""
    rng = np.random.default_rng(seed)
    positions = [rng.permutation(num_keys) for _ in range(num_rows)]
    start, end = rng.integers(0, num_keys + 1, (2, num_rows, num_queries))
    whole_row = np.arange(num_queries) % 3 == 0
    start, end = np.where(whole_row, 0, start), np.where(whole_row, num_keys, end)
    return Visibility(*(np.asarray(x, np.int32) for x in (start, end, positions)))


def packed_documents(lengths, image_spans) -> Visibility:
    """Pack causal documents in one row; inside an image span all tokens see its end."""
    position = np.arange(sum(lengths))
    start = np.repeat(np.cumsum([0, *lengths[:-1]]), lengths)
    end = position + 1
    for first, last in image_spans:
        end[first:last] = last
    return Visibility(*(np.asarray(x[None], np.int32) for x in (start, end, position)))


def random_case(
    seed, visibility, *, heads=2, kv_heads=2, head_dim=8, dtype="float32"
) -> Case:
    """Draw normal q, k, v and cotangent around a visibility."""
    rng = np.random.default_rng(seed)
    num_rows, num_queries = visibility.window_start.shape
    num_keys = visibility.key_position.shape[1]

    def normal(num_tokens, num_heads):
        shape = (num_rows, num_tokens, num_heads, head_dim)
        return rng.normal(size=shape).astype(jnp.dtype(dtype))

    q, dout = normal(num_queries, heads), normal(num_queries, heads)
    k, v = normal(num_keys, kv_heads), normal(num_keys, kv_heads)
    return Case(q, k, v, dout, visibility, head_dim**-0.5)


def oracle(case: Case) -> tuple[np.ndarray, ...]:
    """Return out, dq, dk and dv in float64, from dense matrices."""
    q, k, v, dout = (np.asarray(x, np.float64) for x in case[:4])
    start, end, position = (np.asarray(x, np.int64) for x in case.visibility)
    repeats = q.shape[2] // k.shape[2]
    k_BSHE, v_BSHE = np.repeat(k, repeats, axis=2), np.repeat(v, repeats, axis=2)
    position_BS1 = position[:, None, :]
    visible = (position_BS1 >= 0) & (position_BS1 < end[..., None])
    visible &= start[..., None] <= position_BS1

    score = np.einsum("bthe,bshe->bhts", q, k_BSHE) * case.scale
    score = np.where(visible[:, None], score, -np.inf)
    peak = np.max(score, axis=-1, keepdims=True)
    weight = np.exp(score - np.where(np.isfinite(peak), peak, 0.0))
    weight /= np.maximum(weight.sum(axis=-1, keepdims=True), 1e-300)
    out = np.einsum("bhts,bshe->bthe", weight, v_BSHE)

    dweight = np.einsum("bthe,bshe->bhts", dout, v_BSHE)
    mean = np.sum(weight * dweight, axis=-1, keepdims=True)
    dscore = weight * (dweight - mean) * case.scale
    dq = np.einsum("bhts,bshe->bthe", dscore, k_BSHE)
    dk = np.einsum("bhts,bthe->bshe", dscore, q)
    dv = np.einsum("bhts,bthe->bshe", weight, dout)
    dk, dv = (x.reshape(*k.shape[:3], repeats, -1).sum(axis=3) for x in (dk, dv))
    return out, dq, dk, dv


def unchanged(function: Callable) -> Callable:
    """Return the function itself: the default transform of `run`."""
    return function


@functools.partial(jax.jit, static_argnames=("scale", "implementation", "transform"))
def value_and_gradients(
    q, k, v, dout, visibility, *, scale, implementation, transform=unchanged
) -> tuple[jax.Array, ...]:
    """Return out, dq, dk and dv; cases of equal shape share one compilation."""

    @transform
    def attend(q, k, v):
        return routed_attention(
            q, k, v, *visibility, scale=scale, implementation=implementation
        )

    out, pull_back = jax.vjp(attend, q, k, v)
    return out, *pull_back(dout)


def run(case: Case, implementation: str, transform=unchanged) -> tuple[jax.Array, ...]:
    """Return out, dq, dk and dv of an implementation under jit."""
    *arrays, scale = case
    return value_and_gradients(
        *arrays, scale=scale, implementation=implementation, transform=transform
    )


class RoutedAttentionSuite:
    """Inherit, name the implementation, and widen the tolerances if it must be."""

    implementation: str
    # Largest error, as a share of the oracle's largest entry or of 1, the inputs' size.
    tolerance: ClassVar[dict[str, float]] = {"float32": 1e-5, "bfloat16": 2e-2}

    def check(self, case: Case, tolerance: float | None = None) -> None:
        """Compare values and gradients with the oracle, and their dtypes with q's."""
        dtype = str(case.q_BTHE.dtype)
        tolerance = self.tolerance[dtype] if tolerance is None else tolerance
        results, expected = run(case, self.implementation), oracle(case)
        for name, actual, wanted in zip(
            ("out", "dq", "dk", "dv"), results, expected, strict=True
        ):
            assert str(actual.dtype) == dtype, name
            np.testing.assert_allclose(
                np.asarray(actual, np.float64),
                wanted,
                rtol=0.0,
                atol=tolerance * max(np.abs(wanted).max(), 1.0),
                err_msg=name,
            )

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_random_windows_match_the_definition(self, dtype):
        self.check(random_case(0, random_visibility(1, 2, 300, 280), dtype=dtype))

    @pytest.mark.parametrize("sizes", [(1, 1), (7, 13), (1, 389), (389, 1), (257, 129)])
    def test_any_number_of_queries_and_keys_is_served(self, sizes):
        self.check(random_case(2, random_visibility(3, 2, *sizes)))

    @pytest.mark.parametrize("kv_heads", [1, 2])
    def test_query_heads_share_key_value_heads(self, kv_heads):
        visibility = random_visibility(4, 2, 20, 30)
        self.check(random_case(5, visibility, heads=6, kv_heads=kv_heads))

    def test_packed_documents_with_images_do_not_see_each_other(self):
        visibility = packed_documents([150, 40, 110], [(20, 120), (200, 290)])
        case = random_case(6, visibility)
        self.check(case)
        changed = case.v_BSGE.copy()
        changed[:, 150:190] += 100.0
        before = run(case, self.implementation)[0]
        after = run(case._replace(v_BSGE=changed), self.implementation)[0]
        outside = np.r_[0:150, 190:300]
        np.testing.assert_array_equal(before[:, outside], after[:, outside])

    def test_padding_is_never_visible(self):
        visibility = random_visibility(7, 3, 40, 50)
        visibility.key_position[:, 30:] = -1
        visibility.window_start[:] = -5
        visibility.window_end[:, ::2] = np.iinfo(np.int32).max
        case = random_case(8, visibility)
        case.k_BSGE[:, 30:] = 1e4
        case.v_BSGE[:, 30:] = 1e4
        self.check(case)
        _, _, dk, dv = run(case, self.implementation)
        assert not np.any(dk[:, 30:]) and not np.any(dv[:, 30:])

    def test_a_query_that_sees_nothing_gives_exactly_zero(self):
        visibility = random_visibility(9, 3, 40, 50)
        visibility.window_end[0, :10] = visibility.window_start[0, :10]
        visibility.window_start[1, :10] = 50
        visibility.key_position[2] = -1
        case = random_case(10, visibility)
        self.check(case)
        out, dq, dk, dv = run(case, self.implementation)
        for blind in (out[0, :10], dq[0, :10], out[1, :10], dq[1, :10]):
            assert not np.any(blind)
        for blind_row in (out[2], dq[2], dk[2], dv[2]):
            assert not np.any(blind_row)

    def test_extreme_scores_stay_exact(self):
        visibility = random_visibility(11, 1, 140, 150)
        case = random_case(12, visibility, head_dim=4)
        rng = np.random.default_rng(13)
        # Integers make the float32 scores exact; they reach 1e4 in both directions.
        q, k = (
            rng.integers(-50, 51, x.shape).astype(np.float32)
            for x in (case.q_BTHE, case.k_BSGE)
        )
        q[0, 0], k[0, 0], k[0, 1] = 50.0, 50.0, -50.0
        # The saved log-sum-exp of a score of 1e4 has an absolute error of 5e-4.
        self.check(case._replace(q_BTHE=q, k_BSGE=k, scale=1.0), tolerance=1e-3)

    def test_the_order_of_the_keys_does_not_matter(self):
        case = random_case(14, packed_documents([180, 120], [(30, 90)]))
        order = np.random.default_rng(15).permutation(300)
        position = case.visibility.key_position[:, order]
        shuffled = case._replace(
            k_BSGE=case.k_BSGE[:, order],
            v_BSGE=case.v_BSGE[:, order],
            visibility=case.visibility._replace(key_position=position),
        )
        self.check(shuffled)
        before, after = (run(x, self.implementation) for x in (case, shuffled))
        np.testing.assert_allclose(before[0], after[0], rtol=0.0, atol=1e-5)

    def test_checkpoint_leaves_values_and_gradients_unchanged(self):
        case = random_case(16, random_visibility(17, 1, 20, 30))
        plain = run(case, self.implementation)
        rematerialised = run(case, self.implementation, jax.checkpoint)
        for actual, wanted in zip(rematerialised, plain, strict=True):
            np.testing.assert_allclose(actual, wanted, rtol=0.0, atol=1e-6)

    def test_scanned_layers_equal_a_python_loop(self):
        case = random_case(18, packed_documents([12, 9], [(3, 8)]))
        visibility = tuple(jnp.asarray(x) for x in case.visibility)

        def layer(x, _):
            x = x + routed_attention(
                x,
                x,
                x,
                *visibility,
                scale=case.scale,
                implementation=self.implementation,
            )
            return x, None

        def scanned(x):
            return jnp.sum(jax.lax.scan(layer, x, length=3)[0])

        def looped(x):
            return jnp.sum(layer(layer(layer(x, None)[0], None)[0], None)[0])

        x = jnp.asarray(case.q_BTHE)
        actual, wanted = (jax.jit(jax.grad(f))(x) for f in (scanned, looped))
        np.testing.assert_allclose(actual, wanted, rtol=1e-4, atol=1e-5)
