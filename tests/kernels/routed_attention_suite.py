"""The claims every implementation of routed attention must pass, values and gradients.

An implementation inherits `RoutedAttentionSuite` and names itself, or gives a function
of the same arguments (an interpreted kernel, say). One that serves dropout inherits
`tests.kernels.dropout_suite.AttentionDropoutSuite` beside it.
"""

from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import AttentionDropout, routed_attention
from tests.kernels.attention_cases import (
    Case,
    oracle,
    packed_documents,
    random_case,
    random_visibility,
    run,
)


class RoutedAttentionSuite:
    """Inherit, name the implementation, and widen the tolerances if it must be."""

    implementation: str | Callable[..., jax.Array]
    # Those it serves; most claims are checked in the first.
    dtypes: ClassVar[tuple[str, ...]] = ("float32", "bfloat16")
    head_dim: ClassVar[int] = 8
    # Largest error, as a share of the oracle's largest entry or of 1, the inputs' size.
    tolerance: ClassVar[dict[str, float]] = {"float32": 1e-5, "bfloat16": 2e-2}

    def case(self, seed, visibility, **options) -> Case:
        """Draw a case of a shape and dtype that the implementation serves."""
        served = {"head_dim": self.head_dim, "dtype": self.dtypes[0]}
        return random_case(seed, visibility, **served | options)

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

    def test_random_windows_match_the_definition(self):
        for dtype in self.dtypes:
            self.check(self.case(0, random_visibility(1, 2, 300, 280), dtype=dtype))

    @pytest.mark.parametrize("sizes", [(1, 1), (7, 13), (1, 389), (389, 1), (257, 129)])
    def test_any_number_of_queries_and_keys_is_served(self, sizes):
        self.check(self.case(2, random_visibility(3, 2, *sizes)))

    @pytest.mark.parametrize("kv_heads", [1, 2])
    def test_query_heads_share_key_value_heads(self, kv_heads):
        visibility = random_visibility(4, 2, 20, 30)
        self.check(self.case(5, visibility, heads=6, kv_heads=kv_heads))

    def test_packed_documents_with_images_do_not_see_each_other(self):
        visibility = packed_documents([150, 40, 110], [(20, 120), (200, 290)])
        case = self.case(6, visibility)
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
        case = self.case(8, visibility)
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
        case = self.case(10, visibility)
        self.check(case)
        out, dq, dk, dv = run(case, self.implementation)
        for blind in (out[0, :10], dq[0, :10], out[1, :10], dq[1, :10]):
            assert not np.any(blind)
        for blind_row in (out[2], dq[2], dk[2], dv[2]):
            assert not np.any(blind_row)

    def test_extreme_scores_stay_exact(self):
        visibility = random_visibility(11, 1, 140, 150)
        case = self.case(12, visibility)
        rng = np.random.default_rng(13)
        # Integers make the scores exact; they reach 1e4 in both directions.
        largest = int((1e4 / self.head_dim) ** 0.5)
        q, k = (
            rng.integers(-largest, largest + 1, x.shape).astype(x.dtype)
            for x in (case.q_BTHE, case.k_BSGE)
        )
        q[0, 0], k[0, 0], k[0, 1] = largest, largest, -largest
        # The saved log-sum-exp of a score of 1e4 has an absolute error of 5e-4.
        tolerance = max(1e-3, self.tolerance[self.dtypes[0]])
        self.check(case._replace(q_BTHE=q, k_BSGE=k, scale=1.0), tolerance=tolerance)

    def test_the_order_of_the_keys_does_not_matter(self):
        case = self.case(14, packed_documents([180, 120], [(30, 90)]))
        order = np.random.default_rng(15).permutation(300)
        position = case.visibility.key_position[:, order]
        shuffled = case._replace(
            k_BSGE=case.k_BSGE[:, order],
            v_BSGE=case.v_BSGE[:, order],
            visibility=case.visibility._replace(key_position=position),
        )
        self.check(shuffled)
        before, after = (
            np.asarray(run(x, self.implementation)[0], np.float64)
            for x in (case, shuffled)
        )
        tolerance = self.tolerance[self.dtypes[0]]
        np.testing.assert_allclose(before, after, rtol=0.0, atol=tolerance)

    def test_checkpoint_leaves_values_and_gradients_unchanged(self):
        case = self.case(16, random_visibility(17, 1, 20, 30))
        plain = run(case, self.implementation)
        rematerialised = run(case, self.implementation, jax.checkpoint)
        for actual, wanted in zip(rematerialised, plain, strict=True):
            np.testing.assert_allclose(actual, wanted, rtol=0.0, atol=1e-6)

    def test_scanned_layers_equal_a_python_loop(self):
        case = self.case(18, packed_documents([12, 9], [(3, 8)]))
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
        actual, wanted = (
            np.asarray(jax.jit(jax.grad(f))(x), np.float64) for f in (scanned, looped)
        )
        tolerance = self.tolerance[self.dtypes[0]]
        np.testing.assert_allclose(actual, wanted, rtol=10 * tolerance, atol=tolerance)
