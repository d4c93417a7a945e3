"""Show-o's rows under its own attention masks, and the projector of its variants."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.convert.golden_models import arrays, assert_close, dense, spec
from tests.models.tiny_model import QUICK_TO_COMPILE, by_position, stack
from unimod_jax.convert import (
    new_manifest,
    open_tensor_files,
    read_parameters,
    show_o,
    write_files,
)
from unimod_jax.layout import IMAGE, TEXT, Document, SegmentSpec, TaskLayout, lay_out
from unimod_jax.models import UnifiedModel

PADDING, LONGEST, CODES = 40, 5, 4


def segment(name, slots=1, modality=TEXT, span=""):
    return SegmentSpec(name, modality, slots, span=span)


BEGINNING = (segment("task"), segment("begin"), segment("text", LONGEST))
IMAGE_SPAN = (
    segment("begin_image", span="image"),
    segment("image", CODES, IMAGE, span="image"),
    segment("end_image", span="image"),
)
CAUSAL_IMAGE = tuple(dataclasses.replace(s, span="") for s in IMAGE_SPAN)


def layout_of(task, streams):
    if task == "text_to_image":
        segments = (*BEGINNING, segment("end"), *IMAGE_SPAN)
        return TaskLayout(task, segments, streams)
    task_segment, begin, text = BEGINNING
    segments = (task_segment, *CAUSAL_IMAGE, begin, text, segment("end"))
    return TaskLayout(task, segments, streams, prefix_segment="end_image")


def document_of(row, layout):
    """A row's tokens, told apart by their segments; only text is of any length."""
    row = row[row != PADDING].tolist()
    length = len(row) - sum(s.num_slots for s in layout.segments if s.name != "text")
    tokens = {}
    for each in layout.segments:
        count = length if each.name == "text" else each.num_slots
        tokens[each.name], row = row[:count], row[count:]
    return Document(tokens)


@pytest.mark.parametrize("task", ["text_to_image", "image_to_text"])
def test_windows_are_show_o_s_masks(task):
    of = spec("show_o")
    layout, held = layout_of(task, of.streams), arrays("show_o")
    ids, expected = held[f"{task}/ids"], held[f"{task}/logits"]
    group = stack([lay_out(document_of(row, layout), layout) for row in ids])
    apply = jax.jit(UnifiedModel(of).apply, compiler_options=QUICK_TO_COMPILE)
    outputs, _ = apply(dense("show_o"), {task: group})
    found = by_position(group, outputs[task].logits)
    for row, row_ids in enumerate(ids):
        valid = row_ids != PADDING
        assert_close(found[row, : valid.sum()], expected[row, valid])


def test_the_projector_is_two_linear_maps_around_an_exact_gelu(tmp_path):
    table, random = show_o.projector_weights(6, 4), np.random.default_rng(0)
    tensors = {
        entry.name: random.normal(size=entry.shape).astype(np.float32)
        for entry in table.values()
    }
    shapes = {name: (value.shape, value.dtype) for name, value in tensors.items()}
    values = {name: lambda value=value: value for name, value in tensors.items()}
    write_files(new_manifest(shapes), tmp_path / "projector", values)
    params = read_parameters(open_tensor_files(tmp_path / "projector"), table)
    features = random.normal(size=(2, 3, 4)).astype(np.float32)
    weight = {name.removeprefix("mm_projector."): x for name, x in tensors.items()}
    hidden = features @ weight["0.weight"].T + weight["0.bias"]
    hidden = hidden * 0.5 * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2)))
    expected = hidden @ weight["2.weight"].T + weight["2.bias"]
    found = show_o.projected(params, jnp.asarray(features))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
