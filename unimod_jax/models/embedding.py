"""In and out of the transformer: one shared table, and image patches.

Embeddings are the only parameters MoT leaves shared (2411.04996, section 2.3): a
token's id already tells its modality. Continuous patches enter and leave by one linear
map each, with the noise time added to what enters (Transfusion, 2408.11039, linear
variant).
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.nn import initializers

from unimod_jax.layout import TokenStream
from unimod_jax.mot import dropped_out, project

_TIME_FREQUENCIES = 16
"""Sinusoids per noise time, as in DDPM's embedding but fewer: the toys are small."""


def time_features(time_BN: jax.Array) -> jax.Array:
    """Sinusoids of noise times in [0, 1]; float32 [B, N, 2 * 16].

    Wavelengths run geometrically from 1/1000 to 10 of the whole schedule
    (2006.11239, appendix B, in units of a thousand steps).
    """
    exponent = jnp.linspace(0.0, 1.0, _TIME_FREQUENCIES, dtype=jnp.float32)
    frequency = 1000.0 * jnp.asarray(1e-4, jnp.float32) ** exponent
    angle = time_BN.astype(jnp.float32)[..., None] * frequency[None, None]
    return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)


def read_patches(patch_BNX: jax.Array, patch_index_BT: jax.Array) -> jax.Array:
    """Each token's own patch, zeros for tokens that are none; [B, T, X]."""
    num_patches = patch_BNX.shape[1]
    index_BT = jnp.where(patch_index_BT < 0, num_patches, patch_index_BT)
    return jnp.take_along_axis(
        patch_BNX, index_BT[..., None], axis=1, mode="fill", fill_value=0
    )


def write_patches(
    token_BTX: jax.Array, patch_index_BT: jax.Array, num_patches: int
) -> jax.Array:
    """The inverse of `read_patches`: per-token values back in raster order."""
    is_patch_BNT = (
        patch_index_BT[:, None, :]
        == jnp.arange(num_patches, dtype=jnp.int32)[None, :, None]
    )
    return jnp.einsum("BNT,BTX->BNX", is_patch_BNT.astype(token_BTX.dtype), token_BTX)


class TokenEmbedding(nn.Module):
    """The shared table, the image positions and the patch map.

    Attributes:
      vocabulary_size: V.
      width: D.
      num_image_positions: rows of the learned raster position table; 0 for none.
      patch_size: P, values of a continuous patch; 0 for none.
      dtype: of the result.
      dropout: share of the result's values to drop, where an rng "dropout" is given.
    """

    vocabulary_size: int
    width: int
    num_image_positions: int
    patch_size: int
    dtype: jnp.dtype
    dropout: float = 0.0

    def setup(self) -> None:
        """Makes the tables."""
        table = initializers.normal(0.02)
        self.table: jax.Array = self.param(
            "table",
            nn.with_logical_partitioning(table, ("vocab", "embed")),
            (self.vocabulary_size, self.width),
            unbox=True,
        )
        if self.num_image_positions:
            self.image_position: jax.Array = self.param(
                "image_position",
                nn.with_logical_partitioning(table, ("position", "embed")),
                (self.num_image_positions, self.width),
                unbox=True,
            )
        if self.patch_size:
            linear = nn.with_logical_partitioning(
                initializers.lecun_normal(), ("patch", "embed")
            )
            self.patch: jax.Array = self.param(
                "patch", linear, (self.patch_size, self.width), unbox=True
            )
            self.time: jax.Array = self.param(
                "time", linear, (2 * _TIME_FREQUENCIES, self.width), unbox=True
            )

    def __call__(
        self, stream: TokenStream, patch_BNP: jax.Array, time_BN: jax.Array
    ) -> jax.Array:
        """Embeds the tokens of one stream; [B, T, D]."""
        embedded_BTD = jnp.take(self.table, stream.token_id_BT, axis=0)
        is_image_BT1 = (stream.patch_index_BT >= 0)[..., None]
        if self.num_image_positions:
            raster_BT = stream.patch_index_BT % self.num_image_positions
            position_BTD = jnp.take(self.image_position, raster_BT, axis=0)
            embedded_BTD = embedded_BTD + jnp.where(is_image_BT1, position_BTD, 0.0)
        if self.patch_size and patch_BNP.shape[1]:
            entering_BND = project(patch_BNP, self.patch)
            entering_BND = entering_BND + project(time_features(time_BN), self.time)
            embedded_BTD = embedded_BTD + read_patches(
                entering_BND, stream.patch_index_BT
            )
        embedded_BTD = embedded_BTD.astype(self.dtype)
        if not (self.dropout and self.has_rng("dropout")):
            return embedded_BTD
        return dropped_out(embedded_BTD, self.dropout, self.make_rng("dropout"))


class PatchHead(nn.Module):
    """A linear map from the last hidden state to a patch; float32 result.

    Attributes:
      width: D.
      patch_size: P.
    """

    width: int
    patch_size: int

    @nn.compact
    def __call__(self, hidden_BTD: jax.Array) -> jax.Array:
        """[B, T, D] -> float32 [B, T, P]."""
        init = nn.with_logical_partitioning(
            initializers.lecun_normal(), ("embed", "patch")
        )
        kernel_DP: jax.Array = self.param(
            "kernel", init, (self.width, self.patch_size), unbox=True
        )
        return project(hidden_BTD, kernel_DP).astype(jnp.float32)
