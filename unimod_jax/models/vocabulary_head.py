"""What the last hidden states say about the vocabulary, multiplied out only on demand.

At 184,622 ids the float32 logits of one row of 4,300 tokens take 3 GB, and hardly
anyone needs all of them: a loss wants two numbers per token
(`objectives.cross_entropy`), a sampler one token, MaskGIT the image codes. So the model
returns hidden states and this map, and whoever reads them says which logits to compute.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.nn import initializers

from unimod_jax.parallel import constrain


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class VocabularyMap:
    """The linear map from hidden states to logits.

    Attributes:
      kernel_DV: in the parameters' dtype, float32.
      bias_V: float32, or None.
    """

    kernel_DV: jax.Array
    bias_V: jax.Array | None = None

    def logits(self, hidden_BTD: jax.Array, ids: slice = slice(None)) -> jax.Array:
        """The logits of some ids, multiplied out.

        Products are in the dtype of the hidden states, sums in float32.

        Args:
          hidden_BTD: after the final norm.
          ids: which ids; all unless given.

        Returns:
          float32 [B, T, V], V being the number of those ids.
        """
        B, T, D = hidden_BTD.shape
        kernel_DV = self.kernel_DV[:, ids]
        hidden_ND = hidden_BTD.reshape(B * T, D)
        hidden_ND = constrain(hidden_ND, ("batch", "token"), None)
        logits_NV = _product(hidden_ND, kernel_DV)
        logits_BTV = logits_NV.reshape(B, T, kernel_DV.shape[1])
        if self.bias_V is None:
            return logits_BTV
        return logits_BTV + self.bias_V[None, None, ids]


@jax.custom_vjp
def _product(hidden_ND: jax.Array, kernel_DV: jax.Array) -> jax.Array:
    """A product in the dtype of the hidden states, with sums in float32.

    So are its gradients: JAX's own would multiply the float32 cotangent with bfloat16
    in float32; here it is rounded first.
    """
    kernel_DV = kernel_DV.astype(hidden_ND.dtype)
    return jnp.matmul(hidden_ND, kernel_DV, preferred_element_type=jnp.float32)


def _product_forward(hidden_ND: jax.Array, kernel_DV: jax.Array):
    return _product(hidden_ND, kernel_DV), (hidden_ND, kernel_DV)


def _product_backward(factors: tuple[jax.Array, jax.Array], by_logits_NV: jax.Array):
    hidden_ND, kernel_DV = factors
    by_logits_NV = by_logits_NV.astype(hidden_ND.dtype)
    by_hidden_ND = by_logits_NV @ kernel_DV.astype(hidden_ND.dtype).T
    by_kernel_DV = jnp.matmul(
        hidden_ND.T, by_logits_NV, preferred_element_type=jnp.float32
    )
    return by_hidden_ND, by_kernel_DV.astype(kernel_DV.dtype)


_product.defvjp(_product_forward, _product_backward)


class VocabularyHead(nn.Module):
    """The parameters of the map, one for all towers.

    Attributes:
      width: D.
      vocabulary_size: V.
      tied: whether the map is the embedding table.
      bias: whether a bias is added.
    """

    width: int
    vocabulary_size: int
    tied: bool = False
    bias: bool = False

    @nn.compact
    def __call__(self, table_VD: jax.Array | None = None) -> VocabularyMap:
        """The map, which is the table's transpose if tied."""
        if self.tied:
            assert table_VD is not None
            kernel_DV = table_VD.T
        else:
            init = nn.with_logical_partitioning(
                initializers.lecun_normal(), ("embed", "vocab")
            )
            shape = (self.width, self.vocabulary_size)
            kernel_DV: jax.Array = self.param("kernel", init, shape, unbox=True)
        if not self.bias:
            return VocabularyMap(kernel_DV)
        zeros = nn.with_logical_partitioning(initializers.zeros, ("vocab",))
        bias_V: jax.Array = self.param(
            "bias", zeros, (self.vocabulary_size,), unbox=True
        )
        return VocabularyMap(kernel_DV, bias_V)
