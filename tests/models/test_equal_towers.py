"""All towers equal = the dense model, for any modalities in any order.

Modality-major storage against sequence order, in packed rows of random documents: the
same values, and tower gradients that add up to the dense gradient.
"""

import functools

import hypothesis
import jax
import numpy as np
import pytest
from hypothesis import strategies as st

from tests.models.random_rows import (
    ROW_LENGTH,
    interleaved_layout,
    random_interleaving,
    weighted_sum,
)
from tests.models.tiny_model import (
    QUICK_TO_COMPILE,
    VOCABULARY_SIZE,
    by_position,
    flat,
    in_towers,
    random_variables,
    summed_over_towers,
    tiny_spec,
)
from unimod_jax.layout import IMAGE, SPEECH, TEXT
from unimod_jax.models import UnifiedModel
from unimod_jax.mot import COMPONENTS

TWO, THREE = (TEXT, IMAGE), (TEXT, IMAGE, SPEECH)
# Grouped queries: four query heads for two key heads.
HEADS = {"num_heads": 4, "num_kv_heads": 2}
CASES = {
    "pre": (THREE, {}),
    "pre of two modalities": (TWO, {}),
    "swin": (THREE, {"norm_order": "swin", "qk_norm": "layer_per_head"}),
    "parallel": (
        THREE,
        {
            "norm_order": "parallel",
            "norm": "layer",
            "qk_norm": "layer",
            "feed_forward": "gelu",
            "biases": True,
            "rotary_share": 0.5,
        },
    ),
}
COTANGENT = np.random.default_rng(0).normal(size=(2, ROW_LENGTH, VOCABULARY_SIZE))


@functools.cache
def models(case):
    """(layout, parameters, jitted gradients and logits) of dense and of towers."""
    modalities, config = CASES[case]
    made = []
    for untied in ((), COMPONENTS):
        spec = tiny_spec(untied, modalities=modalities, **HEADS, **config)
        layout = interleaved_layout(spec)
        params = random_variables(spec, {"interleaved": random_interleaving(layout)})
        params = params["params"]
        if made:
            params = in_towers(made[0][1], params)
        made.append((layout, params, gradients_and_logits(spec)))
    return made


def gradients_and_logits(spec):
    """Jitted (params, group) -> (gradients, logits)."""
    cotangent = np.asarray(COTANGENT, np.float32)

    def loss(params, group):
        outputs, _ = UnifiedModel(spec).apply(
            {"params": params}, {"interleaved": group}
        )
        logits = outputs["interleaved"].logits
        return weighted_sum(group, logits, cotangent), logits

    return jax.jit(jax.grad(loss, has_aux=True), compiler_options=QUICK_TO_COMPILE)


@pytest.mark.parametrize("case", CASES)
@hypothesis.settings(max_examples=8)
@hypothesis.given(seed=st.integers(0, 2**31))
def test_equal_towers_are_the_dense_model_for_any_interleaving(case, seed):
    results = []
    for layout, params, differentiate in models(case):
        group = random_interleaving(layout, seed=seed)
        gradients, logits = differentiate(params, group)
        results.append((by_position(group, logits), gradients, len(logits)))
    (dense, of_dense, one), (towers, of_towers, many) = results
    assert (one, many) == (1, len(CASES[case][0]))
    np.testing.assert_allclose(towers, dense, rtol=1e-5, atol=2e-5)
    summed = summed_over_towers(of_towers, of_dense)
    assert summed.keys() == flat(of_dense).keys()
    for path, gradient in flat(of_dense).items():
        scale = np.abs(gradient).max()
        np.testing.assert_allclose(
            summed[path], gradient, rtol=1e-4, atol=1e-4 * scale, err_msg=path
        )


@pytest.mark.parametrize("case", CASES)
def test_every_parameter_of_every_tower_has_a_gradient(case):
    layout, params, differentiate = models(case)[1]
    gradients, _ = differentiate(params, random_interleaving(layout, seed=7))
    for path, gradient in flat(gradients).items():
        assert np.abs(gradient).max() > 1e-4, path


def test_random_rows_differ_in_the_order_of_their_modalities():
    layout = models("pre")[0][0]
    stream = random_interleaving(layout, num_rows=6).streams["text+image+speech"]
    held = np.asarray(stream.modality_BT)
    assert len(np.unique(held, axis=0)) == 6
    assert len(np.unique(np.asarray(stream.window_start_BT))) > 3
