"""Block sizes per chip and shape class: a table that the tuning command writes.

The table is `block_sizes.json`: implementation -> chip -> shape class -> sizes of each
pass. A chip's key is the beginning of JAX's device kind, so that "NVIDIA H100" serves
every H100; "any" serves a chip without measurements. Each entry says where its numbers
come from.
"""

import functools
import importlib.resources
import json
from typing import NamedTuple

from pallas_kernels.device import Device

TABLE = "block_sizes.json"


class Blocks(NamedTuple):
    """How one pass of a kernel is cut.

    `warps` and `stages` (how many blocks are in flight) are for GPU kernels; the
    others ignore them.
    """

    query: int
    key: int
    warps: int = 4
    stages: int = 2


class BlockSizes(NamedTuple):
    """The passes of attention: the output, then the gradient of q, and of k and v."""

    forward: Blocks
    query_gradient: Blocks
    key_gradient: Blocks


def shape_class(
    num_queries: int, num_keys: int, head_dim: int, dtype_bytes: int
) -> str:
    """Name the class of shapes that share block sizes, such as "short.e128.16bit".

    Args:
      num_queries: T.
      num_keys: S.
      head_dim: E; counted as the next of 64, 128, 256.
      dtype_bytes: bytes per number of q, k and v.

    Returns:
      Length, head dimension and width of the numbers. Length is "few" up to 128
      queries (decoding, small kept sets), "short" up to 2,048 tokens and "long" above.
    """
    length = "long" if max(num_queries, num_keys) > 2048 else "short"
    length = "few" if num_queries <= 128 else length
    width = next((size for size in (64, 128) if head_dim <= size), 256)
    return f"{length}.e{width}.{8 * dtype_bytes}bit"


def block_sizes(implementation: str, device: Device, shapes: str) -> BlockSizes:
    """Look up the table.

    Args:
      implementation: such as "mosaic_tpu".
      device: the chip; the longest key that its kind begins with is taken, else "any".
      shapes: from `shape_class`; where the chip has no such class, "any" chip's is
        taken.

    Raises:
      KeyError: neither the chip nor "any" has the class.
    """
    chips = _table()[implementation]
    matching = [chip for chip in chips if device.kind.startswith(chip)]
    for chip in (*sorted(matching, key=len, reverse=True), "any"):
        if shapes in chips.get(chip, {}):
            entry = chips[chip][shapes]
            return BlockSizes(*(Blocks(**entry[name]) for name in BlockSizes._fields))
    raise KeyError(
        f"{TABLE} has no {implementation} block sizes of class {shapes!r} for "
        f"{device}; add the class under the chip or under 'any'."
    )


@functools.cache
def _table() -> dict:
    folder = importlib.resources.files("pallas_kernels.routed_attention")
    return json.loads((folder / TABLE).read_text(encoding="utf-8"))
