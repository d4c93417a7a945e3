"""A layer plan is data: per task and layer, how many tokens stay."""

import math

import pytest

from unimod_jax.mod import (
    Route,
    TaskPlan,
    check_plan,
    every_other,
    in_every_other,
    in_layers,
    in_stairs,
    last_half,
    resampled,
    resampled_plan,
    runs,
    same_for,
)
from unimod_jax.mod.keep_schedule import cosine, linear

ROUTE = Route("drawing", 0.8)


def routed(ratios):
    return [layer for layer, ratio in enumerate(ratios) if ratio is not None]


def test_runs_are_of_anything_that_can_be_equal():
    layers = [("dense", 1), ("dense", 1), ("dense", 2), ("routed", 2)]
    assert runs(layers) == ((layers[0], 2), (layers[2], 1), (layers[3], 1))
    assert runs([]) == ()


def test_unimod_routes_the_last_half():
    # 2502.06474, section 5.1: 12..23 of Show-o's 24 layers, 16..31 of Emu3's 32.
    assert last_half(4, 0.4) == (None, None, 0.4, 0.4)
    assert routed(last_half(24, 0.8)) == list(range(12, 24))
    assert routed(last_half(32, 0.2)) == list(range(16, 32))
    assert routed(last_half(5, 0.2)) == [3, 4]
    assert last_half(1, 0.2) == (None,)


def test_mixture_of_depths_routes_every_other_layer():
    assert every_other(5, 0.2) == (None, 0.2, None, 0.2, None)
    assert routed(every_other(6, 0.2)) == [1, 3, 5]


def test_a_ratio_may_run_over_the_routed_layers_in_a_shape_and_in_levels():
    assert last_half(8, 1.0, 0.2)[4:] == linear(4, 1.0, 0.2)
    assert last_half(8, 1.0, 0.2, "cosine")[4:] == cosine(4, 1.0, 0.2)
    stairs = last_half(8, 1.0, 0.2, "linear", 2)
    assert len(set(stairs[4:])) == 2
    assert stairs == in_stairs(last_half(8, 1.0, 0.2), 2)
    assert in_layers(4, (0, 3), 1.0, 0.0) == (1.0, None, None, 0.0)


def test_the_same_ratios_may_stand_in_every_other_layer():
    moved = in_every_other(last_half(6, 1.0, 0.2))
    assert moved == (None, 1.0, None, 0.6, None, 0.2)
    with pytest.raises(ValueError, match=r"1 layers of 6 are routed, .* is 3 of them"):
        in_every_other(in_layers(6, (5,), 0.5))


@pytest.mark.parametrize("new", [2, 4, 6, 12])
@pytest.mark.parametrize("old", [24, 32])
def test_a_plan_of_another_depth_keeps_its_idea(old, new):
    assert resampled(last_half(old, 0.4), new) == last_half(new, 0.4)
    assert resampled(every_other(old, 0.4), new) == every_other(new, 0.4)
    ramp = last_half(old, 1.0, 0.2)
    fewer = resampled(ramp, new)
    assert routed(fewer) == routed(last_half(new, 0.4))
    mean = math.fsum(fewer[new // 2 :]) / (new // 2)
    assert mean == pytest.approx(0.6, abs=0.06)
    assert resampled(ramp, old) == ramp


def test_a_plan_is_resampled_task_by_task():
    plan = (TaskPlan("a", last_half(8, 0.4)), TaskPlan("b", every_other(8, 0.0)))
    assert resampled_plan(plan, 4) == (
        TaskPlan("a", last_half(4, 0.4)),
        TaskPlan("b", every_other(4, 0.0)),
    )


def test_a_stream_may_override_its_tasks_ratio():
    route = Route("drawing", 0.4, (("text", 0.9),))
    assert route.keep_ratio_of("text") == 0.9
    assert route.keep_ratio_of("image") == 0.4


def test_a_keep_ratio_of_zero_skips_the_layer():
    # Whatever the streams' own ratios.
    assert Route("drawing", 0.0, (("text", 0.9),)).skips_layer
    assert not ROUTE.skips_layer


def test_routes_that_differ_in_their_ratio_alone_are_alike_but_for_skipping():
    assert ROUTE.without_ratio == Route("drawing", 0.2).without_ratio
    assert Route("drawing", 0.0).without_ratio != ROUTE.without_ratio
    assert Route("drawing", 0.8, router="single").router_name == "single"
    assert ROUTE.router_name == "drawing"


@pytest.mark.parametrize("layer", [-1, 4])
def test_a_layer_that_does_not_exist_is_refused(layer):
    with pytest.raises(ValueError, match=rf"\[{layer}\] .* layers 0 to 3"):
        in_layers(4, (0, layer), 0.5)


def test_a_task_with_two_plans_or_one_of_another_depth_is_refused():
    plan = same_for(("a", "b"), last_half(4, 0.5))
    check_plan(plan, 4)
    with pytest.raises(ValueError, match="'a' has 4 layers, but num_layers is 6; give"):
        check_plan(plan, 6)
    with pytest.raises(ValueError, match=r"\['a'\] have more than one plan"):
        check_plan((*plan, plan[0]), 4)


@pytest.mark.parametrize("ratio", [1.5, -0.1, math.nan])
def test_a_ratio_that_is_no_share_is_refused_with_its_place(ratio):
    with pytest.raises(
        ValueError, match=rf"layer 1 of task 'a': keep_ratio is {ratio}"
    ):
        TaskPlan("a", (None, ratio))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"keep_ratio": 1.2}, r"keep_ratio is 1.2"),
        ({"stream_keep_ratios": (("text", 0.0),)}, r"'text' .* keep_ratio 0.0"),
        ({"stream_keep_ratios": (("text", -1.0),)}, r"keep_ratio is -1.0"),
        ({"scorer": "entropy"}, r"scorer 'entropy' is not known"),
        ({"score_weight": "tanh"}, r"score_weight 'tanh' is not known"),
        ({"causal_rule": "leaky"}, r"causal_rule 'leaky' is not known"),
        ({"scorer": "random"}, r"'gentle' weighs with random scores.*use 'one'"),
        (
            {
                "scorer": "attention",
                "score_weight": "one",
                "causal_rule": "trained_threshold",
            },
            r"trains a linear router's scores",
        ),
    ],
)
def test_a_route_that_cannot_work_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Route("drawing", **fields)
