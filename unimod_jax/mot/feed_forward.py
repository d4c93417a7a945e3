"""The feed-forward network of one tower: gated (SwiGLU, 2002.05202) or plain (GELU)."""

import functools
from collections.abc import Callable
from typing import Literal

import jax
from flax import linen as nn

from unimod_jax.mot.towers import Linear


def swiglu_width(width: int, multiple_of: int = 32) -> int:
    """Llama's hidden size rule: two thirds of 4 D, rounded up to a multiple.

    The papers round to 256 (2411.04996's code); toys of width 128 round to 32.
    """
    hidden = int(2 * 4 * width / 3)
    return -(-hidden // multiple_of) * multiple_of


def swiglu(gate: jax.Array, up: jax.Array) -> jax.Array:
    """silu(gate) * up."""
    return jax.nn.silu(gate) * up


def gelu(up: jax.Array) -> jax.Array:
    """GELU by its tanh approximation, `gelu_new` of Phi-1.5's configuration."""
    return jax.nn.gelu(up, approximate=True)


FeedForwardKind = Literal["swiglu", "gelu"]

INNER: dict[str, tuple[tuple[str, ...], Callable[..., jax.Array]]] = {
    "swiglu": (("gate", "up"), swiglu),
    "gelu": (("up",), gelu),
}
"""Kind -> names of the projections to F, and the function of their results."""


class FeedForward(nn.Module):
    """down(swiglu(gate(x), up(x))), or down(gelu(up(x))).

    Attributes:
      kind: "swiglu" or "gelu".
      width: D.
      hidden: F.
      output_scale: variance scale of the initial down projection.
      biases: whether the projections have biases.
    """

    kind: FeedForwardKind
    width: int
    hidden: int
    output_scale: float = 1.0
    biases: bool = False

    @nn.compact
    def __call__(
        self, x_BTD: jax.Array, valid_BT: jax.Array, copies: jax.Array | None = None
    ) -> jax.Array:
        """Maps [B, T, D] to [B, T, D], each token on its own, empty slots too.

        Args:
          x_BTD: tokens.
          valid_BT: for networks in which tokens compete, see expert_choice.py.
          copies: the same tokens from `tensor_parallel.apart`; the result is then for
            `together`. None is `x_BTD`.
        """
        del valid_BT
        x = x_BTD if copies is None else copies
        linear = functools.partial(Linear, bias=self.biases)
        inward = functools.partial(linear, (self.width, self.hidden), ("embed", "mlp"))
        names, activation = INNER[self.kind]
        hidden_BTF = activation(*(inward(name=name)(x) for name in names))
        outward = functools.partial(
            linear, (self.hidden, self.width), ("mlp", "embed"), self.output_scale
        )
        return outward(name="down")(hidden_BTF)
