"""Models of a few thousand parameters and batches of a few tokens for them."""

import functools
from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from tests.task_rows import layouts
from unimod_jax.layout import (
    Document,
    PartSizes,
    SpecialTokens,
    TaskLayout,
    TokenGroup,
    UnifiedBatch,
    lay_out,
)
from unimod_jax.mod import in_layers, same_for
from unimod_jax.models import (
    MixtureOfDepths,
    MixtureOfTransformers,
    ModelConfig,
    ModelSpec,
    UnifiedModel,
)
from unimod_jax.mot import COMPONENTS

SPECIAL = SpecialTokens()

PATCH_SIZE = 3
SIZES = PartSizes(text_tokens=4, image_codes=4, image_patches=4, patch_size=PATCH_SIZE)
TEXT_IDS = range(12, 16)
CODE_IDS = range(16, 24)
VOCABULARY_SIZE = 24
PATCH_SIZE = 3
DENSE_DEPTH = MixtureOfDepths()
FULL_SEGMENTS = {
    "begin": SPECIAL.begin,
    "begin_image": SPECIAL.begin_image,
    "end_image": SPECIAL.end_image,
}


def routed_in(
    layers: tuple[int, ...],
    tasks: tuple[str, ...],
    keep_ratio: float = 0.4,
    final: float | None = None,
    *,
    num_layers: int = 2,
    **settings: Any,
) -> MixtureOfDepths:
    """The same keep ratios for some tasks in some layers."""
    ratios = in_layers(num_layers, layers, keep_ratio, final)
    return MixtureOfDepths(same_for(tasks, ratios), **settings)


def tiny_spec(
    untied: tuple[str, ...] = COMPONENTS,
    routing: MixtureOfDepths = DENSE_DEPTH,
    patch_size: int = 0,
    **config: object,
) -> ModelSpec:
    """A model of width 16 and two layers; dense in depth unless routed."""
    sizes = {
        "width": 16,
        "num_layers": 2,
        "num_heads": 2,
        "num_kv_heads": 1,
        "head_dim": 8,
        "feed_forward_hidden": 24,
        "remat": "nothing",
    }
    return ModelSpec(
        ModelConfig(**(sizes | config)),
        MixtureOfTransformers(untied),
        routing,
        VOCABULARY_SIZE,
        SIZES.image_codes,
        patch_size,
    )


def random_document(layout: TaskLayout, rng: np.random.Generator) -> Document:
    """Random ids: text segments of random lengths, images full, markers as given."""
    tokens = {}
    for segment in layout.segments:
        if segment.continuous:
            continue
        if segment.ids:
            tokens[segment.name] = list(segment.ids)
        elif segment.modality == "text":
            length = rng.integers(1, segment.num_slots + 1)
            tokens[segment.name] = rng.choice(TEXT_IDS, length).tolist()
        else:
            tokens[segment.name] = rng.choice(CODE_IDS, segment.num_slots).tolist()
    patches = None
    if layout.num_patches:
        shape = (layout.num_patches, PATCH_SIZE)
        patches = rng.uniform(-1.0, 1.0, shape).astype(np.float32)
    return Document(tokens, patches)


def stack(rows: list[TokenGroup]) -> TokenGroup:
    """Rows of one layout as one group on the device."""
    return jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *rows)


def random_group(layout: TaskLayout, num_rows: int = 2, seed: int = 0) -> TokenGroup:
    """A group of random documents; the same seed gives the same documents."""
    rng = np.random.default_rng(seed)
    documents = [random_document(layout, rng) for _ in range(num_rows)]
    return stack([lay_out(document, layout) for document in documents])


def random_batch(
    objective, spec: ModelSpec, num_rows: int = 2, tasks: tuple[str, ...] = ()
) -> UnifiedBatch:
    """A group per task of the objective (or of those named)."""
    rows = layouts(objective, SIZES, spec.streams)
    return {task: random_group(rows[task], num_rows) for task in tasks or rows}


def random_variables(spec: ModelSpec, batch: UnifiedBatch, seed: int = 0) -> dict:
    """Variables in which nothing is at its special initial value.

    Norm scales vary about one, biases about zero, scores of routers and predictors are
    of order one, random keys are random, and thresholds are zero.
    """
    abstract = jax.eval_shape(
        lambda: nn.unbox(UnifiedModel(spec).init(jax.random.key(0), batch))
    )
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        names = [key.key for key in path]
        if leaf.dtype == jnp.uint32:
            return jnp.asarray(rng.integers(0, 2**32, leaf.shape, np.uint32))
        if "router_state" in names:
            return jnp.zeros(leaf.shape, leaf.dtype)
        values = rng.normal(size=leaf.shape)
        if names[-1] == "scale":
            return jnp.asarray(1 + 0.2 * values, leaf.dtype)
        if names[-1].endswith("bias"):
            return jnp.asarray(0.2 * values, leaf.dtype)
        if names[-1] in ("table", "image_position"):
            return jnp.asarray(values, leaf.dtype)
        of_scores = names[-2].startswith("routers_") or names[-1].endswith("_out")
        fan_in = leaf.shape[-1 if of_scores else -2]
        return jnp.asarray(values / np.sqrt(fan_in), leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, abstract)


def with_routers_at_zero(variables: dict) -> dict:
    """The same weights, but routers as they start (and predictors at zero)."""

    def start(path, leaf):
        of_route = any(k.key.startswith(("routers_", "choices_")) for k in path)
        return jnp.zeros_like(leaf) if of_route else leaf

    return jax.tree_util.tree_map_with_path(start, variables)


QUICK_TO_COMPILE = {"xla_backend_optimization_level": 0}
"""Compiler options for large programs that run once: a third less time in LLVM."""


@functools.cache
def forward(spec: ModelSpec):
    """Jitted (variables, batch) -> (outputs, reports), compiled once per layout."""
    return jax.jit(UnifiedModel(spec).apply)


def abstract_variables(spec: ModelSpec, batch: UnifiedBatch) -> dict:
    """Shapes of all variables, in boxes that carry logical axes; no memory."""
    return jax.eval_shape(UnifiedModel(spec).init, jax.random.key(0), batch)


def flat(params: dict) -> dict:
    """Parameters by path, such as "transformer/run_0/block/query/shared/kernel"."""
    return flax.traverse_util.flatten_dict(params, sep="/")


def by_position(group: TokenGroup, arrays: dict[str, jax.Array]) -> np.ndarray:
    """Stream -> [B, T, ...] as one [B, row length, ...] in sequence order, zeros after.

    Streams that are missing from `arrays` leave zeros too.
    """
    tail = next(iter(arrays.values())).shape[2:]
    ordered = np.zeros((group.num_rows, group.layout.row_length, *tail), np.float32)
    for name, array in arrays.items():
        position_BT = np.asarray(group.streams[name].position_BT)
        row, slot = np.nonzero(position_BT >= 0)
        ordered[row, position_BT[row, slot]] = np.asarray(array)[row, slot]
    return ordered


def as_shared(path: str, dense: Mapping[str, object]) -> str:
    """The parameter of a flat dense model that a tower's parameter stands for."""
    if path in dense:
        return path
    names = path.split("/")
    for place in range(len(names)):
        shared = "/".join([*names[:place], "shared", *names[place + 1 :]])
        if shared in dense:
            return shared
    raise KeyError(path)


def in_towers(dense: dict, like: dict) -> dict:
    """The dense parameters, copied into every tower of the tree `like`.

    Both models scan the same runs of layers; `models.warm_start` is for others.
    """
    flat_dense = flat(dense)

    def copy(path, leaf):
        source = flat_dense[as_shared("/".join(k.key for k in path), flat_dense)]
        assert source.shape == leaf.shape
        return source

    return jax.tree_util.tree_map_with_path(copy, like)


def summed_over_towers(gradient: dict, dense: dict) -> dict:
    """Tower gradients added up, under the flat names of the dense parameters."""
    flat_dense, summed = flat(dense), {}
    for path, leaf in flat(gradient).items():
        shared = as_shared(path, flat_dense)
        summed[shared] = summed.get(shared, 0.0) + np.asarray(leaf)
    return summed
