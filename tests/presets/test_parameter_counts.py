"""Every size of the papers, counted from the real model's shapes."""

import dataclasses
import itertools

import pytest

from unimod_jax.models.accounting import ParameterCounts, parameters
from unimod_jax.presets import Preset, model_spec, preset

# Millions: dense, two towers, three towers (with speech), four experts. Reconstructed
# from widths, layers and heads of 2411.04996; norms, routers, the maps of patches and
# the rows that speech adds to the vocabulary are left out of it.
TABLE = {
    "chameleon_37m": (37.0, 40, 44, 44),
    "chameleon_94m": (94.4, 122, 149, 151),
    "chameleon_443m": (442.5, 751, 1059, 1065),
    "chameleon_880m": (880.8, 1560, 2240, 2240),
    "chameleon_1_5b": (1501.6, 2735, 3968, 3993),
    "chameleon_7b": (7012.9, 13489, 19965, 19998),
    "transfusion_163m": (162.4, 276, None, 389),
    "transfusion_760m": (777.8, 1457, None, 2137),
    "transfusion_1_4b": (1364.2, 2597, None, 3856),
    "transfusion_7b": (6738.1, 13214, None, 19724),
}
LEFT_OUT = 5e-4


def count(which: Preset, variant: str) -> ParameterCounts:
    """Without routing, rows of one task make every parameter."""
    spec = model_spec(which, variant)
    layout = which.layouts(spec)["text_to_image"]
    return parameters(spec, {"text_to_image": layout})


def printed(millions: float):
    last_digit = 0.1 if isinstance(millions, float) else 1.0
    return pytest.approx(millions, rel=0, abs=LEFT_OUT * millions + last_digit / 2)


def with_vocabulary_of(which: Preset, other: Preset) -> Preset:
    size = other.model.vocabulary_size
    model = dataclasses.replace(which.model, vocabulary_size=size)
    return dataclasses.replace(which, model=model)


@pytest.mark.parametrize("name", TABLE)
def test_sizes_are_the_published_ones(name):
    which = preset(name)
    dense, two, three, experts = TABLE[name]
    found = {v: count(which, v) for v in ("dense", "mot", "moe4x")}
    assert found["dense"].total / 1e6 == printed(dense)
    assert found["mot"].total / 1e6 == printed(two)
    assert found["moe4x"].total / 1e6 == printed(experts)
    assert found["mot"].activated == found["dense"].total
    routers = which.model.num_layers * which.model.width * 4
    assert found["moe4x"].activated == found["dense"].total + routers
    if three is not None:
        speech = with_vocabulary_of(preset(f"{name}_speech"), which)
        assert count(speech, "mot").total / 1e6 == printed(three)


def test_mot_7b_has_13_49_billion_parameters_and_activates_7_01():
    found = count(preset("chameleon_7b"), "mot")
    assert round(found.total / 1e9, 2) == 13.49
    assert round(found.activated / 1e9, 2) == 7.01


@pytest.mark.parametrize(
    ("name", "total"),
    [
        ("show_o_256", 1_448_176_770),
        ("show_o_512", 1_448_176_770),
        ("show_o_512_long", 1_448_176_770),
        ("emu3", 8_492_011_520),
        ("emu3_720", 8_492_011_520),
        # The language models of facebook/chameleon-7b and -30b, without the tokenizer.
        ("chameleon_7b_released", 7_013_666_816),
        ("chameleon_34b_released", 34_294_308_864),
    ],
)
def test_released_models_have_exactly_as_many_parameters(name, total):
    assert count(preset(name), "dense").total == total


def test_show_o_by_hand():
    norms = 2 * 2048 + 2 * 2 * 64
    attention, feed_forward = 4 * 2048**2 + 4 * 2048, 2 * 2048 * 8192 + 8192 + 2048
    layer = attention + feed_forward + norms
    assert layer == 50_354_432
    around = 2 * 58_498 * 2048 + 58_498 + 2 * 2048
    assert count(preset("show_o_512"), "dense").total == 24 * layer + around


@pytest.mark.parametrize("modality", ["text", "image", "speech"])
def test_leaving_a_modality_out_leaves_two_towers(modality):
    which = preset("chameleon_37m_speech")
    dense, found = count(which, "dense"), count(which, f"leave_one_out_{modality}")
    others = "+".join(name for name in ("text", "image", "speech") if name != modality)
    assert set(found.towers) == {modality, others}
    assert found.activated == dense.total
    assert found.total == 2 * dense.total - dense.embedding


def test_the_component_ablation_unties_more_at_each_step():
    which = preset("chameleon_94m")
    steps = ("dense", "mot_ffn_only", "mot_ffn_qkv", "mot_ffn_qkvo")
    totals = [count(which, variant).total for variant in steps]
    added = [after - before for before, after in itertools.pairwise(totals)]
    assert added == [8 * 3 * 512 * 1536, 8 * 3 * 512**2, 8 * 512**2]
    norms = count(which, "mot_ffn_qkvo_norms").total - totals[-1]
    assert norms == 8 * (2 * 512 + 2 * 2 * 64)
    assert count(which, "mot").total == totals[-1] + norms + 512


def test_the_hybrid_has_experts_in_its_text_tower_alone():
    which = preset("chameleon_94m")
    mot, hybrid = count(which, "mot"), count(which, "hybrid")
    assert hybrid.towers["image"] == mot.towers["image"]
    experts = 8 * (3 * 3 * 512 * 1536 + 4 * 512)
    assert hybrid.towers["text"] == mot.towers["text"] + experts


def test_routers_add_one_vector_per_task_and_routed_layer():
    which = preset("show_o_512")
    spec = model_spec(which, "unimod")
    found = parameters(spec, which.layouts(spec))
    assert found.total == 1_448_176_770 + 12 * 2 * 2048
