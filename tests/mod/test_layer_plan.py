"""A layer plan is data: which layers route which tasks."""

import pytest

from unimod_jax.mod import (
    LayerSpec,
    Route,
    every_other_layer,
    last_half,
    plan_layers,
    runs,
)

DENSE = LayerSpec()
ROUTE = Route("text_to_image", 0.8)
ROUTED = LayerSpec((ROUTE,))


def test_runs_are_maximal_and_in_order():
    plan = plan_layers(5, {1, 2, 4}, [ROUTE])
    assert plan == (DENSE, ROUTED, ROUTED, DENSE, ROUTED)
    assert runs(plan) == ((DENSE, 1), (ROUTED, 2), (DENSE, 1), (ROUTED, 1))


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


def test_a_layer_kind_is_the_set_of_its_routes():
    understanding = Route("image_to_text", 0.2)
    shared = LayerSpec((ROUTE, understanding))
    assert shared.route_of("text_to_image") is ROUTE
    assert shared.route_of("image_to_text") is understanding
    assert shared.route_of("text_only") is None
    assert DENSE.route_of("text_to_image") is None


def test_a_stream_may_override_its_tasks_ratio():
    route = Route("text_to_image", 0.4, (("text", 0.9),))
    assert route.keep_ratio_of("text") == 0.9
    assert route.keep_ratio_of("image") == 0.4


@pytest.mark.parametrize("layer", [-1, 4])
def test_a_layer_that_does_not_exist_is_refused(layer):
    with pytest.raises(ValueError, match=rf"\[{layer}\] .* layers 0 to 3"):
        plan_layers(4, [0, layer], [ROUTE])
