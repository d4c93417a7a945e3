"""The claims every implementation of routed attention must pass, values and gradients.

An implementation inherits `RoutedAttentionSuite` and names itself. The oracle is dense
NumPy in float64 with the closed-form gradient of softmax attention.

Legend: B rows, T query tokens, S key tokens, H query heads, G key/value heads, E head
dimension.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import AttentionDropout, routed_attention


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


def absorb(state: int, number: int) -> int:
    """Take one step of SplitMix with the 32-bit finaliser of MurmurHash3."""
    z = (state + (number + 1) * 0x9E3779B9) % 2**32
    z = (z ^ (z >> 16)) * 0x85EBCA6B % 2**32
    z = (z ^ (z >> 13)) * 0xC2B2AE35 % 2**32
    return z ^ (z >> 16)


def kept_by_hash(seed, rate, query_position, key_position, num_heads) -> np.ndarray:
    """Return which probabilities [B, H, T, S] dropout keeps, one by one."""
    num_rows, num_queries = query_position.shape
    kept = np.zeros((num_rows, num_heads, num_queries, key_position.shape[1]), bool)
    for row, head, query in np.ndindex(kept.shape[:3]):
        code = 0
        for number in (int(seed), row, head, int(query_position[row, query])):
            code = absorb(code, number)
        kept[row, head, query] = [
            absorb(code, position) >= int(rate * 2**32)
            for position in key_position[row].tolist()
        ]
    return kept


def oracle(
    case: Case, dropout: AttentionDropout | None = None
) -> tuple[np.ndarray, ...]:
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
    factor = np.ones_like(weight)
    if dropout is not None:
        seed, query_position = (np.asarray(x) for x in jax.tree.leaves(dropout))
        kept = kept_by_hash(seed, dropout.rate, query_position, position, q.shape[2])
        factor = kept / (1.0 - dropout.rate)
    out = np.einsum("bhts,bshe->bthe", weight * factor, v_BSHE)

    dweight = factor * np.einsum("bthe,bshe->bhts", dout, v_BSHE)
    mean = np.sum(weight * dweight, axis=-1, keepdims=True)
    dscore = weight * (dweight - mean) * case.scale
    dq = np.einsum("bhts,bshe->bthe", dscore, k_BSHE)
    dk = np.einsum("bhts,bthe->bshe", dscore, q)
    dv = np.einsum("bhts,bthe->bshe", weight * factor, dout)
    dk, dv = (x.reshape(*k.shape[:3], repeats, -1).sum(axis=3) for x in (dk, dv))
    return out, dq, dk, dv


def unchanged(function: Callable) -> Callable:
    """Return the function itself: the default transform of `run`."""
    return function


@functools.partial(jax.jit, static_argnames=("scale", "implementation", "transform"))
def value_and_gradients(
    q,
    k,
    v,
    dout,
    visibility,
    dropout=None,
    *,
    scale,
    implementation,
    transform=unchanged,
) -> tuple[jax.Array, ...]:
    """Return out, dq, dk and dv; cases of equal shape share one compilation."""

    @transform
    def attend(q, k, v):
        return routed_attention(
            q,
            k,
            v,
            *visibility,
            scale=scale,
            dropout=dropout,
            implementation=implementation,
        )

    out, pull_back = jax.vjp(attend, q, k, v)
    return out, *pull_back(dout)


def run(
    case: Case, implementation: str, transform=unchanged, dropout=None
) -> tuple[jax.Array, ...]:
    """Return out, dq, dk and dv of an implementation under jit."""
    *arrays, scale = case
    return value_and_gradients(
        *arrays,
        dropout,
        scale=scale,
        implementation=implementation,
        transform=transform,
    )


def random_dropout(seed, visibility, rate) -> AttentionDropout:
    """Draw a seed and distinct query positions that are not their indices."""
    rng = np.random.default_rng(seed)
    num_rows, num_queries = visibility.window_start.shape
    position = [rng.permutation(2 * num_queries)[:num_queries] for _ in range(num_rows)]
    return AttentionDropout(
        jnp.uint32(rng.integers(2**32)), jnp.asarray(position, jnp.int32), rate
    )


class RoutedAttentionSuite:
    """Inherit, name the implementation, and widen the tolerances if it must be."""

    implementation: str
    # Largest error, as a share of the oracle's largest entry or of 1, the inputs' size.
    tolerance: ClassVar[dict[str, float]] = {"float32": 1e-5, "bfloat16": 2e-2}

    def check(
        self,
        case: Case,
        tolerance: float | None = None,
        dropout: AttentionDropout | None = None,
    ) -> None:
        """Compare values and gradients with the oracle, and their dtypes with q's."""
        dtype = str(case.q_BTHE.dtype)
        tolerance = self.tolerance[dtype] if tolerance is None else tolerance
        results = run(case, self.implementation, dropout=dropout)
        expected = oracle(case, dropout)
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

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_dropout_after_the_softmax_matches_the_definition(self, dtype):
        # More queries and keys than one chunk holds, and two query heads to a key head.
        visibility = random_visibility(20, 2, 270, 140)
        case = random_case(21, visibility, heads=4, kv_heads=2, dtype=dtype)
        self.check(case, dropout=random_dropout(22, visibility, rate=0.1))

    @pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
    def test_dropout_keeps_padding_and_empty_windows_at_zero(self, rate):
        visibility = random_visibility(23, 2, 20, 30)
        visibility.key_position[:, 20:] = -1
        visibility.window_end[:, :5] = visibility.window_start[:, :5]
        case = random_case(24, visibility)
        dropout = random_dropout(25, visibility, rate)
        self.check(case, dropout=dropout)
        out, dq, dk, dv = run(case, self.implementation, dropout=dropout)
        for blind in (out[:, :5], dq[:, :5], dk[:, 20:], dv[:, 20:]):
            assert not np.any(blind)

    def test_reordered_and_gathered_tokens_keep_their_dropout(self):
        visibility = random_visibility(26, 2, 270, 140)
        case = random_case(27, visibility)
        dropout = random_dropout(28, visibility, rate=0.3)
        rng = np.random.default_rng(29)
        queries, keys = rng.permutation(270)[:100], rng.permutation(140)
        moved = Case(
            case.q_BTHE[:, queries],
            case.k_BSGE[:, keys],
            case.v_BSGE[:, keys],
            case.dout_BTHE[:, queries],
            Visibility(
                visibility.window_start[:, queries],
                visibility.window_end[:, queries],
                visibility.key_position[:, keys],
            ),
            case.scale,
        )
        position = dropout.query_position[:, queries]
        moved_dropout = dataclasses.replace(dropout, query_position=position)
        out, dq, *_ = run(case, self.implementation, dropout=dropout)
        moved_out, moved_dq, *_ = run(moved, self.implementation, dropout=moved_dropout)
        for actual, wanted in ((moved_out, out), (moved_dq, dq)):
            wanted = wanted[:, queries]
            np.testing.assert_allclose(actual, wanted, rtol=0.0, atol=1e-5)

    def test_checkpoint_recomputes_the_same_dropout(self):
        case = random_case(30, random_visibility(31, 1, 20, 30))
        dropout = random_dropout(32, case.visibility, rate=0.5)
        plain, rematerialised = (
            run(case, self.implementation, transform, dropout)
            for transform in (unchanged, jax.checkpoint)
        )
        for actual, wanted in zip(rematerialised, plain, strict=True):
            np.testing.assert_allclose(actual, wanted, rtol=0.0, atol=1e-6)

    def test_dropout_of_rate_zero_compiles_to_no_dropout(self):
        case = random_case(33, random_visibility(34, 1, 20, 30))
        dropout = random_dropout(35, case.visibility, rate=0.0)

        def program(dropout):
            options = {"scale": case.scale, "implementation": self.implementation}
            return value_and_gradients.lower(*case[:5], dropout, **options).as_text()

        assert program(dropout) == program(None)
        assert program(dataclasses.replace(dropout, rate=0.1)) != program(None)
