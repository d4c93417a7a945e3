"""Which images a tokenizer takes: sides that its downsampling divides."""


def grid_of(height: int, width: int, downsampling: int) -> tuple[int, int]:
    """Rows and columns of the grid of codes or latents.

    Args:
      height: pixels.
      width: pixels.
      downsampling: pixels per place along each side.

    Raises:
      ValueError: if a side is not a positive multiple.
    """
    for name, side in (("high", height), ("wide", width)):
        if side < 1 or side % downsampling:
            raise ValueError(
                f"the image is {side} pixels {name} but each code stands for "
                f"{downsampling} x {downsampling} of them; resize or crop it to a "
                f"multiple of {downsampling}."
            )
    return height // downsampling, width // downsampling


def sides_up_to(largest: int, downsampling: int) -> tuple[int, ...]:
    """All sides of images, in pixels, that have a whole number of codes."""
    return tuple(range(downsampling, largest + 1, downsampling))


def check_pixels(
    shape: tuple[int, ...], dtype: object, downsampling: int
) -> tuple[int, int]:
    """The grid of a batch of images, [B, Y, X, 3] float32.

    Raises:
      ValueError: if it is something else, or a side is not a multiple.
    """
    if len(shape) != 4 or shape[-1] != 3 or str(dtype) != "float32":
        raise ValueError(
            f"pixels are {dtype} {list(shape)} but must be float32 [images, rows, "
            "columns, 3] in [-1, 1]; scale uint8 by 2 / 255 and subtract 1."
        )
    return grid_of(shape[1], shape[2], downsampling)
