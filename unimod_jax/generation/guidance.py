"""Classifier-free guidance (2207.12598): rows with and without prompt, side by side.

`guided = without + scale * (with - without)`; scale 1 is no guidance and costs nothing,
because then only the rows with a prompt are run. Show-o's g is scale - 1. Chameleon
adds a term for rows that keep a prompt's images; a prompt of text alone has none, so
its published scales are then a scale of 3.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from unimod_jax.layout import TokenGroup
from unimod_jax.models import GroupOutput

type Forward = Callable[[TokenGroup], GroupOutput]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class GuidedRows:
    """Rows to generate: with their prompts, and the same without where guided.

    Attributes:
      rows: B rows, or 2B where guided: with prompts first, then without.
      scale: guidance scale; static.
    """

    rows: TokenGroup
    scale: float = dataclasses.field(metadata={"static": True})

    @classmethod
    def pair(
        cls, prompted: TokenGroup, unprompted: TokenGroup, scale: float
    ) -> "GuidedRows":
        """Puts both sets of rows into one group; `unprompted` is unused at scale 1."""
        if scale == 1.0:
            return cls(prompted, scale)
        both = jax.tree.map(
            lambda first, second: jnp.concatenate([first, second]), prompted, unprompted
        )
        return cls(both, scale)

    @property
    def num_images(self) -> int:
        """How many distinct rows are generated."""
        return self.rows.num_rows if self.scale == 1.0 else self.rows.num_rows // 2

    def combine(self, values: jax.Array) -> jax.Array:
        """Guides the model's logits or noise: [2B, ...] -> [B, ...]."""
        if self.scale == 1.0:
            return values
        prompted, unprompted = jnp.split(values, 2)
        return unprompted + self.scale * (prompted - unprompted)

    def mirror(self, generated: jax.Array) -> jax.Array:
        """What was generated, for the rows with and without prompt: [B] -> [2B]."""
        if self.scale == 1.0:
            return generated
        return jnp.concatenate([generated, generated])
