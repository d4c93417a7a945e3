"""Which implementations there are, and which to try first on a chip."""

import importlib
from collections.abc import Callable

import jax

from pallas_kernels.device import Device

# A module of this package each, holding a function of the same name. Kernels are loaded
# when they are asked for: their compilers are not part of every jaxlib.
NAMES = ("reference", "xla_chunked", "mosaic_tpu", "mosaic_gpu", "triton")

# The kernels of a platform, fastest first where they serve a case.
_KERNELS = {"tpu": ("mosaic_tpu",), "gpu": ("mosaic_gpu", "triton")}

# Largest T x S for which the reference is chosen automatically. Measured 2026-11-22 on
# 2 CPU cores (float32, causal, forward and backward, 4 to 16 rows x heads): xla_chunked
# took 1.0 to 1.1 times as long as the reference at 96 x 96, 0.75 to 0.96 at 128 x 128,
# 0.7 to 0.9 at 256 x 256 and 0.4 to 0.6 at 512 x 512. At the tie the reference is
# simpler to compile. Kernels have nothing to skip there either: a decoded token, or a
# few kept ones, are one plain product.
LARGEST_REFERENCE_SCORES = 128 * 128


def load(name: str) -> Callable[..., jax.Array]:
    """Return the implementation of a name in `NAMES`.

    Raises:
      NotImplementedError: this jaxlib cannot import the kernel's compiler.
    """
    try:
        module = importlib.import_module(f"pallas_kernels.routed_attention.{name}")
    except ImportError as error:
        raise NotImplementedError(
            f"{name} cannot be imported ({error}); install a jaxlib with its compiler "
            "or use another implementation."
        ) from error
    return getattr(module, name)


def fastest_first(device: Device, num_scores: int) -> tuple[str, ...]:
    """Return the names to try for T x S scores on a device, in order."""
    if num_scores <= LARGEST_REFERENCE_SCORES:
        return ("reference", "xla_chunked")
    return (*_KERNELS.get(device.platform, ()), "xla_chunked", "reference")
