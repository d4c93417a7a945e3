"""A mixture of experts in which each expert chooses its tokens (2202.09368).

This is MoE-4x, the baseline of 2411.04996 (section 3.2.1): a linear router scores every
token for every expert, each of the experts takes the 1/experts of the tokens that score
highest for it (capacity factor 1, so as many products as the dense network), and a
token gets the sum of what its experts say, weighted by the scores. A token chosen by
nobody gets zero, one chosen twice gets both.

To choose, an expert compares tokens with *later* ones, and with other rows if groups
span rows. So a causal row leaks its future: use experts for training and for measuring
losses, as the paper does, never for generating.

Legend, beside that of `layout`: U groups of M tokens, K experts with C places each.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.nn import initializers

from pallas_kernels.inverse_gather import inverse_gather
from unimod_jax.mot.feed_forward import INNER, FeedForwardKind
from unimod_jax.mot.towers import in_first_part
from unimod_jax.parallel import constrain


def expert_choice(
    score_UMK: jax.Array, valid_UM: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Each expert's best tokens; ties go to the earlier token.

    An expert takes `ceil(n / K)` of a group's n valid tokens. Empty slots fill the rest
    of its C = ceil(M / K) places, with weight zero: they change nothing.

    Args:
      score_UMK: float32, not negative, what each token scores for each expert.
      valid_UM: boolean, False in empty slots.

    Returns:
      index_UKC: int32, the token at each place of each expert.
      place_UKM: int32, the place of each token at each expert; C if it has none.
      weight_UKM: float32, the score where a token is chosen, zero elsewhere.
    """
    _, num_tokens, num_experts = score_UMK.shape
    num_places = -(-num_tokens // num_experts)
    score_UKM = score_UMK.swapaxes(1, 2)
    rank_by_UKM = jnp.where(valid_UM[:, None], score_UKM, -1.0)
    order_UKM = jnp.argsort(rank_by_UKM, axis=-1, descending=True, stable=True)
    place_UKM = jnp.argsort(order_UKM, axis=-1)
    num_valid_U = jnp.sum(valid_UM, axis=-1, dtype=jnp.int32)
    taken_U = (num_valid_U + num_experts - 1) // num_experts
    chosen_UKM = valid_UM[:, None] & (place_UKM < taken_U[:, None, None])
    weight_UKM = jnp.where(chosen_UKM, score_UKM, 0.0)
    place_UKM = jnp.minimum(place_UKM, num_places)
    return order_UKM[..., :num_places], place_UKM, weight_UKM


class _Weights(NamedTuple):
    """One projection of all experts.

    Attributes:
      kernel_KDF: [K, D, F], or [K, F, D] of the projection back.
      bias_KF: [K, F] or [K, D], or None.
    """

    kernel_KDF: jax.Array
    bias_KF: jax.Array | None


class ExpertChoice(nn.Module):
    """The feed-forward network of one tower, as experts that choose their tokens.

    Parameters: `router` [D, K]; `gate` and `up` [K, D, F] (only `up` for "gelu"), and
    `down` [K, F, D]; with biases `gate_bias`, `up_bias` [K, F] and `down_bias` [K, D].

    Attributes:
      kind: "swiglu" or "gelu", as in `FeedForward`.
      width: D.
      hidden: F of each expert.
      num_experts: K.
      rows_per_group: rows of the batch whose tokens compete; 1 compares tokens of a row
        only. While it divides the rows of a device, choosing stays on that device.
        Tokens of different streams never compete.
      output_scale: variance scale of the initial down projections.
      biases: whether the experts' projections have biases.
    """

    kind: FeedForwardKind
    width: int
    hidden: int
    num_experts: int
    rows_per_group: int = 1
    output_scale: float = 1.0
    biases: bool = False

    @nn.compact
    def __call__(
        self, x_BTD: jax.Array, valid_BT: jax.Array, copies: jax.Array | None = None
    ) -> jax.Array:
        """Maps [B, T, D] to [B, T, D]; slots that are not valid get zero.

        Args:
          x_BTD: tokens.
          valid_BT: boolean, False in empty slots.
          copies: the same tokens from `tensor_parallel.apart`; the result is then for
            `together`. None is `x_BTD`.

        Raises:
          ValueError: if rows_per_group does not divide B.
        """
        B, T, D = x_BTD.shape
        if B % self.rows_per_group:
            raise ValueError(
                f"rows_per_expert_group {self.rows_per_group} does not divide the {B} "
                "rows of the batch; choose a divisor, such as 1."
            )
        group = (B // self.rows_per_group, self.rows_per_group * T)
        x_UMD = x_BTD.reshape(*group, D)
        choice = expert_choice(self._score(x_UMD), valid_BT.reshape(group))
        names, _ = INNER[self.kind]
        weights = {name: self._weights(name, "embed", "mlp") for name in names}
        weights["down"] = self._weights("down", "mlp", "embed")
        say = functools.partial(_said, self.kind, choice)
        if copies is None or copies.ndim == 3:
            return say(weights, x_UMD).reshape(B, T, D)
        A = copies.shape[0]
        in_parts = {name: _in_parts(w, name, A) for name, w in weights.items()}
        y_AUMD = jax.vmap(say)(in_parts, copies.reshape(A, *group, D))
        return y_AUMD.reshape(A, B, T, D)

    def _score(self, x_UMD: jax.Array) -> jax.Array:
        """Softmax over the experts, in float32: [U, M, K]."""
        init = initializers.variance_scaling(1.0, "fan_in", "normal")
        boxed = nn.with_logical_partitioning(init, ("embed", "expert"))
        shape = (self.width, self.num_experts)
        router_DK = self.param("router", boxed, shape, unbox=True)
        score_UMK = jax.nn.softmax(x_UMD.astype(jnp.float32) @ router_DK, axis=-1)
        # Experts rank the tokens of whole rows.
        return constrain(score_UMK, "batch", None, None)

    def _weights(self, name: str, axis_in: str, axis_out: str) -> _Weights:
        """Every expert's own projection between the width and the hidden width."""
        size = {"embed": self.width, "mlp": self.hidden}
        scale = self.output_scale if axis_out == "embed" else 1.0
        init = initializers.variance_scaling(scale, "fan_in", "normal", batch_axis=(0,))
        param = functools.partial(self.param, unbox=True)
        boxed = nn.with_logical_partitioning(init, ("expert", axis_in, axis_out))
        shape = (self.num_experts, size[axis_in], size[axis_out])
        kernel_KDF = param(name, boxed, shape)
        if not self.biases:
            return _Weights(kernel_KDF, None)
        zeros = nn.with_logical_partitioning(initializers.zeros, ("expert", axis_out))
        bias_KF = param(f"{name}_bias", zeros, (self.num_experts, size[axis_out]))
        return _Weights(kernel_KDF, bias_KF)


def _said(
    kind: FeedForwardKind,
    choice: tuple[jax.Array, jax.Array, jax.Array],
    weights: dict[str, _Weights],
    x_UMD: jax.Array,
) -> jax.Array:
    """What all experts say about the tokens of each group, weighted: [U, M, D]."""
    index_UKC, place_UKM, weight_UKM = choice

    def linear(name: str, x_UKCD: jax.Array) -> jax.Array:
        kernel_KDF, bias_KF = weights[name]
        kernel_KDF = kernel_KDF.astype(x_UKCD.dtype)
        y_UKCF = jnp.einsum("UKCD,KDF->UKCF", x_UKCD, kernel_KDF)
        if bias_KF is None:
            return y_UKCF
        return y_UKCF + bias_KF[None, :, None].astype(y_UKCF.dtype)

    # Both ways are gathers, and so are their gradients: the maps are inverses.
    x_UKCD = inverse_gather(x_UMD[:, None], index_UKC, place_UKM)
    names, activation = INNER[kind]
    out_UKCD = linear("down", activation(*(linear(name, x_UKCD) for name in names)))
    out_UKMD = inverse_gather(out_UKCD, place_UKM, index_UKC)
    return jnp.einsum("UKMD,UKM->UMD", out_UKMD, weight_UKM.astype(out_UKMD.dtype))


def _in_parts(weights: _Weights, name: str, parts: int) -> _Weights:
    """The weights with the hidden width cut into parts, along a new first axis A."""
    kernel_KDF, bias_KF = weights
    hidden = 1 if name == "down" else 2
    cut = jnp.moveaxis(_split(kernel_KDF, hidden, parts), hidden, 0)
    if bias_KF is None:
        return _Weights(cut, None)
    if name == "down":
        return _Weights(cut, in_first_part(bias_KF, parts))
    return _Weights(cut, jnp.moveaxis(_split(bias_KF, 1, parts), 1, 0))


def _split(x: jax.Array, axis: int, parts: int) -> jax.Array:
    """[..., A, n / A, ...] of [..., n, ...]."""
    return x.reshape(*x.shape[:axis], parts, -1, *x.shape[axis + 1 :])
