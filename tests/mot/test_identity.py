"""All towers equal = the dense model, with any number of modalities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.tiny_model import (
    QUICK_TO_COMPILE,
    VOCABULARY_SIZE,
    by_position,
    flat,
    forward,
    in_towers,
    random_group,
    random_variables,
    summed_over_towers,
    tiny_spec,
)
from unimod_jax.layout import IMAGE, TEXT, SegmentSpec, TaskLayout
from unimod_jax.models import UnifiedModel
from unimod_jax.mot import COMPONENTS

SPEECH = "speech"
# Enough to store modalities apart, and no more.
NORM_ONLY = ("attention_norm",)


def mixed_batch(spec):
    """Rows that alternate modalities, with a bidirectional image and empty slots."""
    modalities = spec.config.modalities
    segments = (
        SegmentSpec("question", TEXT, 3, predicted_by="nothing"),
        SegmentSpec("picture", IMAGE, 3, span="picture"),
        SegmentSpec("voice", modalities[-1], 2),
        SegmentSpec("answer", TEXT, 3),
    )
    layout = TaskLayout("mixed", segments, spec.streams)
    return {"mixed": random_group(layout)}


def equal_parameters(modalities):
    """The dense parameters, and per kind of untying the same in every tower."""
    specs = {
        "dense": tiny_spec((), modalities=modalities),
        "norm only": tiny_spec(NORM_ONLY, modalities=modalities),
        "all towers": tiny_spec(COMPONENTS, modalities=modalities),
    }
    dense = random_variables(specs["dense"], mixed_batch(specs["dense"]))["params"]
    params = {
        name: in_towers(dense, random_variables(spec, mixed_batch(spec))["params"])
        for name, spec in specs.items()
    }
    return specs, params


def mixed_logits(spec, params):
    batch = mixed_batch(spec)
    outputs, _ = forward(spec)({"params": params}, batch)
    return batch["mixed"], outputs["mixed"].logits


def gradient_of(spec, params, cotangent_BTV):
    """Gradient of the logits weighted by a cotangent in sequence order."""
    batch = mixed_batch(spec)

    def loss(params):
        outputs, _ = UnifiedModel(spec).apply({"params": params}, batch)
        total = 0.0
        for name, logits_BTV in outputs["mixed"].logits.items():
            position_BT = batch["mixed"].streams[name].position_BT
            held_BT1 = (position_BT >= 0)[..., None]
            weight_BTV = jnp.take_along_axis(
                cotangent_BTV, jnp.maximum(position_BT, 0)[..., None], axis=1
            )
            total += jnp.sum(jnp.where(held_BT1, logits_BTV * weight_BTV, 0.0))
        return total

    return jax.jit(jax.grad(loss), compiler_options=QUICK_TO_COMPILE)(params)


@pytest.fixture(scope="module", params=[(TEXT, IMAGE), (TEXT, IMAGE, SPEECH)], ids=len)
def three_models(request):
    """Kind of untying -> (group, logits), for equal parameters."""
    specs, params = equal_parameters(request.param)
    return {name: mixed_logits(spec, params[name]) for name, spec in specs.items()}


def test_equal_towers_are_one_shared_tower_bit_for_bit(three_models):
    _, shared = three_models["norm only"]
    _, towers = three_models["all towers"]
    assert len(towers) >= 2
    for name in towers:
        assert towers[name].dtype == jnp.float32
        np.testing.assert_array_equal(towers[name], shared[name])


def test_equal_towers_are_the_dense_model_in_sequence_order(three_models):
    dense_group, dense = three_models["dense"]
    tower_group, towers = three_models["all towers"]
    assert len(dense) == 1
    np.testing.assert_allclose(
        by_position(tower_group, towers),
        by_position(dense_group, dense),
        rtol=1e-5,
        atol=1e-5,
    )


def test_towers_with_other_parameters_are_another_model():
    specs, params = equal_parameters((TEXT, IMAGE))
    spec = specs["all towers"]
    other = random_variables(spec, mixed_batch(spec))["params"]
    _, equal = mixed_logits(spec, params["all towers"])
    _, different = mixed_logits(spec, other)
    assert np.abs(different[IMAGE] - equal[IMAGE]).max() > 0.1


def test_summed_tower_gradients_are_the_dense_gradients():
    specs, params = equal_parameters((TEXT, IMAGE))
    cotangent = jax.random.normal(jax.random.key(3), (2, 11, VOCABULARY_SIZE))
    dense, towers = (
        gradient_of(specs[name], params[name], cotangent)
        for name in ("dense", "all towers")
    )
    dense, summed = flat(dense), summed_over_towers(towers, params["dense"])
    assert summed.keys() == dense.keys()
    for path, gradient in dense.items():
        np.testing.assert_allclose(
            summed[path], gradient, rtol=1e-4, atol=1e-4, err_msg=path
        )
        assert np.abs(gradient).max() > 1e-3, path
