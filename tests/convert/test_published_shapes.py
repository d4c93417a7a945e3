"""Our presets and tables against the names and shapes of the released models."""

import dataclasses
import functools
import json
import re

import flax.traverse_util
import jax
import pytest
from flax import linen as nn

from tests.convert.golden_models import GOLDEN
from unimod_jax.convert import LAYOUTS, ConversionError, phi, recognised, show_o
from unimod_jax.layout import InterleavedLayout
from unimod_jax.models import ModelSpec, UnifiedModel
from unimod_jax.models.accounting import abstract_rows
from unimod_jax.models.config import DENSE
from unimod_jax.models.warm_start import stacked_sources
from unimod_jax.presets import model_spec, preset


def of_preset(name):
    return preset(name).model


RELEASED = {
    "chameleon_7b_released": ("chameleon", of_preset("chameleon_7b_released")),
    "chameleon_34b_released": ("chameleon", of_preset("chameleon_34b_released")),
    "emu3": ("emu3", of_preset("emu3")),
    "emu3_hf": ("emu3_hf", of_preset("emu3_720")),
    "phi": ("phi", phi.phi_1_5()),
    "show_o": ("show_o", of_preset("show_o_512")),
}
"""Golden name -> (layout, our architecture)."""


@functools.cache
def published_shapes(name):
    found = json.loads((GOLDEN / "published_shapes.json").read_text())[name]
    shapes = {}
    for key, shape in found["shapes"].items():
        for layer in range(found["num_layers"] if ".layers.0." in key else 1):
            shapes[key.replace(".layers.0.", f".layers.{layer}.")] = tuple(shape)
    return shapes


def parameter_shapes(spec, layouts):
    """Path -> shape of the parameters of a model that nobody makes."""
    batch = {task: abstract_rows(spec, layout) for task, layout in layouts.items()}
    params = jax.eval_shape(
        lambda batch: nn.unbox(UnifiedModel(spec).init(jax.random.key(0), batch)),
        batch,
    )["params"]
    flat = flax.traverse_util.flatten_dict(params)
    return {path: leaf.shape for path, leaf in flat.items()}


@pytest.mark.parametrize("name", RELEASED)
def test_a_table_names_every_tensor_of_the_released_model_and_its_shape(name):
    layout, config = RELEASED[name]
    table = LAYOUTS[layout].weights(config, 1)
    ours = {tensor.name: tensor.shape for tensor in table.values()}
    assert ours == published_shapes(name)
    assert len(ours) == len(table)


@pytest.mark.parametrize("name", RELEASED)
def test_every_parameter_of_the_preset_has_its_tensor(name):
    layout, config = RELEASED[name]
    table = LAYOUTS[layout].weights(config, 1)
    spec = ModelSpec(config, *DENSE, config.vocabulary_size, image_tokens=4)
    rows = InterleavedLayout("interleaved", spec.streams, (("text", 2),))
    shapes = parameter_shapes(spec, {"interleaved": rows})
    dense = {path: entry.parameter_shape for path, entry in table.items()}
    sources = stacked_sources(shapes, spec.designs, dense)
    assert sources.keys() == shapes.keys()
    assert {source for each in sources.values() for source in each} == dense.keys()


@pytest.mark.parametrize("name", RELEASED)
def test_released_files_are_recognised_by_their_names(name):
    assert recognised(published_shapes(name)) is LAYOUTS[RELEASED[name][0]]


def test_old_names_of_emu3_are_those_that_transformers_renames():
    config = of_preset("emu3")
    tables = {
        name: LAYOUTS[name].weights(config, 1) for name in ("emu3_hf", "emu3_hf_old")
    }

    def renamed(name):
        # transformers/conversion_mapping.py, of "Emu3Model" and "emu3".
        name = re.sub(r"^text_model\.lm_head", "lm_head", name)
        name = re.sub(r"^text_model\.model", "text_model", name)
        return re.sub(r"^text_model", "model.text_model", name)

    old = {path: renamed(entry.name) for path, entry in tables["emu3_hf_old"].items()}
    assert old == {path: entry.name for path, entry in tables["emu3_hf"].items()}
    names = {entry.name for entry in tables["emu3_hf_old"].values()}
    assert recognised(names) is LAYOUTS["emu3_hf_old"]


def test_the_projector_of_show_o_is_two_linear_maps():
    table = show_o.projector_weights(2048)
    assert {entry.name: entry.shape for entry in table.values()} == {
        "mm_projector.0.weight": (2048, 1024),
        "mm_projector.0.bias": (2048,),
        "mm_projector.2.weight": (2048, 2048),
        "mm_projector.2.bias": (2048,),
    }
    names = {*published_shapes("show_o"), "mm_projector.0.weight"}
    assert recognised(names) is LAYOUTS["show_o_clip"]


@pytest.mark.parametrize(
    ("layout", "wrong", "words"),
    [
        (
            "chameleon",
            {"qk_norm": "layer"},
            "qk_norm is 'layer', but published weights",
        ),
        ("emu3", {"norm_order": "swin"}, "norm_order is 'swin', but .* have 'pre'"),
        ("show_o", {"biases": False}, "biases is False, but .* of Phi have True"),
    ],
)
def test_an_architecture_that_no_file_holds_is_refused(layout, wrong, words):
    (config,) = {c for name, c in RELEASED.values() if name == layout and c.width < 8e3}
    with pytest.raises(ConversionError, match=words):
        LAYOUTS[layout].weights(dataclasses.replace(config, **wrong), 1)


VARIANTS_OF = (
    ("show_o_512", "mot_unimod"),
    ("emu3", "unimod_quantised"),
    ("chameleon_7b_released", "mot_ffn_qkv"),
)


@pytest.mark.parametrize(("name", "variant"), VARIANTS_OF, ids=str)
def test_released_weights_start_the_variants_that_the_papers_compare(name, variant):
    published = preset(name)
    layout, _ = RELEASED[name.removesuffix("_512")]
    spec = model_spec(published, variant)
    shapes = parameter_shapes(spec, published.layouts(spec))
    table = LAYOUTS[layout].weights(published.model, 1)
    dense = {path: entry.parameter_shape for path, entry in table.items()}
    sources = stacked_sources(shapes, spec.designs, dense)
    assert {source for each in sources.values() for source in each} == dense.keys()
    without = {path for path in shapes if path not in sources}
    assert all("routers_" in path[2] for path in without)
    assert bool(without) == ("unimod" in variant)
