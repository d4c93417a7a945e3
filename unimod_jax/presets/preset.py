"""What a preset is: a published model and everything needed to train it again."""

import dataclasses
from collections.abc import Mapping

from unimod_jax.layout import PartSizes, RowLayout, Task, rows_of_task
from unimod_jax.models import MixtureOfDepths, ModelConfig, ModelSpec
from unimod_jax.objectives import ImageDiffusion, MaskedImage, NextToken
from unimod_jax.presets.recipe import Recipe

type Objective = NextToken | MaskedImage | ImageDiffusion


@dataclasses.dataclass(frozen=True)
class Preset:
    """A published model: architecture, rows, training recipe, and where each is from.

    What is untied and what is routed is not part of it: `variants` turns a preset into
    the models that the papers compare.

    Attributes:
      name: how commands call it.
      title: one line for people.
      model: the architecture, with its vocabulary size.
      objective: what it is trained on.
      tasks: its rows, and their shares of a step.
      sizes: slots of what records fill.
      recipe: how it is trained.
      batch_rows: rows per step over all tasks and devices.
      unimod: its UniMoD setting, as published or as chosen here.
      mean_tasks: the tasks that figures average over.
      typical_text_tokens: text tokens that a typical row of one image really has; the
        other text slots are padding.
      sources: (field, sentence) pairs, for every field of `recipe` and for "model",
        "objective", "sizes", "batch_rows", "unimod" and "typical_text_tokens".
    """

    name: str
    title: str
    model: ModelConfig
    objective: Objective
    tasks: tuple[Task, ...]
    sizes: PartSizes
    recipe: Recipe
    batch_rows: int
    unimod: MixtureOfDepths
    mean_tasks: tuple[str, ...]
    typical_text_tokens: int
    sources: tuple[tuple[str, str], ...]

    @property
    def source_of(self) -> Mapping[str, str]:
        """Field -> the sentence that says where its value is from."""
        return dict(self.sources)

    def layouts(self, spec: ModelSpec) -> dict[str, RowLayout]:
        """Task -> layout of its rows, stored as the model stores them."""
        return {
            task.name: rows_of_task(task, self.sizes, spec.streams)
            for task in self.tasks
        }


def sourced(
    family: Mapping[str, str], own: Mapping[str, str]
) -> tuple[tuple[str, str], ...]:
    """The sources of a family with those of one of its models put over them."""
    return tuple((dict(family) | dict(own)).items())
