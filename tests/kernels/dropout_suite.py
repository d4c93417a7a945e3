"""The claims about dropout, for every implementation that serves it."""

import dataclasses

import jax
import numpy as np
import pytest

from tests.kernels.attention_cases import (
    Case,
    Visibility,
    random_dropout,
    random_visibility,
    run,
    unchanged,
    value_and_gradients,
)
from tests.kernels.routed_attention_suite import RoutedAttentionSuite


class AttentionDropoutSuite(RoutedAttentionSuite):
    """The suite, and the same probabilities dropped by every implementation."""

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_dropout_after_the_softmax_matches_the_definition(self, dtype):
        # More queries and keys than one chunk holds, and two query heads to a key head.
        visibility = random_visibility(20, 2, 270, 140)
        case = self.case(21, visibility, heads=4, kv_heads=2, dtype=dtype)
        self.check(case, dropout=random_dropout(22, visibility, rate=0.1))

    @pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
    def test_dropout_keeps_padding_and_empty_windows_at_zero(self, rate):
        visibility = random_visibility(23, 2, 20, 30)
        visibility.key_position[:, 20:] = -1
        visibility.window_end[:, :5] = visibility.window_start[:, :5]
        case = self.case(24, visibility)
        dropout = random_dropout(25, visibility, rate)
        self.check(case, dropout=dropout)
        out, dq, dk, dv = run(case, self.implementation, dropout=dropout)
        for blind in (out[:, :5], dq[:, :5], dk[:, 20:], dv[:, 20:]):
            assert not np.any(blind)

    def test_reordered_and_gathered_tokens_keep_their_dropout(self):
        visibility = random_visibility(26, 2, 270, 140)
        case = self.case(27, visibility)
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
        case = self.case(30, random_visibility(31, 1, 20, 30))
        dropout = random_dropout(32, case.visibility, rate=0.5)
        plain, rematerialised = (
            run(case, self.implementation, transform, dropout)
            for transform in (unchanged, jax.checkpoint)
        )
        for actual, wanted in zip(rematerialised, plain, strict=True):
            np.testing.assert_allclose(actual, wanted, rtol=0.0, atol=1e-6)

    def test_dropout_of_rate_zero_compiles_to_no_dropout(self):
        case = self.case(33, random_visibility(34, 1, 20, 30))
        dropout = random_dropout(35, case.visibility, rate=0.0)

        def program(dropout):
            options = {"scale": case.scale, "implementation": self.implementation}
            return value_and_gradients.lower(*case[:5], dropout, **options).as_text()

        assert program(dropout) == program(None)
        assert program(dataclasses.replace(dropout, rate=0.1)) != program(None)
