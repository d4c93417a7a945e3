"""Packed rows of text, images and speech through the model and the losses."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.tiny_model import (
    PATCH_SIZE,
    SIZES,
    forward,
    random_variables,
    stack,
    tiny_spec,
)
from tests.task_rows import layouts
from unimod_jax.layout import (
    IMAGE,
    SPEECH,
    TEXT,
    InterleavedDocument,
    Span,
    Stream,
    TaskLayout,
    lay_out_documents,
)
from unimod_jax.models import UnifiedModel
from unimod_jax.objectives import (
    ImageDiffusion,
    MaskedImage,
    NextToken,
    total_loss,
)

MODALITIES = (TEXT, IMAGE, SPEECH)
STREAMS = tuple(Stream.of(modality) for modality in MODALITIES)
# Two documents: a caption of 4, BEGIN, END, and markers around an image and speech.
SLOTS = ((TEXT, 20), (IMAGE, 8), (SPEECH, 6))
PACKED = dataclasses.replace(SIZES, patch_size=PATCH_SIZE)


def codes_document():
    return InterleavedDocument(
        (
            Span(TEXT, [1, 12, 13, 2, 6]),
            Span(SPEECH, [20, 21]),
            Span(TEXT, [7, 3]),
            Span(IMAGE, [16, 17, 18, 19]),
            Span(TEXT, [4]),
        )
    )


def patches_document(seed):
    rng = np.random.default_rng(seed)
    patches = rng.uniform(-1, 1, (4, PATCH_SIZE)).astype(np.float32)
    return InterleavedDocument(
        (
            Span(TEXT, [3]),
            Span(IMAGE, (), bidirectional=True, patches=patches, largest_time=0.5),
            Span(TEXT, [4, 1, 12, 2, 6]),
            Span(SPEECH, [20, 21, 22]),
            Span(TEXT, [7]),
        )
    )


CASES = {
    "codes": (NextToken(), 0, [codes_document(), codes_document()]),
    "patches": (
        ImageDiffusion(),
        PATCH_SIZE,
        [patches_document(0), patches_document(1)],
    ),
}


def spec_of(patch_size):
    return tiny_spec(modalities=MODALITIES, patch_size=patch_size)


def group_of(objective, *rows):
    layout = layouts(objective, PACKED, STREAMS, SLOTS)["interleaved"]
    return stack([lay_out_documents(row, layout) for row in rows])


def test_interleaved_rows_have_the_slots_they_are_given():
    of_codes = layouts(NextToken(), PACKED, STREAMS, SLOTS)["interleaved"]
    assert (of_codes.slots, of_codes.bidirectional) == (SLOTS, ())
    assert of_codes.patches_per_image == 0
    diffusion = layouts(ImageDiffusion(), PACKED, STREAMS, SLOTS, time_cap=0.3)[
        "interleaved"
    ]
    assert diffusion.slots == SLOTS
    assert diffusion.bidirectional == (IMAGE,)
    assert diffusion.captioned_time == 0.3
    assert diffusion.patches_per_image == PACKED.image_patches


def test_masked_training_has_no_rows_of_documents():
    with pytest.raises(ValueError, match="'interleaved' has rows of documents, but"):
        layouts(MaskedImage(), PACKED, STREAMS, SLOTS)


def test_lines_of_codes_have_slots_for_their_ends():
    lined = dataclasses.replace(PACKED, image_line=2)
    found = layouts(NextToken(), lined, STREAMS, SLOTS)
    layout = found["text_to_image"]
    assert isinstance(layout, TaskLayout)
    image = layout.segment("image")
    assert (image.num_slots, image.line_length) == (6, 2)
    assert found["interleaved"].line_length == 2


@pytest.mark.parametrize(("objective", "patch_size", "documents"), CASES.values())
def test_a_document_is_read_alike_alone_and_packed(objective, patch_size, documents):
    spec = spec_of(patch_size)
    first, second = documents
    group = group_of(objective, [first, second], [second])
    variables = random_variables(spec, {"interleaved": group})
    outputs, _ = forward(spec)(variables, {"interleaved": group})
    for name, logits_BTV in outputs["interleaved"].logits.items():
        offset = first.num_tokens()[name]
        count = second.num_tokens()[name]
        packed_TV = logits_BTV[0, offset : offset + count]
        alone_TV = logits_BTV[1, :count]
        assert float(jnp.abs(alone_TV).max()) > 0.1
        np.testing.assert_allclose(packed_TV, alone_TV, atol=1e-4)


@pytest.mark.parametrize(("objective", "patch_size", "documents"), CASES.values())
def test_every_tower_learns_from_interleaved_rows(objective, patch_size, documents):
    spec = spec_of(patch_size)
    batch = {"interleaved": group_of(objective, documents, documents[:1])}
    params = random_variables(spec, batch)["params"]
    model = UnifiedModel(spec)

    @jax.jit
    def loss_and_gradient(params):
        seen, noise = objective.corrupt(batch, jax.random.key(0))

        def loss_of(params):
            outputs, _ = model.apply({"params": params}, seen)
            return total_loss(objective, seen, noise, outputs, {"interleaved": 1.0})

        return jax.value_and_grad(loss_of, has_aux=True)(params)

    (loss, metrics), gradient = loss_and_gradient(params)
    assert float(loss) > 0
    for modality in MODALITIES:
        assert float(metrics[f"interleaved/{modality}_loss"]) > 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert jnp.isfinite(leaf).all(), path
        assert jnp.abs(leaf).max() > 0, jax.tree_util.keystr(path)
