"""The whole model: its parameters, their axes, its dtypes, and NNX around it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

from tests.models.tiny_model import (
    PATCH_SIZE,
    abstract_variables,
    flat,
    forward,
    random_batch,
    random_variables,
    routed_in,
    tiny_spec,
)
from unimod_jax.layout import IMAGE, TEXT
from unimod_jax.models import (
    ModelConfig,
    UnifiedModel,
    count_parameters,
)
from unimod_jax.objectives import ImageDiffusion, NextToken
from unimod_jax.parallel import MeshConfig, ShardingRules, make_mesh

ROUTED = routed_in((1,), ("text_to_image",), keep_ratio=0.5)
# Width 16, 24 ids, two query heads and one key head of 8, hidden 24, patches of 3.
BLOCK = (
    ("attention_norm", "scale", (16,), ("norm",)),
    ("query", "kernel", (16, 16), ("embed", "heads")),
    ("key", "kernel", (16, 8), ("embed", "kv_heads")),
    ("value", "kernel", (16, 8), ("embed", "kv_heads")),
    ("query_norm", "scale", (8,), ("norm",)),
    ("key_norm", "scale", (8,), ("norm",)),
    ("output", "kernel", (16, 16), ("heads", "embed")),
    ("feed_forward_norm", "scale", (16,), ("norm",)),
    ("feed_forward", "gate/kernel", (16, 24), ("embed", "mlp")),
    ("feed_forward", "up/kernel", (16, 24), ("embed", "mlp")),
    ("feed_forward", "down/kernel", (24, 16), ("mlp", "embed")),
)
OUTSIDE = {
    "embedding/table": ((24, 16), ("vocab", "embed")),
    "embedding/image_position": ((4, 16), ("position", "embed")),
    "vocabulary_head/kernel": ((16, 24), ("embed", "vocab")),
}
PATCHES = {
    "embedding/patch": ((3, 16), ("patch", "embed")),
    "embedding/time": ((32, 16), ("patch", "embed")),
    "patch_head/kernel": ((16, 3), ("embed", "patch")),
}


def stacked(run, towers):
    """The parameters of a run of one layer, per tower."""
    return {
        f"transformer/{run}/block/{component}/{tower}/{rest}": (
            (1, *shape),
            ("layers", *axes),
        )
        for component, rest, shape, axes in BLOCK
        for tower in towers
    }


def shapes_and_axes(spec, objective):
    boxed = abstract_variables(spec, random_batch(objective, spec))["params"]
    return {name: (leaf.value.shape, leaf.names) for name, leaf in flat(boxed).items()}


def test_a_dense_model_has_these_parameters_and_axes():
    spec = tiny_spec((), num_layers=1)
    assert shapes_and_axes(spec, NextToken()) == (
        OUTSIDE
        | stacked("run_0", ["shared"])
        | {"final_norm/shared/scale": ((16,), ("norm",))}
    )


def test_a_routed_two_tower_model_of_patches_has_these_parameters_and_axes():
    spec = tiny_spec(routing=ROUTED, patch_size=PATCH_SIZE)
    routers = {
        f"transformer/run_1/routers_text_to_image/{name}": (
            (1, 16),
            ("layers", "embed"),
        )
        for name in (TEXT, IMAGE)
    }
    final = {f"final_norm/{tower}/scale": ((16,), ("norm",)) for tower in (TEXT, IMAGE)}
    assert shapes_and_axes(spec, ImageDiffusion()) == (
        OUTSIDE
        | PATCHES
        | stacked("run_0", [TEXT, IMAGE])
        | stacked("run_1", [TEXT, IMAGE])
        | routers
        | final
    )


def test_the_dense_twin_has_one_tower_and_no_routers():
    spec = tiny_spec(routing=ROUTED)
    twin = spec.dense_twin()
    assert twin == tiny_spec(())
    abstract = abstract_variables(twin, random_batch(NextToken(), twin))
    assert set(abstract) == {"params"}
    block = 2 * 16 * 16 + 2 * 16 * 8 + 3 * 16 * 24 + 2 * 16 + 2 * 8
    outside = 24 * 16 + 4 * 16 + 16 * 24 + 16
    assert count_parameters(abstract["params"]) == 2 * block + outside


@pytest.mark.parametrize("objective", [NextToken(), ImageDiffusion()])
def test_outputs_have_the_shapes_of_the_streams_that_predict(objective):
    patch_size = PATCH_SIZE if objective.continuous_images else 0
    spec = tiny_spec(patch_size=patch_size)
    batch = random_batch(objective, spec)

    def say(variables, batch):
        outputs, _ = UnifiedModel(spec).apply(variables, batch)
        return {task: (out.logits, out.patches) for task, out in outputs.items()}

    said = jax.eval_shape(say, abstract_variables(spec, batch), batch)
    for task, group in batch.items():
        layout = group.layout
        logits, patches = said[task]
        assert set(logits) == {n for n in layout.stream_names if layout.predicts(n)}
        assert set(patches) == ({IMAGE} if layout.num_patches else set())
        for name, array in logits.items():
            assert array.shape == (2, layout.num_tokens(name), 24)
        for array in patches.values():
            assert array.shape == (2, layout.num_patches, PATCH_SIZE)


def test_bfloat16_activations_give_finite_float32_logits_close_to_float32():
    specs = [
        tiny_spec((), compute_dtype=dtype, patch_size=PATCH_SIZE)
        for dtype in ("float32", "bfloat16")
    ]
    batch = random_batch(ImageDiffusion(), specs[0], tasks=("text_to_image",))
    variables = random_variables(specs[0], batch)
    outputs = [forward(spec)(variables, batch)[0]["text_to_image"] for spec in specs]
    exact, rounded = (jax.tree.leaves([out.logits, out.patches]) for out in outputs)
    for expected, got in zip(exact, rounded, strict=True):
        assert got.dtype == expected.dtype == jnp.float32
        assert np.isfinite(got).all()
        scale = float(jnp.std(expected))
        np.testing.assert_allclose(got, expected, atol=0.15 * scale)
        assert not np.array_equal(got, expected)


def test_a_routed_model_runs_in_bfloat16():
    spec = tiny_spec(routing=ROUTED, compute_dtype="bfloat16")
    batch = random_batch(NextToken(), spec, tasks=("text_to_image",))
    variables = random_variables(spec, batch)
    outputs, reports = forward(spec)(variables, batch)
    said = [(output.logits, output.patches) for output in outputs.values()]
    for logits in jax.tree.leaves(said):
        assert logits.dtype == jnp.float32
        assert np.isfinite(logits).all()
    for routing in reports[1]["text_to_image"].values():
        assert np.asarray(routing.kept_BT).any()


def test_task_groups_do_not_see_each_other():
    spec = tiny_spec(())
    batch = random_batch(NextToken(), spec, tasks=("text_to_image", "text_only"))
    variables = random_variables(spec, batch)
    stream = "text+image"
    token_id_BT = batch["text_to_image"].streams[stream].token_id_BT
    others = batch["text_to_image"].with_stream(stream, token_id_BT=token_id_BT[::-1])
    before, _ = forward(spec)(variables, batch)
    after, _ = forward(spec)(variables, batch | {"text_to_image": others})
    np.testing.assert_array_equal(
        after["text_only"].logits[stream], before["text_only"].logits[stream]
    )
    change = (
        after["text_to_image"].logits[stream] - before["text_to_image"].logits[stream]
    )
    assert np.abs(change).max() > 0.1


def test_nnx_wraps_the_model_and_gives_the_same_logits():
    spec = tiny_spec((), num_layers=1)
    batch = random_batch(NextToken(), spec, tasks=("text_only",))
    rules = tuple(dataclasses.asdict(ShardingRules()).items())

    @nnx.jit
    def initial():
        bridged = nnx.bridge.ToNNX(UnifiedModel(spec), rngs=nnx.Rngs(0))
        return nnx.bridge.lazy_init(bridged, batch)

    # The bridge turns logical axes into shardings, so it asks for a mesh and rules.
    with jax.set_mesh(make_mesh(MeshConfig())), nn.logical_axis_rules(rules):
        bridged = initial()
        outputs, _ = nnx.jit(lambda model, batch: model(batch))(bridged, batch)
        state = nnx.to_pure_dict(nnx.state(bridged, nnx.Param))
    expected, _ = forward(spec)({"params": state}, batch)
    np.testing.assert_allclose(
        outputs["text_only"].logits["text+image"],
        expected["text_only"].logits["text+image"],
        rtol=1e-6,
        atol=1e-6,
    )


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"num_heads": 3, "num_kv_heads": 2}, "num_heads 3 is not a multiple"),
        ({"num_layers": 0}, "num_layers is 0, but a model has at least one"),
        ({"head_dim": 7}, r"rotary_share 1.0 of head_dim 7 is 7; make both even"),
        ({"rotary_share": 0.35}, r"rotary_share 0.35 of head_dim 32 is 11"),
        ({"residual_dropout": 1.0}, r"residual_dropout 1.0 is no share of what is"),
        ({"compute_dtype": "float16"}, "'float16' is not supported; choose"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_in_a_sentence(wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        ModelConfig(**wrong)


def test_a_plan_of_another_depth_is_refused_in_a_sentence():
    message = "has 2 layers, but num_layers is 4; give a plan of 4"
    with pytest.raises(ValueError, match=message):
        ROUTED.routes(4)


def test_a_text_ratio_of_its_own_applies_to_the_text_stream_only():
    routing = routed_in((1,), ("text_to_image",), 0.4, text_keep_ratio=0.9)
    dense, (route,) = routing.routes(2)
    assert dense == ()
    assert route.keep_ratio_of(TEXT) == 0.9
    assert route.keep_ratio_of(IMAGE) == 0.4
    ((), (plain,)) = dataclasses.replace(routing, text_keep_ratio=0.0).routes(2)
    assert plain.keep_ratio_of(TEXT) == 0.4
