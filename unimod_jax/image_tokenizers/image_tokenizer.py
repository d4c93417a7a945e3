"""What an image tokenizer is to the rest of the project: pixels to codes and back."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from unimod_jax.image_tokenizers.image_sizes import (
    check_pixels,
    grid_of,
    sides_up_to,
)

type Parameters = Mapping[str, Any]
"""Nested dictionaries of arrays, as Linen's "params" collection."""


@dataclasses.dataclass(frozen=True)
class ImageTokenizer:
    """A learned tokenizer without its parameters; every method is pure.

    Attributes:
      module: has the methods `latent` (pixels to what is quantised), `encode` and
        `decode`.
      num_codes: ids run from 0 to num_codes - 1.
      downsampling: pixels per code along each side.
    """

    module: nn.Module
    num_codes: int
    downsampling: int

    def init(self, key: jax.Array) -> Parameters:
        """Random parameters, for shapes and tests; the useful ones are published."""
        return self.module.init(key, self._smallest_image(), method="reconstruct")[
            "params"
        ]

    def parameter_shapes(self) -> Parameters:
        """Shapes and dtypes of the parameters, without computing them."""
        return jax.eval_shape(self.init, jax.random.key(0))

    def grid_of(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of codes of an image; ValueError if they are not whole."""
        return grid_of(height, width, self.downsampling)

    def codes_per_side(self, side: int) -> int:
        """Codes along a side of so many pixels; ValueError if they are not whole."""
        return self.grid_of(side, side)[0]

    def sides_up_to(self, largest: int) -> tuple[int, ...]:
        """All sides, in pixels up to the largest, that it can encode."""
        return sides_up_to(largest, self.downsampling)

    def latent(self, params: Parameters, pixel_BYXC: jax.Array) -> jax.Array:
        """Continuous latents just before quantisation, [B, y, x, Z] float32.

        Raises ValueError as `encode` does.
        """
        check_pixels(pixel_BYXC.shape, pixel_BYXC.dtype, self.downsampling)
        return self._apply("latent", params, pixel_BYXC)

    def encode(self, params: Parameters, pixel_BYXC: jax.Array) -> jax.Array:
        """Codes of images; images of a batch do not see each other.

        Args:
          params: as `init` makes them.
          pixel_BYXC: float32 [B, Y, X, 3] in [-1, 1].

        Returns:
          int32 [B, Y / downsampling, X / downsampling], each in [0, num_codes).

        Raises:
          ValueError: if pixels have another shape or dtype, or a side is not a multiple
            of `downsampling`.
        """
        check_pixels(pixel_BYXC.shape, pixel_BYXC.dtype, self.downsampling)
        return self._apply("encode", params, pixel_BYXC)

    def decode(self, params: Parameters, code_BYX: jax.Array) -> jax.Array:
        """Images of codes.

        Args:
          params: as `init` makes them.
          code_BYX: int32 [B, y, x]. An image with a code outside [0, num_codes) is NaN.

        Returns:
          float32 [B, y * downsampling, x * downsampling, 3], [-1, 1] but not clipped.

        Raises:
          ValueError: if codes are not integers [B, y, x].
        """
        integers = jnp.issubdtype(code_BYX.dtype, jnp.integer)
        if code_BYX.ndim != 3 or not integers:
            raise ValueError(
                f"codes are {code_BYX.dtype} {list(code_BYX.shape)} but must be "
                "integers [images, rows, columns]; reshape each image to its grid."
            )
        pixel_BYXC = self._apply("decode", params, code_BYX)
        outside_BYX = (code_BYX < 0) | (code_BYX >= self.num_codes)
        outside = outside_BYX.any((1, 2))[:, None, None, None]
        return jnp.where(outside, jnp.nan, pixel_BYXC)

    def _apply(self, method: str, params: Parameters, array: jax.Array) -> Any:
        return self.module.apply({"params": params}, array, method=method)

    def _smallest_image(self) -> jax.Array:
        side = self.downsampling
        return jnp.zeros((1, side, side, 3), jnp.float32)
