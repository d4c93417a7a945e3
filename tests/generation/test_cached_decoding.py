"""Rows run token by token with caches equal whole rows, under the same decisions."""

import dataclasses

import jax
import numpy as np
import pytest

from tests.generation.token_by_token import (
    bound_model,
    next_logits,
    routing,
    run_token_by_token,
    run_whole,
    with_thresholds,
)
from tests.models.tiny_model import (
    DENSE_DEPTH,
    PATCH_SIZE,
    SIZES,
    VOCABULARY_SIZE,
    random_group,
    tiny_spec,
)
from tests.task_rows import layouts
from unimod_jax.generation import BoundModel
from unimod_jax.models import (
    MixtureOfTransformers,
    UnifiedModel,
    cache_bytes,
    empty_caches,
)
from unimod_jax.mot import COMPONENTS
from unimod_jax.objectives import ImageDiffusion, MaskedImage, NextToken

ONE, TWO = (), COMPONENTS
RANDOM = {"scorer": "random", "score_weight": "one"}
RULES = {
    "following": routing(),
    "trained": routing("trained_threshold"),
    "predictor": routing("predictor"),
    "random": routing(**RANDOM),
}
# What stands before a caption when an image is shown: three markers and the image.
SHOWN = 3 + SIZES.image_codes
CASES = {
    "dense": (ONE, DENSE_DEPTH, NextToken(), "text_to_image", 0),
    "towers": (TWO, DENSE_DEPTH, NextToken(), "text_to_image", 0),
    "towers shown": (TWO, DENSE_DEPTH, MaskedImage(), "image_to_text", SHOWN),
    "half dense": (TWO, routing(layers=(1,)), NextToken(), "text_to_image", 3),
    "half skipped": (
        TWO,
        routing(layers=(1,), keep_ratio=0.0),
        NextToken(),
        "image_to_text",
        0,
    ),
}
for rule, depth in RULES.items():
    CASES |= {
        f"one stream {rule}": (ONE, depth, NextToken(), "image_to_text", 0),
        f"two streams {rule}": (TWO, depth, NextToken(), "text_to_image", 0),
    }
for objective in (MaskedImage(), ImageDiffusion()):
    name = type(objective).__name__
    CASES |= {
        f"{name} one": (ONE, RULES["following"], objective, "image_to_text", SHOWN),
        f"{name} two": (TWO, RULES["predictor"], objective, "image_to_text", SHOWN),
    }
CASES["MaskedImage random"] = (
    TWO,
    RULES["random"],
    MaskedImage(),
    "image_to_text",
    SHOWN,
)


def rows_and_model(case):
    untied, depth, objective, task, prefix = CASES[case]
    patch_size = PATCH_SIZE if objective.continuous_images else 0
    spec = tiny_spec(untied, depth, patch_size)
    layout = layouts(objective, SIZES, spec.streams)[task]
    group = random_group(layout, 3, seed=1)
    return bound_model(spec, group), group, prefix


def kept_per_row(reports, task):
    """Run -> stream -> how many tokens each layer of it keeps, [L, B]."""
    return [
        {
            name: np.asarray(stream.kept_BT).sum(axis=-1)
            for name, stream in report.get(task, {}).items()
        }
        for report in reports
    ]


def check(bound, group, prefix):
    whole_TBV, reports = run_whole(bound, group)
    single_TBV, caches = run_token_by_token(bound, group, prefix)
    np.testing.assert_allclose(single_TBV, whole_TBV, atol=1e-5)
    assert np.abs(whole_TBV).max() > 0.1
    kept = kept_per_row(reports, group.layout.task)
    for cache, kept_of_run in zip(caches, kept, strict=True):
        for name, kept_LB in kept_of_run.items():
            np.testing.assert_array_equal(cache.used[name], kept_LB)
    return kept


@pytest.mark.parametrize("case", CASES)
def test_token_by_token_equals_the_whole_row(case):
    bound, group, prefix = rows_and_model(case)
    kept = check(bound, group, prefix)
    tokens = sum(np.asarray(s.position_BT >= 0).sum() for s in group.streams.values())
    for kept_of_run in filter(None, kept):
        num_layers = len(next(iter(kept_of_run.values())))
        share = sum(k.sum() for k in kept_of_run.values()) / (num_layers * tokens)
        assert 0.3 < share < 0.75


@pytest.mark.parametrize(
    "case", ["one stream following", "two streams predictor", "two streams random"]
)
def test_first_come_first_served_when_everything_passes_the_threshold(case):
    bound, group, prefix = rows_and_model(case)
    (kept,) = check(with_thresholds(bound, -1e9), group, prefix)
    for name, kept_LB in kept.items():
        slots = group.layout.num_tokens(name)
        held_B = np.asarray(group.streams[name].position_BT >= 0).sum(axis=1)
        capacity = -(-slots // 2)
        np.testing.assert_array_equal(kept_LB, [np.minimum(held_B, capacity)] * 2)
        assert (held_B > capacity).any()


@pytest.mark.parametrize("objective", [NextToken(), ImageDiffusion()])
@pytest.mark.parametrize("untied", [ONE, TWO], ids=["one stream", "two streams"])
def test_routed_layers_cache_no_more_than_they_keep(objective, untied):
    depth = routing(layers=(1,), text_keep_ratio=0.25)
    spec = tiny_spec(untied, depth, patch_size=PATCH_SIZE)
    layout = layouts(objective, SIZES, spec.streams)["text_to_image"]
    caches = empty_caches(spec, layout, num_rows=3)
    stored = [array.nbytes for c in caches for array in (c.key_BSGE, c.value_BSGE)]
    assert cache_bytes(spec, layout) * 3 == sum(stored)
    # Keys and values of one head of 8 float32. Layer 0 caches 7 text and 4 image
    # tokens; layer 1 a quarter of 7 and a half of 4, or a half of 11 in one stream.
    per_token = 2 * 8 * 4
    routed = 2 + 2 if untied else 6
    assert cache_bytes(spec, layout) == (11 + routed) * per_token
    twin = spec.dense_twin()
    twin_layout = layouts(objective, SIZES, twin.streams)["text_to_image"]
    assert cache_bytes(twin, twin_layout) == (11 + 11) * per_token


def test_a_skipped_layer_caches_nothing():
    spec = tiny_spec(TWO, routing(layers=(1,), keep_ratio=0.0))
    layout = layouts(NextToken(), SIZES, spec.streams)["text_to_image"]
    assert [c is None for c in empty_caches(spec, layout, 2)] == [False, True]


def test_the_head_meets_one_token_of_each_row_of_a_prompt():
    spec = tiny_spec(TWO, DENSE_DEPTH, feed_forward_hidden=20)
    layout = layouts(NextToken(), SIZES, spec.streams)["text_to_image"]
    group = random_group(layout, 3)
    bound = bound_model(spec, group)

    def prefill(bound, group):
        caches = bound.empty_caches(layout, 3)
        return bound.extend_to_last(group, caches)[0]

    program = str(jax.make_jaxpr(prefill)(bound, group))
    assert f"f32[3,1,{VOCABULARY_SIZE}]" in program
    for num_tokens in (7, 4, 11):
        assert f"f32[3,{num_tokens},16]" in program
        assert f"f32[3,{num_tokens},{VOCABULARY_SIZE}]" not in program
    np.testing.assert_allclose(
        jax.jit(prefill)(bound, group), next_logits(bound, group), atol=1e-5
    )


def refused(towers=None, objective=None, task="image_to_text", **choices):
    """What is said when such a model is asked for caches."""
    spec = tiny_spec(TWO, routing(**choices) if choices else DENSE_DEPTH)
    if towers:
        spec = dataclasses.replace(spec, towers=towers)
    layout = layouts(objective or NextToken(), SIZES, spec.streams)[task]
    with pytest.raises(ValueError) as error:
        BoundModel(UnifiedModel(spec), {}).empty_caches(layout, 2)
    return str(error.value)


def test_models_that_look_ahead_are_refused():
    experts = MixtureOfTransformers(TWO, expert_towers=("text",))
    assert "experts of towers ('text',)" in refused(experts)
    assert "causal_rule 'top_k'" in refused(rule="top_k")
    attention = {"scorer": "attention", "score_weight": "one"}
    assert "scorer 'attention'" in refused(**attention)
    # Even where the image is there as a whole: captions go on attending to it.
    assert "scorer 'attention'" in refused(objective=MaskedImage(), **attention)


@pytest.mark.parametrize("keep_ratio", [0.0, 1.0])
def test_rules_that_choose_nothing_are_not_refused(keep_ratio):
    spec = tiny_spec(TWO, routing("top_k", (1,), keep_ratio))
    layout = layouts(NextToken(), SIZES, spec.streams)["text_to_image"]
    assert len(BoundModel(UnifiedModel(spec), {}).empty_caches(layout, 2)) == 2
