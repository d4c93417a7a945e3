"""A layer plan is data: which layers route which tasks."""

import pytest

from unimod_jax.mod import (
    LayerSpec,
    Route,
    TaskPath,
    every_other_layer,
    last_half,
    plan_layers,
    runs,
)

DENSE = LayerSpec()
ROUTE = Route("text_to_image", 0.8)
ROUTED = LayerSpec((ROUTE,))
UNDERSTANDING = Route("image_to_text", 0.2)


def everywhere(route, layers, keep_ratio=None):
    return TaskPath(route, dict.fromkeys(layers, keep_ratio or route.keep_ratio))


def test_runs_are_maximal_and_in_order():
    plan = plan_layers(5, [everywhere(ROUTE, (1, 2, 4))])
    assert plan == (DENSE, ROUTED, ROUTED, DENSE, ROUTED)
    assert runs(plan) == ((DENSE, 1), (ROUTED, 2), (DENSE, 1), (ROUTED, 1))


def test_runs_are_of_anything_that_can_be_equal():
    layers = [("dense", 1), ("dense", 1), ("dense", 2), ("routed", 2)]
    assert runs(layers) == ((layers[0], 2), (layers[2], 1), (layers[3], 1))
    assert runs([]) == ()


def test_each_task_takes_its_own_layers_with_a_ratio_for_each():
    paths = [
        TaskPath(Route("text_to_image"), {1: 0.9, 3: 0.8}),
        TaskPath(Route("image_to_text"), {2: 0.6, 3: 0.2}),
        TaskPath(Route("text_only", router="shared"), {3: 0.5}),
    ]
    plan = plan_layers(4, paths)
    ratios = [{route.task: route.keep_ratio for route in spec.routes} for spec in plan]
    assert ratios == [
        {},
        {"text_to_image": 0.9},
        {"image_to_text": 0.6},
        {"text_to_image": 0.8, "image_to_text": 0.2, "text_only": 0.5},
    ]
    kinds = [spec.kind for spec in plan]
    assert kinds == ["dense", "text_to_image-routed", "image_to_text-routed", "shared"]
    assert [route.router_name for route in plan[3].routes] == [
        "text_to_image",
        "image_to_text",
        "shared",
    ]


def test_a_keep_ratio_of_zero_skips_the_layer():
    # Early exit of one task after layer 1, whatever its streams' own ratios.
    route = Route("text_to_image", stream_keep_ratios=(("text", 0.9),))
    plan = plan_layers(4, [TaskPath(route, {2: 0.0, 3: 0.0})])
    assert plan[:2] == (DENSE, DENSE)
    for spec in plan[2:]:
        assert spec.route_of("text_to_image").skips_layer
        assert spec.route_of("image_to_text") is None
    assert not ROUTE.skips_layer


def test_layers_with_other_ratios_are_other_runs():
    slower = LayerSpec((Route("text_to_image", 0.7),))
    assert runs((ROUTED, slower, slower)) == ((ROUTED, 1), (slower, 2))


def test_unimod_routes_the_last_half():
    # 2502.06474, section 5.1: 12..23 of Show-o's 24 layers, 16..31 of Emu3's 32.
    assert last_half(24) == tuple(range(12, 24))
    assert last_half(32) == tuple(range(16, 32))
    assert last_half(5) == (3, 4)
    assert last_half(1) == ()


def test_mixture_of_depths_routes_every_other_layer():
    assert every_other_layer(5) == (1, 3)
    assert every_other_layer(6) == (1, 3, 5)


def test_a_layer_knows_its_routes():
    shared = LayerSpec((ROUTE, UNDERSTANDING))
    assert shared.route_of("text_to_image") is ROUTE
    assert shared.route_of("image_to_text") is UNDERSTANDING
    assert shared.route_of("text_only") is None
    assert DENSE.route_of("text_to_image") is None


def test_a_stream_may_override_its_tasks_ratio():
    route = Route("text_to_image", 0.4, (("text", 0.9),))
    assert route.keep_ratio_of("text") == 0.9
    assert route.keep_ratio_of("image") == 0.4


@pytest.mark.parametrize("layer", [-1, 4])
def test_a_layer_that_does_not_exist_is_refused(layer):
    with pytest.raises(ValueError, match=rf"\[{layer}\] .* layers 0 to 3"):
        plan_layers(4, [everywhere(ROUTE, (0, layer))])


def test_a_task_with_two_paths_is_refused():
    with pytest.raises(ValueError, match=r"\['text_to_image'\] .* one path"):
        plan_layers(4, [everywhere(ROUTE, (0,)), everywhere(ROUTE, (1,))])


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
        Route("text_to_image", **fields)
