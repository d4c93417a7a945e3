"""Rows whose modalities come in any order, drawn at random for tiny models."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from tests.models.tiny_model import CODE_IDS, TEXT_IDS, stack
from unimod_jax.layout import (
    IMAGE,
    SPEECH,
    TEXT,
    InterleavedDocument,
    InterleavedLayout,
    Slots,
    Span,
    TokenGroup,
    lay_out_documents,
)
from unimod_jax.models import ModelSpec

SLOTS: Slots = ((TEXT, 6), (IMAGE, 5), (SPEECH, 4))
ROW_LENGTH = sum(count for _, count in SLOTS)


def interleaved_layout(spec: ModelSpec, slots: Slots = SLOTS) -> InterleavedLayout:
    """Rows of packed documents, stored as the model wants it."""
    held = tuple((name, n) for name, n in slots if name in spec.config.modalities)
    return InterleavedLayout("interleaved", spec.streams, held)


def random_documents(
    seed: int, slots: Slots = SLOTS, absent: Sequence[str] = ()
) -> list[InterleavedDocument]:
    """Documents that fit one row: random modalities, lengths, directions and cuts."""
    rng = np.random.default_rng(seed)
    left = {name: count for name, count in slots if name not in absent}
    documents: list[InterleavedDocument] = []
    spans: list[Span] = []
    while left:
        name = str(rng.choice(list(left)))
        length = int(rng.integers(1, min(3, left[name]) + 1))
        ids = TEXT_IDS if name == TEXT else CODE_IDS
        bidirectional = name == IMAGE and bool(rng.random() < 0.5)
        spans.append(Span(name, rng.choice(ids, length).tolist(), bidirectional))
        left[name] -= length
        if left[name] == 0 or rng.random() < 0.05:
            del left[name]
        if rng.random() < 0.25:
            documents.append(InterleavedDocument(tuple(spans)))
            spans = []
    return [*documents, InterleavedDocument(tuple(spans))]


def random_interleaving(
    layout: InterleavedLayout, num_rows: int = 2, seed: int = 0
) -> TokenGroup:
    """A group of random rows; the same documents for every storage of modalities."""
    slots = tuple(sorted(layout.slots))
    return stack(
        [
            lay_out_documents(random_documents(seed + row, slots), layout)
            for row in range(num_rows)
        ]
    )


def weighted_sum(
    group: TokenGroup, logits: dict[str, jax.Array], weight_BTV: jax.Array
) -> jax.Array:
    """Sum of all tokens' logits, weighted by arrays in sequence order."""
    total = jnp.zeros((), jnp.float32)
    for name, logits_BTV in logits.items():
        position_BT = group.streams[name].position_BT
        own_BTV = jnp.take_along_axis(
            weight_BTV, jnp.maximum(position_BT, 0)[..., None], axis=1
        )
        held_BT1 = (position_BT >= 0)[..., None]
        total += jnp.sum(jnp.where(held_BT1, logits_BTV * own_BTV, 0.0))
    return total
