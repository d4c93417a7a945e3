"""A model that answers the same to every row, and keeps what it was shown."""

import dataclasses
from collections.abc import Callable

import jax
import numpy as np

from tests.models.known_output import output_with
from unimod_jax.layout import TokenGroup
from unimod_jax.models import GroupOutput


def record(append: Callable, *arrays: object) -> None:
    """Appends concrete arrays each time a compiled loop gets here, in order."""
    jax.debug.callback(append, *arrays, ordered=True)


@dataclasses.dataclass
class FixedLogits:
    """Answers every group with the same logits per stream; records token ids.

    Attributes:
      logits: stream -> [B, T, V].
      calls: the token ids of every call, per stream.
    """

    logits: dict[str, np.ndarray]
    calls: list[dict[str, np.ndarray]] = dataclasses.field(default_factory=list)

    def __call__(self, group: TokenGroup) -> GroupOutput:
        """The fixed logits."""
        shown = {name: stream.token_id_BT for name, stream in group.streams.items()}
        record(lambda ids: self.calls.append(jax.tree.map(np.asarray, ids)), shown)
        return output_with(self.logits)

    @property
    def shown(self) -> list[dict[str, np.ndarray]]:
        """The token ids of every call so far, per stream."""
        jax.effects_barrier()
        return self.calls
