"""How the published files of image tokenizers name and order what our modules hold.

The tokenizers share one ladder of modules, so a layout is a list of renamings of paths
and the order of a few kernels. A weight map is that list applied to our own parameters:
names and shapes come from the configuration, and nothing can be left out.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import numpy as np

from unimod_jax.convert.weight_map import (
    AS_IS,
    KERNEL_2D,
    KERNEL_3D,
    FileTensor,
    Rearrangement,
    WeightMap,
)

type Renaming = tuple[tuple[str, str], ...]
"""Patterns and replacements for `re.sub`, applied in order to "a/b/c"."""

POINTWISE = Rearrangement(
    lambda tensor: tensor[:, :, 0, 0].transpose(),
    lambda tensor: tensor.transpose()[:, :, None, None],
)
"""PyTorch's 1 x 1 convolutions are [out, in, 1, 1], ours [in, out]."""
COUNT = Rearrangement(
    lambda tensor: tensor.astype(np.int32), lambda tensor: tensor.astype(np.int64)
)
"""PyTorch counts batches in int64, which JAX has only on request."""

_LEAVES: Renaming = (
    (r"/(kernel|scale)$", ".weight"),
    (r"/mean$", ".running_mean"),
    (r"/variance$", ".running_var"),
    (r"/batches_seen$", ".num_batches_tracked"),
    ("/", "."),
)
_KERNELS = {2: POINTWISE, 4: KERNEL_2D, 5: KERNEL_3D}
_PROJECTION = re.compile(r"/(query|key|value|output)/kernel$")

TAMING: Renaming = (
    (r"^encoder/level_(\d+)/residual_(\d+)", r"encoder.down.\1.block.\2"),
    (r"^encoder/level_(\d+)/attention_(\d+)", r"encoder.down.\1.attn.\2"),
    (r"^decoder/level_(\d+)/residual_(\d+)", r"decoder.up.\1.block.\2"),
    (r"^decoder/level_(\d+)/attention_(\d+)", r"decoder.up.\1.attn.\2"),
    (r"^encoder/halving_(\d+)", r"encoder.down.\1.downsample.conv"),
    (r"^decoder/doubling_(\d+)", r"decoder.up.\1.upsample.conv"),
    (r"/middle/residual_0", r".mid.block_1"),
    (r"/middle/attention_0", r".mid.attn_1"),
    (r"/middle/residual_1", r".mid.block_2"),
    (r"/(norm|conv)_(\d)", r".\1\2"),
    (r"/shortcut", r".nin_shortcut"),
    (r"/(q)uery|/(k)ey|/(v)alue", r".\1\2\3"),
    (r"/output", r".proj_out"),
    (r"^codebook/embedding$", r"quantize.embedding.weight"),
)
"""Names of taming-transformers, which Chameleon, Show-o and Emu3 keep."""


@dataclasses.dataclass(frozen=True)
class TokenizerLayout:
    """Names and orders of one kind of published file.

    Attributes:
      renaming: from paths of parameters to names, leaves excepted.
      projection: how the kernels of attention stand in the file.
    """

    renaming: Renaming
    projection: Rearrangement = POINTWISE

    def weight_map(self, parameter_shapes: Mapping[str, Any]) -> WeightMap:
        """The table of a tokenizer whose parameters have these shapes.

        Args:
          parameter_shapes: nested dictionaries of anything with a shape and a dtype.
        """
        flat = flax.traverse_util.flatten_dict(dict(parameter_shapes))
        return {path: self._tensor(path, array) for path, array in flat.items()}

    def _tensor(self, path: tuple[str, ...], array: Any) -> FileTensor:
        name = "/".join(path)
        rearrangement = self._rearrangement(name, len(array.shape))
        # Strides of zero: the shape is computed, no memory is held.
        blank = np.broadcast_to(np.zeros((), array.dtype), array.shape)
        shape = rearrangement.to_theirs(blank).shape
        for pattern, replacement in (*self.renaming, *_LEAVES):
            name = re.sub(pattern, replacement, name)
        return FileTensor(name, shape, rearrangement)

    def _rearrangement(self, name: str, rank: int) -> Rearrangement:
        if _PROJECTION.search(name):
            return self.projection
        if name.endswith("/kernel"):
            return _KERNELS[rank]
        return COUNT if name.endswith("/batches_seen") else AS_IS
