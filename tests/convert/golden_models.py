"""Tiny checkpoints in published layouts, and what the reference models made of them.

`tests/golden/make_language_models.py` writes them, with torch and transformers.
"""

import dataclasses
import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from tests.models.tiny_model import QUICK_TO_COMPILE, by_position, stack
from unimod_jax.convert import LAYOUTS, TensorFiles, open_tensor_files, read_weights
from unimod_jax.layout import (
    IMAGE,
    TEXT,
    InterleavedDocument,
    InterleavedLayout,
    Span,
    TokenGroup,
    lay_out_documents,
)
from unimod_jax.models import (
    MixtureOfDepths,
    MixtureOfTransformers,
    ModelConfig,
    ModelSpec,
    UnifiedModel,
)
from unimod_jax.models.config import DENSE

GOLDEN = Path(__file__).parents[1] / "golden" / "language_models"
WEIGHTS_OF = {
    **{"chameleon": "chameleon", "chameleon_swin": "chameleon"},
    **{"emu3": "emu3", "emu3_hf": "emu3_hf", "phi": "phi", "show_o": "show_o"},
}
"""Model -> directory of its weights; both orders of norms share theirs."""
LAYOUT_OF = WEIGHTS_OF
NEW_TOKENS = 8
PROMPT = ((TEXT, 5), (IMAGE, 4), (TEXT, 3))
"""How the twelve tokens of the longest row are told apart; shorter rows end sooner."""
SLOTS = ((TEXT, 8 + NEW_TOKENS), (IMAGE, 4))


def published(name: str) -> dict:
    return json.loads((GOLDEN / name / "config.json").read_text())


@functools.cache
def config(name: str) -> ModelConfig:
    if name == "show_o":
        # Show-o's own config.json tells the vocabulary alone; its Phi's tells the rest.
        found = LAYOUTS["phi"].model_config(published(name))
    else:
        found = LAYOUTS[LAYOUT_OF[name]].model_config(published(name))
    return dataclasses.replace(found, compute_dtype="float32", remat="nothing")


def table(name: str):
    return LAYOUTS[LAYOUT_OF[name]].weights(config(name), 1)


def files(name: str) -> TensorFiles:
    return open_tensor_files(GOLDEN / WEIGHTS_OF[name])


@functools.cache
def arrays(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / name / "golden.npz") as held:
        return dict(held)


def spec(
    name: str,
    towers: MixtureOfTransformers = DENSE[0],
    routing: MixtureOfDepths = DENSE[1],
) -> ModelSpec:
    c = config(name)
    return ModelSpec(c, towers, routing, c.vocabulary_size, image_tokens=4)


def row_layout(of: ModelSpec) -> InterleavedLayout:
    return InterleavedLayout("interleaved", of.streams, SLOTS)


def read(name: str, of: ModelSpec, **more) -> dict:
    layouts = {"interleaved": row_layout(of)}
    elsewhere = LAYOUTS[LAYOUT_OF[name]].elsewhere
    return read_weights(
        files(name), table(name), of, layouts, elsewhere=elsewhere, **more
    )


@functools.cache
def dense(name: str) -> dict:
    return read(name, spec(name))


def rows(name: str, of: ModelSpec) -> TokenGroup:
    """The golden rows: each starts with text, which image tokens interrupt."""
    held = arrays(name)
    laid_out = []
    for ids, length in zip(held["ids"], held["lengths"], strict=True):
        spans, start = [], 0
        for modality, count in PROMPT:
            stop = min(start + count, int(length))
            if stop > start:
                spans.append(Span(modality, ids[start:stop].tolist(), False))
            start = stop
        document = InterleavedDocument(tuple(spans))
        laid_out.append(lay_out_documents([document], row_layout(of)))
    return stack(laid_out)


def logits_of(of: ModelSpec, variables: dict, group: TokenGroup) -> np.ndarray:
    """[B, T, V] in sequence order, zeros behind each row's end."""
    apply = jax.jit(UnifiedModel(of).apply, compiler_options=QUICK_TO_COMPILE)
    outputs, _ = apply(variables, {"interleaved": group})
    return by_position(group, outputs["interleaved"].logits)


def one_token(group: TokenGroup, id_B: np.ndarray, position_B: np.ndarray):
    """A text token of each row at its position, for a model of one stream."""
    (name,) = group.streams
    column = jnp.asarray(position_B, jnp.int32)[:, None]
    zeros = jnp.zeros_like(column)
    return group.with_stream(
        name,
        token_id_BT=jnp.asarray(id_B, jnp.int32)[:, None],
        modality_BT=zeros,
        target_id_BT=zeros,
        target_modality_BT=zeros - 1,
        position_BT=column,
        window_start_BT=zeros,
        window_end_BT=column + 1,
        patch_index_BT=zeros - 1,
    )


def assert_close(found: np.ndarray, expected: np.ndarray) -> None:
    """To 1e-5 of the largest value: float32 after a few products."""
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * scale)
    assert scale > 1
