"""What the compile suite compiles, and how its ratios are taken."""

import jax
import pytest

from experiments.benchmark.compiling import (
    compile_afresh,
    plan_assembly,
    ratios,
)
from experiments.benchmark.workload import Size, sized
from experiments.published import published
from unimod_jax.presets import PRESETS
from unimod_jax.training import Assembly
from unimod_jax.training.prepared_step import CompiledStep


def seconds(trace, compiling):
    return CompiledStep(None, trace, compiling, 0, 0, 0)


def test_ratios_are_medians_of_trace_and_compile_over_the_dense_plan():
    taken = {
        "show_o.dense": [seconds(1, 3), seconds(2, 4), seconds(90, 90)],
        "ramp": [seconds(10, 20)],
        "emu3.dense": [seconds(1, 1)],
        "mot": [seconds(1, 2), seconds(2, 3)],
    }
    expected = {"compile.ramp.ratio": 5.0, "compile.mot.ratio": 2.0}
    assert ratios(taken) == expected


def test_a_plan_is_compiled_with_all_its_layers_and_tokens():
    full = Assembly(published("show_o_512", "unimod"))
    small = plan_assembly("ramp", width=32)
    assert small.spec.config.width == 32
    assert len(set(small.spec.designs)) == 13
    assert small.spec.config.num_layers == PRESETS["show_o_512"].model.num_layers
    assert small.rows == {"text_to_image": 5, "image_to_text": 5, "text_only": 2}
    for task, layout in small.layouts.items():
        assert layout.row_length == full.layouts[task].row_length


def test_emu3_keeps_its_share_of_key_heads():
    config = plan_assembly("emu3.dense", width=128).spec.config
    assert (config.num_heads, config.num_kv_heads) == (4, 1)


@pytest.mark.standard_promotion("optax: Adam's bias correction")
def test_compiling_needs_shapes_only_and_leaves_the_cache_as_it_was():
    size = Size({"text_to_image": 1}, width=32, num_layers=2, head_dim=16, image_side=4)
    enabled = jax.config.jax_enable_compilation_cache
    taken = compile_afresh(Assembly(sized("emu3", "dense", size)))
    assert taken.trace_seconds > 0
    assert taken.compile_seconds > 0
    assert taken.temporary_bytes > 0
    assert jax.config.jax_enable_compilation_cache == enabled
