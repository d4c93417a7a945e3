"""Memory of a step before anything is compiled: enough to choose where to begin.

Rough on purpose, and never reported as a result: what is chosen with it is compiled,
and the compiler's own figures decide.
"""

import dataclasses

import jax.numpy as jnp

from unimod_jax.parallel import MeshConfig
from unimod_jax.training import Assembly

_FLOAT32 = 4

_CHUNK_IDS = 8192
"""Logits are made for so many ids at a time (`objectives.cross_entropy`)."""


@dataclasses.dataclass(frozen=True)
class ActivationEstimate:
    """Bytes of activations and temporaries on one device.

    Attributes:
      stored: what the layers keep for the backward pass.
      working: of the layer at work, and of the head.
      gathered: parameters that are whole while they are used, and their gradients.
    """

    stored: float
    working: float
    gathered: float

    @property
    def total(self) -> float:
        """All of them at once."""
        return self.stored + self.working + self.gathered


def estimate_activations(
    assembly: Assembly, mesh: MeshConfig, parts: int, remat: str | None = None
) -> ActivationEstimate:
    """Activations of one part of a step's rows on one device.

    Args:
      assembly: what follows from the experiment.
      mesh: of all devices.
      parts: that the rows are taken in.
      remat: in place of the model's.
    """
    c = assembly.spec.config
    item = jnp.dtype(c.compute_dtype).itemsize
    shards = mesh.data * mesh.fsdp * parts
    tokens = sum(
        max(1.0, rows / shards) * assembly.layouts[task].row_length
        for task, rows in assembly.rows.items()
    )
    heads, hidden = c.num_heads * c.head_dim / mesh.tensor, c.hidden / mesh.tensor
    everything = 8 * c.width + 4 * heads + 3 * hidden
    kept = {
        "all": c.width,
        "all_but_results": 2 * c.width + heads,
        "nothing": everything,
    }[remat or c.remat]
    vocabulary = assembly.vocabulary_size / mesh.tensor
    head = tokens * (min(_CHUNK_IDS, vocabulary) * 2 + c.width * 2) * _FLOAT32
    layer_weights = c.width * (4 * heads + 3 * hidden) * len(assembly.spec.streams)
    return ActivationEstimate(
        stored=tokens * c.num_layers * kept * item,
        working=max(tokens * everything * _FLOAT32, head),
        gathered=layer_weights * (2 * item + _FLOAT32)
        + 2 * vocabulary * c.width * _FLOAT32,
    )
