"""The gated feed-forward network, one set of weights per tower (SwiGLU, 2002.05202)."""

from collections.abc import Mapping

import jax
from flax import linen as nn

from unimod_jax.mot.towers import Streams, TowerLinear


def swiglu_width(width: int, multiple_of: int = 32) -> int:
    """Llama's hidden size rule: two thirds of 4 D, rounded up to a multiple.

    The papers round to 256 (2411.04996's code); toys of width 128 round to 32.
    """
    hidden = int(2 * 4 * width / 3)
    return -(-hidden // multiple_of) * multiple_of


class FeedForward(nn.Module):
    """down(silu(gate(x)) * up(x)).

    Attributes:
      towers: stream name -> tower name.
      width: D.
      hidden: F.
      output_scale: variance scale of the initial down projection.
    """

    towers: Mapping[str, str]
    width: int
    hidden: int
    output_scale: float

    @nn.compact
    def __call__(self, streams: Streams) -> Streams:
        """Maps stream -> [B, T, D] to stream -> [B, T, D]."""
        up_shape, axes = (self.width, self.hidden), ("embed", "mlp")
        gate = TowerLinear(self.towers, up_shape, axes, name="gate")(streams)
        up = TowerLinear(self.towers, up_shape, axes, name="up")(streams)
        hidden = {name: jax.nn.silu(gate[name]) * up[name] for name in streams}
        return TowerLinear(
            self.towers,
            (self.hidden, self.width),
            ("mlp", "embed"),
            self.output_scale,
            name="down",
        )(hidden)
