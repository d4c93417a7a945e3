"""The layouts that are benchmarked are those of the models."""

import numpy as np
import pytest

from pallas_kernels.benchmark.schedule import schedule_report
from pallas_kernels.benchmark.visibility_cases import (
    ALIGNED,
    MODALITY_MAJOR,
    SEQUENCE,
    Heads,
    causal_case,
    visibility_cases,
)

CASES = {case.name: case for case in visibility_cases(1)}
GROUPED = [name for name, case in CASES.items() if case.order == MODALITY_MAJOR]


@pytest.fixture(scope="module")
def schedule():
    return schedule_report(CASES.values())


def in_sequence_order(case):
    """The visible matrix of the first row with queries and keys sorted by position."""
    order = np.argsort(case.key_position_BS[0])
    order = order[case.key_position_BS[0][order] >= 0]
    return case.visible_TS(0)[order][:, order]


def test_a_case_is_the_same_every_time_and_rows_differ():
    first, second = visibility_cases(2), visibility_cases(2)
    for one, other in zip(first, second, strict=True):
        for array, again in zip(one.visibility, other.visibility, strict=True):
            np.testing.assert_array_equal(array, again)
    kept = first[[case.name for case in first].index("emu3_4300_kept_20")]
    assert np.any(kept.key_position_BS[0] != kept.key_position_BS[1])


def test_the_sizes_are_those_of_the_models():
    sizes = {name: (case.num_queries, case.heads) for name, case in CASES.items()}
    assert sizes["causal_4096"] == (4096, Heads(32, 32, 128))
    assert sizes["show_o_t2i_1408"] == (1408, Heads(32, 32, 64))
    assert sizes["show_o_mmu_1408_kept_20"] == (282, Heads(32, 32, 64))
    assert sizes["emu3_9216_kept_20"] == (1844, Heads(32, 8, 128))


def test_a_show_o_image_sees_everything_and_its_text_the_past():
    visible_TS = CASES["show_o_t2i_1408"].visible_TS(0)
    text = np.arange(1408) < 382
    assert np.all(visible_TS[~text])
    np.testing.assert_array_equal(visible_TS[text].sum(axis=1), np.arange(1, 383))


def test_show_o_understanding_sees_the_image_from_everywhere():
    visible_TS = CASES["show_o_mmu_1408"].visible_TS(0)
    num_seen = visible_TS.sum(axis=1)
    np.testing.assert_array_equal(num_seen, np.maximum(np.arange(1, 1409), 1027))


def test_empty_slots_of_a_short_caption_neither_see_nor_are_seen():
    case = CASES["show_o_t2i_1408_short_captions"]
    empty = case.key_position_BS[0] < 0
    visible_TS = case.visible_TS(0)
    assert 300 < empty.sum() < 382
    assert not visible_TS[empty].any() and not visible_TS[:, empty].any()
    assert visible_TS[~empty].any(axis=1).all()


@pytest.mark.parametrize("percent", [80, 60, 40, 20])
def test_kept_tokens_keep_their_positions_order_and_windows(percent):
    dense, kept = CASES["show_o_mmu_1408"], CASES[f"show_o_mmu_1408_kept_{percent}"]
    position = kept.key_position_BS[0]
    assert len(position) == -(-1408 * percent // 100)
    assert np.all(np.diff(position) > 0)
    np.testing.assert_array_equal(
        kept.visible_TS(0), dense.visible_TS(0)[position][:, position]
    )


@pytest.mark.parametrize("name", GROUPED)
@pytest.mark.parametrize("order", [MODALITY_MAJOR, ALIGNED])
def test_grouping_by_modality_changes_no_pair(name, order):
    plain = CASES[name.removesuffix(f"_{MODALITY_MAJOR}")]
    grouped = CASES[f"{plain.name}_{order}"]
    assert np.any(np.diff(grouped.key_position_BS[0]) < 0)
    np.testing.assert_array_equal(in_sequence_order(grouped), plain.visible_TS(0))


def test_plain_causal_means_a_lower_triangle():
    small = [case for case in CASES.values() if case.num_queries <= 2000]
    assert {case.is_plain_causal for case in small} == {True, False}
    for case in small:
        triangle = np.tri(case.num_queries, dtype=bool)
        is_triangle = np.array_equal(case.visible_TS(0), triangle)
        assert case.is_plain_causal == is_triangle, case.name
    assert CASES["causal_4096"].is_plain_causal


def test_block_counts_of_a_small_triangle_are_those_of_hand():
    (result,) = schedule_report([causal_case("c", 8, Heads(1, 1, 8))], (4,))
    expected = {"blocks": 4, "visited": 3, "holding": 3, "whole": 1}
    assert {name: result[name] for name in expected} == expected
    assert result["visible_pairs"] == 36
    assert result["visited_area_over_visible"] == 48 / 36


def test_in_sequence_order_hardly_a_block_is_visited_for_nothing(schedule):
    checked = [result for result in schedule if result["order"] == SEQUENCE]
    assert len(checked) == 2 * 20
    for result in checked:
        assert result["visited"] <= 1.05 * result["holding"], result


def test_no_block_that_holds_a_visible_pair_is_left_out(schedule):
    for result in schedule:
        assert result["holding"] <= result["visited"] <= result["blocks"]
        assert result["whole"] <= result["holding"]


@pytest.mark.parametrize("name", GROUPED)
def test_images_at_a_multiple_of_the_block_make_grouping_free(schedule, name):
    visited = {
        (result["case"], result["block"]): result["visited"] for result in schedule
    }
    plain = name.removesuffix(f"_{MODALITY_MAJOR}")
    for block in (64, 128):
        aligned = visited[f"{plain}_{ALIGNED}", block]
        assert aligned <= 1.02 * visited[plain, block]
        assert aligned <= visited[name, block]
