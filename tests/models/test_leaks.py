"""The future-perturbation test: nothing after a token decides whether it is processed.

In inference, as when decoding. Each row of a batch is the same row, perturbed after
another position; random scorers draw by row, so a row is compared with itself.
"""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from tests.models.perturbed_rows import perturbed_after, repeated, unaware
from tests.models.tiny_model import (
    CODE_IDS,
    PATCH_SIZE,
    QUICK_TO_COMPILE,
    SIZES,
    TEXT_IDS,
    by_position,
    random_group,
    random_variables,
    routed_in,
    stack,
    tiny_spec,
)
from tests.task_rows import layouts
from unimod_jax.layout import (
    IMAGE,
    TEXT,
    InterleavedDocument,
    InterleavedLayout,
    Span,
    lay_out_documents,
)
from unimod_jax.mod.causal_gate import STATE
from unimod_jax.models import MixtureOfTransformers, UnifiedModel
from unimod_jax.mot import COMPONENTS
from unimod_jax.objectives import ImageDiffusion, MaskedImage, NextToken

ALL = ("text_to_image", "image_to_text", "text_only", "interleaved")
# A row of masked codes is always there as a whole, so it is not among these.
CAUSAL_TASKS = {
    "next token": (NextToken(), ALL),
    "diffusion": (ImageDiffusion(), ALL),
    "masked image": (MaskedImage(), ("image_to_text", "text_only")),
}
RULES = {
    "following": {"causal_rule": "following_threshold"},
    "trained": {"causal_rule": "trained_threshold"},
    "predictor": {"causal_rule": "predictor"},
    "top_k": {"causal_rule": "top_k"},
    "random": {"scorer": "random", "score_weight": "one"},
}
CAUSAL_RULES = tuple(name for name in RULES if name != "top_k")
NUM_ROWS = 6
STORAGE = {"one stream": (), "two streams": COMPONENTS}
ROW_SIZES = dataclasses.replace(SIZES, text_tokens=8)
DOCUMENT_SLOTS = ((TEXT, 16), (IMAGE, 8))


def spec_of(objective, untied, rule):
    patch_size = PATCH_SIZE if objective.continuous_images else 0
    depth = routed_in((0, 1), ALL, keep_ratio=0.6, **RULES[rule])
    return tiny_spec(untied, depth, patch_size)


def one_row(layout):
    """A full row: full segments, or two documents, the first with two images."""
    if not isinstance(layout, InterleavedLayout):
        return random_group(layout, num_rows=1, seed=4)
    rng = np.random.default_rng(4)
    size = SIZES.image_patches

    def text(length):
        return Span(TEXT, rng.choice(TEXT_IDS, length).tolist())

    def image():
        if not layout.patches_per_image:
            return Span(IMAGE, rng.choice(CODE_IDS, size).tolist())
        patches = rng.normal(size=(size, PATCH_SIZE)).astype(np.float32)
        return Span(IMAGE, (), bidirectional=True, patches=patches)

    first = (text(3), image(), text(2), image(), text(4))
    documents = [InterleavedDocument(first), InterleavedDocument((text(5),))]
    return stack([lay_out_documents(documents, layout)])


@dataclasses.dataclass(frozen=True)
class Difference:
    """What a perturbation of later tokens did to one task.

    Attributes:
      kept_LBT: boolean, tokens that moved in or out of a routed layer.
      output_BT: largest change of what the model says of a token.
      unaware_BT: tokens that must not have noticed.
      share: of tokens that routed layers kept.
    """

    kept_LBT: np.ndarray
    output_BT: np.ndarray
    unaware_BT: np.ndarray
    share: float

    @property
    def leaks(self):
        """Whether some token noticed what comes after it."""
        moved = (self.kept_LBT & self.unaware_BT[None]).any()
        return bool(moved or (self.output_BT * self.unaware_BT).max() > 1e-4)


def differences(objective, tasks, spec, mutable=False):
    """Task -> difference, from two calls of one compiled program."""
    slots = DOCUMENT_SLOTS if "interleaved" in tasks else ()
    rows_of = layouts(objective, ROW_SIZES, spec.streams, slots)
    last, whole, changed = {}, {}, {}
    for index, task in enumerate(tasks):
        row = one_row(rows_of[task])
        length = max(int(s.window_end_BT.max()) for s in row.streams.values())
        last[task] = np.unique(np.linspace(0, length - 2, NUM_ROWS).astype(int))
        whole[task] = repeated(row, len(last[task]))
        changed[task] = perturbed_after(whole[task], last[task], seed=index)
    variables = random_variables(spec, whole)
    model = functools.partial(UnifiedModel(spec).apply, mutable=mutable)
    apply = jax.jit(model, compiler_options=QUICK_TO_COMPILE)
    results = [apply(variables, batch) for batch in (whole, changed)]
    if mutable:
        results = [result for result, _ in results]
    return {
        task: difference(task, group, last[task], *results)
        for task, group in whole.items()
    }


def difference(task, group, last_B, before, after):
    """Compares one task's outputs and kept tokens in sequence order."""
    kept, outputs = [], []
    for result, reports in (before, after):
        routed = reports[0].get(task, {})
        layers = [
            by_position(group, {n: r.kept_BT[layer] for n, r in routed.items()})
            for layer in range(2 * bool(routed))
        ]
        kept.append(np.array(layers, bool).reshape(-1, *whole_shape(group)))
        said = [result[task].logits, result[task].patches]
        said = [by_position(group, arrays) for arrays in said if arrays]
        outputs.append(np.concatenate(said, axis=-1))
    return Difference(
        kept[0] != kept[1],
        np.abs(outputs[0] - outputs[1]).max(axis=-1),
        unaware(group, last_B),
        kept[0].sum() / max(1, kept[0].shape[0] * num_held(group)),
    )


def whole_shape(group):
    return group.num_rows, group.layout.row_length


def num_held(group):
    return sum(int((s.position_BT >= 0).sum()) for s in group.streams.values())


@functools.cache
def routed_differences(family, storage, rule):
    objective, tasks = CAUSAL_TASKS[family]
    return differences(objective, tasks, spec_of(objective, STORAGE[storage], rule))


CASES = [
    ("two streams", name, family) for family in CAUSAL_TASKS for name in CAUSAL_RULES
] + [("one stream", "following", family) for family in CAUSAL_TASKS]


@pytest.mark.parametrize(("storage", "rule", "family"), CASES)
def test_later_tokens_change_neither_what_is_kept_nor_what_is_said(
    storage, rule, family
):
    changes = routed_differences(family, storage, rule)
    for task, change in changes.items():
        assert not change.leaks, task
        # Some tokens had to stay as they were, and others did notice.
        assert change.unaware_BT.any(axis=1).sum() >= 3, task
        assert change.output_BT.max() > 0.1, task
    assert 0.2 < np.mean([change.share for change in changes.values()]) < 0.8


@pytest.mark.parametrize("storage", STORAGE)
@pytest.mark.parametrize("family", CAUSAL_TASKS)
def test_top_k_looks_ahead_in_every_causal_task(storage, family):
    found = routed_differences(family, storage, "top_k")
    assert [task for task, change in found.items() if not change.leaks] == []


def test_the_gate_does_not_look_ahead_in_training_either():
    spec = spec_of(NextToken(), COMPONENTS, "following")
    found = differences(NextToken(), ALL, spec, mutable=[STATE])
    assert [task for task, change in found.items() if change.leaks] == []


@pytest.mark.parametrize("untied", STORAGE)
def test_expert_choice_looks_ahead_too(untied):
    # Experts choose among all tokens of a stream, the later ones too.
    towers = MixtureOfTransformers(
        STORAGE[untied], expert_towers=("shared", TEXT, IMAGE), num_experts=2
    )
    spec = dataclasses.replace(tiny_spec(), towers=towers)
    found = differences(NextToken(), ALL, spec)
    assert [task for task, change in found.items() if not change.leaks] == []


def test_a_dense_model_does_not_look_ahead():
    found = differences(NextToken(), ALL, tiny_spec())
    assert [task for task, change in found.items() if change.leaks] == []
