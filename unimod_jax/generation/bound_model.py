"""A model with its variables, as generation uses it: whole rows, or token by token."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

from unimod_jax.generation.looking_ahead import why_not_token_by_token
from unimod_jax.layout import RowLayout, TokenGroup
from unimod_jax.models import Caches, GroupOutput, UnifiedModel, empty_caches


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class BoundModel:
    """A model that only needs rows; a pytree, so jitted functions can be given one.

    Attributes:
      model: the model; static.
      variables: its parameters and router thresholds.
    """

    model: UnifiedModel = dataclasses.field(metadata={"static": True})
    variables: Mapping[str, Any]

    def __call__(self, group: TokenGroup) -> GroupOutput:
        """The output for whole rows of one task."""
        task = group.layout.task
        outputs, _ = self.model.apply(self.variables, {task: group})
        return outputs[task]

    def empty_caches(self, layout: RowLayout, num_rows: int) -> Caches:
        """Caches with room for whole rows of a layout.

        Raises:
          ValueError: for a model whose tokens are chosen with a view of later ones.
        """
        if reason := why_not_token_by_token(self.model.spec, layout):
            raise ValueError(reason)
        return empty_caches(self.model.spec, layout, num_rows)

    def extend(self, group: TokenGroup, caches: Caches) -> tuple[GroupOutput, Caches]:
        """The output for new tokens of cached rows; see `UnifiedModel.extend`."""
        extended: Any = self.model.apply(self.variables, group, caches, method="extend")
        output, _, caches = extended
        return output, caches

    def extend_to_last(
        self, group: TokenGroup, caches: Caches
    ) -> tuple[jax.Array, Caches]:
        """Logits [B, V] after new tokens; see `UnifiedModel.extend_to_last`."""
        last: Any = self.model.apply(
            self.variables, group, caches, method="extend_to_last"
        )
        return last
