"""From continuous latents to code ids and back: by a learned table, or by signs."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from unimod_jax.image_tokenizers.convolution import PRECISION

LATENTS_AT_ONCE = 512
"""Latents whose distances to all codes exist at once: 67 MB for 32,768 codes."""


def nearest_code(latent_NZ: jax.Array, codebook_KZ: jax.Array) -> jax.Array:
    """The nearest of K code vectors for each latent; of equally near ones the first.

    The squared distance is |z|^2 + |e|^2 - 2 z e in this order, as the published
    tokenizers compute it: |z|^2 changes no comparison, but it rounds, and ids are to
    be theirs.

    Args:
      latent_NZ: float32 [N, Z].
      codebook_KZ: float32 [K, Z].

    Returns:
      int32 [N], each in [0, K).
    """
    square_K = jnp.square(codebook_KZ).sum(-1)

    def nearest(latent_Z: jax.Array) -> jax.Array:
        product_K = jnp.dot(codebook_KZ, latent_Z, precision=PRECISION)
        distance_K = jnp.square(latent_Z).sum() + square_K - 2 * product_K
        return jnp.argmin(distance_K).astype(jnp.int32)

    together = min(LATENTS_AT_ONCE, latent_NZ.shape[0])
    return jax.lax.map(nearest, latent_NZ, batch_size=together)


class Codebook(nn.Module):
    """A learned table of code vectors.

    Attributes:
      num_codes: K.
      width: Z.
    """

    num_codes: int
    width: int

    def setup(self) -> None:
        shape = (self.num_codes, self.width)
        self.embedding = self.param("embedding", nn.initializers.normal(1.0), shape)

    def nearest(self, latent: jax.Array) -> jax.Array:
        """float32 [..., Z] -> int32 [...], by Euclidean distance."""
        code_N = nearest_code(latent.reshape(-1, self.width), self.embedding)
        return code_N.reshape(latent.shape[:-1])

    def look_up(self, code: jax.Array) -> jax.Array:
        """int32 [...] in [0, K) -> float32 [..., Z]."""
        return self.embedding[code]


def bits_to_code(latent: jax.Array) -> jax.Array:
    """Lookup-free quantisation (2310.05737, 3.1): a channel is the bit [z > 0].

    Channel 0 is the most significant bit, as in Show-o's tokenizer.

    Args:
      latent: float32 [..., bits].

    Returns:
      int32 [...], each in [0, 2^bits).
    """
    bits = latent.shape[-1]
    power = jnp.left_shift(1, jnp.arange(bits - 1, -1, -1, dtype=jnp.int32))
    bit = (latent > 0).astype(jnp.int32)
    return (bit * jnp.broadcast_to(power, bit.shape)).sum(-1)


def code_to_bits(code: jax.Array, bits: int) -> jax.Array:
    """Inverse of `bits_to_code`: int32 [...] -> float32 [..., bits], each -1 or 1."""
    shift = jnp.arange(bits - 1, -1, -1, dtype=jnp.int32)
    shape = (*code.shape, bits)
    shifted = jnp.broadcast_to(code[..., None], shape) >> jnp.broadcast_to(shift, shape)
    return (shifted & 1).astype(jnp.float32) * 2 - 1
