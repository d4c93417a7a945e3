"""A model of two layers compiled for a mesh, and what its layers send."""

import math
import re
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import NamedSharding, PartitionSpec

from tests.models.tiny_model import random_group, tiny_spec
from tests.task_rows import layouts
from unimod_jax.layout import PartSizes
from unimod_jax.models import ModelSpec, UnifiedModel
from unimod_jax.objectives import NextToken
from unimod_jax.parallel import (
    MeshConfig,
    ShardingRules,
    batch_sharding,
    make_mesh,
    on_mesh,
    tree_sharding,
)

ROWS, WIDTH = 64, 256
SIZES = PartSizes(text_tokens=13, image_codes=16, image_patches=16)
"""With three markers sixteen tokens of text; many more tokens than the width."""

STREAM = ROWS * 16 * WIDTH
"""Numbers of the hidden states of one stream; there are two."""

KINDS = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"


def two_layers(**config: object) -> ModelSpec:
    """Two scanned layers with a tower for text and one for images, in bfloat16."""
    sizes = {"width": WIDTH, "num_heads": 4, "num_kv_heads": 4, "head_dim": 64}
    return tiny_spec(
        **sizes,
        feed_forward_hidden=2 * WIDTH,
        compute_dtype="bfloat16",
        **config,
    )


def compiled(
    spec: ModelSpec,
    mesh: MeshConfig,
    devices: Sequence[jax.Device],
    options: dict | None = None,
    *,
    gradient: bool = False,
) -> str:
    """The compiled text of the model's forward pass, or of its gradient."""
    where, rules = make_mesh(mesh, devices), ShardingRules()
    layout = layouts(NextToken(), SIZES, spec.streams)["text_to_image"]
    batch = {"text_to_image": random_group(layout, ROWS)}
    boxed = jax.eval_shape(UnifiedModel(spec).init, jax.random.key(0), batch)["params"]
    cut = tree_sharding(boxed, where, rules)
    rows = batch_sharding(where, rules)

    def hidden(params, batch):
        outputs, _ = UnifiedModel(spec).apply({"params": params}, batch)
        return outputs["text_to_image"].hidden

    def loss(params, batch):
        return sum(jnp.sum(jnp.square(x)) for x in hidden(params, batch).values())

    def placed(leaf, sharding):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    everywhere = NamedSharding(where, PartitionSpec())
    program = jax.jit(
        jax.grad(loss) if gradient else hidden,
        out_shardings=cut if gradient else everywhere,
    )
    arrays = jax.tree.map(placed, nn.unbox(boxed), cut)
    batch = jax.tree.map(lambda leaf: placed(leaf, rows), batch)
    with on_mesh(where, rules):
        return program.lower(arrays, batch).compile(compiler_options=options).as_text()


def sent_by_layers(text: str) -> list[tuple[str, int]]:
    """(kind, numbers in it) of each array that a collective in a loop's body sends.

    Layers are scanned, so a body is one layer: of the pass on, and of the pass back.
    """
    sent, in_entry = [], False
    for line in text.splitlines():
        if line.endswith("{") and not line.startswith(" "):
            in_entry = line.startswith("ENTRY")
        found = re.search(rf"= (.*?) ({KINDS})(-start)?\(", line)
        if found is None or in_entry:
            continue
        # The result of an asynchronous start repeats its operand.
        shapes = re.findall(r"(?:bf16|f32|s32)\[([\d,]*)\]", found[1])
        shapes = shapes[len(shapes) // 2 :] if found[3] else shapes
        sizes = [math.prod(int(n) for n in shape.split(",") if n) for shape in shapes]
        sent += [(found[2], size) for size in sizes]
    return sent


def token_sums(text: str, least: int = STREAM) -> list[int]:
    """Sizes of the all-reduced arrays of a layer that have at least so many numbers."""
    sent = sent_by_layers(text)
    return [size for kind, size in sent if kind == "all-reduce" and size >= least]
