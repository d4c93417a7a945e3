"""Rows of random tokens for any layout: full to the last slot, so that time is honest.

Every shape is static, so what the tokens say does not change how long a step takes.
"""

import jax
import numpy as np

from unimod_jax.layout import (
    IMAGE,
    PADDING,
    Document,
    InterleavedDocument,
    InterleavedLayout,
    RowLayout,
    Span,
    TokenGroup,
    UnifiedBatch,
    lay_out,
    lay_out_documents,
    with_segments,
)
from unimod_jax.layout.typical_documents import typical_documents
from unimod_jax.training import Assembly


def random_batch(assembly: Assembly, seed: int = 0) -> UnifiedBatch:
    """A batch of full rows of random ids, none of them special, and random patches.

    Args:
      assembly: of the experiment whose rows they are.
      seed: of everything.
    """
    spec = assembly.spec
    rng = np.random.default_rng(seed)
    return {
        task: jax.tree.map(
            lambda *leaves: np.stack(leaves),
            *(
                _random_row(layout, spec.vocabulary_size, spec.patch_size, rng)
                for _ in range(assembly.rows[task])
            ),
        )
        for task, layout in assembly.layouts.items()
    }


def _random_row(
    layout: RowLayout, vocabulary_size: int, patch_size: int, rng: np.random.Generator
) -> TokenGroup:
    special = {PADDING, *layout.special.ids}
    ordinary = np.setdiff1d(np.arange(vocabulary_size), list(special))

    def ids(count: int) -> list[int]:
        return rng.choice(ordinary, count).tolist()

    def patches(count: int) -> np.ndarray:
        return rng.normal(size=(count, patch_size)).astype(np.float32)

    if isinstance(layout, InterleavedLayout):
        documents = typical_documents(
            layout.slots, layout.documents_per_row, layout.patches_per_image
        )
        return lay_out_documents(
            [
                InterleavedDocument(
                    tuple(
                        _span(modality, count, layout, ids, patches)
                        for modality, count in spans
                        if count
                    )
                )
                for spans in documents
            ],
            layout,
        )
    segments = with_segments(layout)
    tokens = {s.name: ids(s.num_slots) for s in segments.segments if not s.continuous}
    return lay_out(Document(tokens, patches(layout.num_patches)), segments)


def _span(modality, count, layout, ids, patches) -> Span:
    bidirectional = modality in layout.bidirectional
    if modality == IMAGE and layout.patches_per_image:
        return Span(modality, (), bidirectional, patches=patches(count))
    return Span(modality, ids(count), bidirectional)
