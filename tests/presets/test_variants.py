"""What the variants untie and route, and the savings that UniMoD publishes."""

import functools
import inspect

import pytest

from unimod_jax.models.accounting import CONVENTIONS, forward_flops, parameters
from unimod_jax.presets import PRESETS, VARIANTS, model_spec, preset


@functools.cache
def flops(name, variant):
    """Task -> convention -> FLOPs of one row."""
    which = preset(name)
    spec = model_spec(which, variant)
    return {
        task: forward_flops(spec, layout, which.typical_text_tokens)
        for task, layout in which.layouts(spec).items()
    }


def mean_change(name, variant, convention="linear_only"):
    found, dense = flops(name, variant), flops(name, "dense")
    tasks = preset(name).mean_tasks
    return sum(
        found[task][convention] / dense[task][convention] - 1 for task in tasks
    ) / len(tasks)


def change(name, variant, task, convention="linear_only"):
    found, dense = flops(name, variant), flops(name, "dense")
    return found[task][convention] / dense[task][convention] - 1


def keep_ratios(name, variant, task):
    """Layer -> keep ratio, of the layers that route the task."""
    designs = model_spec(preset(name), variant).designs
    routes = enumerate(design.route_of(task) for design in designs)
    return {layer: route.keep_ratio for layer, route in routes if route is not None}


# --- Published figures (2502.06474, tables 3 to 5) ------------------------------------


def test_show_o_saves_15_percent_counted_as_the_paper_counts():
    assert f"{mean_change('show_o_512', 'unimod'):.3f}" == "-0.150"
    assert change("show_o_512", "unimod", "text_to_image") == pytest.approx(
        -0.1, abs=1e-3
    )
    assert change("show_o_512", "unimod", "image_to_text") == pytest.approx(
        -0.2, abs=1e-3
    )


def test_emu3_saves_40_percent_counted_as_the_paper_counts():
    assert f"{mean_change('emu3', 'unimod'):.3f}" == "-0.400"


@pytest.mark.parametrize(
    ("name", "convention", "expected"),
    [
        # Attention and head included, at T = 1408 and about 4300.
        ("show_o_512_long", "with_head", -0.153),
        ("emu3", "with_head", -0.376),
        # Padding is no saving: typical rows of the two budgets save the same.
        ("show_o_512_long", "valid_tokens", -0.152),
        ("show_o_512", "valid_tokens", -0.152),
    ],
)
def test_what_is_saved_when_everything_is_counted(name, convention, expected):
    assert mean_change(name, "unimod", convention) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(
    ("variant", "teraflops"),
    [
        ("skip_interleaved", 25.6),
        ("early_exit", 25.6),
        ("basic_mod", 40.8),
        ("single_router", 40.8),
        ("task_routers_interleaved", 43.3),
        ("unimod", 43.3),
    ],
)
def test_table_5_as_ratios(variant, teraflops):
    ratio = 1 + mean_change("show_o_512", variant)
    assert ratio == pytest.approx(teraflops / 51.1, abs=0.003)
    exact = {25.6: 0.5, 40.8: 0.8, 43.3: 0.85}[teraflops]
    assert ratio == pytest.approx(exact, abs=5e-4)


def test_one_router_at_unimods_own_capacities_costs_exactly_as_much():
    assert flops("show_o_512", "single_router_matched") == flops("show_o_512", "unimod")


def test_the_papers_single_router_prunes_generation_twice_as_hard():
    assert change("show_o_512", "single_router", "text_to_image") == pytest.approx(
        2 * change("show_o_512", "unimod", "text_to_image"), rel=0.01
    )


# --- What is routed -------------------------------------------------------------------


def test_show_o_keeps_0_8_of_generation_and_from_1_to_0_2_of_understanding():
    last_half = list(range(12, 24))
    generation = keep_ratios("show_o_512", "unimod", "text_to_image")
    assert generation == dict.fromkeys(last_half, 0.8)
    understanding = keep_ratios("show_o_512", "unimod", "image_to_text")
    assert list(understanding) == last_half
    assert list(understanding.values()) == pytest.approx(
        [
            1.0,
            0.927,
            0.855,
            0.782,
            0.709,
            0.636,
            0.564,
            0.491,
            0.418,
            0.345,
            0.273,
            0.2,
        ],
        abs=5e-4,
    )


def test_emu3_keeps_a_fifth_in_its_last_sixteen_layers():
    for task in ("text_to_image", "image_to_text"):
        kept = keep_ratios("emu3", "unimod", task)
        assert kept == dict.fromkeys(range(16, 32), 0.2)


@pytest.mark.parametrize("variant", ["basic_mod", "task_routers_interleaved"])
def test_interleaved_variants_route_every_other_layer(variant):
    for task in ("text_to_image", "image_to_text"):
        assert list(keep_ratios("show_o_512", variant, task)) == list(range(1, 24, 2))


@pytest.mark.parametrize(
    ("variant", "routers"),
    [("unimod", 2), ("single_router", 1), ("single_router_matched", 1)],
)
def test_tasks_share_a_router_only_where_the_variant_says_so(variant, routers):
    routes = model_spec(preset("show_o_512"), variant).designs[-1].routes
    assert {route.task for route in routes} == {"text_to_image", "image_to_text"}
    assert len({route.router_name for route in routes}) == routers


@pytest.mark.parametrize("name", PRESETS)
def test_towers_and_experts_change_no_products_of_the_layers(name):
    tasks = preset(name).mean_tasks
    for task in tasks:
        assert change(name, "mot", task, "with_attention") == 0.0
        assert change(name, "moe4x", task) == pytest.approx(0.0, abs=0.005)


def test_both_papers_together_keep_a_quota_of_each_modality():
    spec = model_spec(preset("chameleon_443m"), "mot_unimod")
    assert [stream.name for stream in spec.streams] == ["text", "image"]
    route = spec.designs[-1].route_of("interleaved")
    assert route is not None
    assert route.keep_ratio_of("text") == route.keep_ratio_of("image") == 0.5
    assert mean_change("chameleon_443m", "mot_unimod") == pytest.approx(-0.25, abs=1e-3)


# --- All of them ----------------------------------------------------------------------


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_says_in_one_line_what_it_is(name):
    first = (inspect.getdoc(VARIANTS[name]) or "").splitlines()[0]
    assert first.endswith(".") and len(first) < 88


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_is_a_model_of_every_preset_that_it_applies_to(variant):
    for name, each in PRESETS.items():
        if variant.startswith("leave_one_out") and len(each.model.modalities) < 3:
            with pytest.raises(ValueError, match=f"{name} has the modalities") as why:
                model_spec(each, variant)
            assert str(why.value).count(". ") == 0
            continue
        assert len(model_spec(each, variant).designs) == each.model.num_layers


@pytest.mark.parametrize(
    "variant", [name for name in VARIANTS if name not in ("dense", "mot", "moe4x")]
)
def test_every_variant_of_the_smallest_model_traces(variant):
    which = preset("chameleon_37m_speech")
    spec = model_spec(which, variant)
    layouts = which.layouts(spec)
    some = {task: layouts[task] for task in ("text_to_image", "text_only")}
    assert parameters(spec, some).activated > 37e6


def test_an_unknown_variant_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"no variant 'mott'.*mot_unimod"):
        model_spec(preset("emu3"), "mott")


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_ranking_by_attention_costs_more_than_a_router(convention):
    ranked = mean_change("show_o_512", "attention_routing", convention)
    assert mean_change("show_o_512", "unimod", convention) < ranked < 0
