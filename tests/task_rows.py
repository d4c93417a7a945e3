"""The layouts of an objective's published rows, for tests that need some rows."""

import dataclasses

from unimod_jax.layout import (
    PartSizes,
    RowLayout,
    Slots,
    SpecialTokens,
    Stream,
    TaskFamily,
    diffusion_tasks,
    interleaved_task,
    masked_image_tasks,
    next_token_tasks,
    rows_of_task,
)
from unimod_jax.objectives import ImageDiffusion, MaskedImage, Objective


def family_of(
    objective: Objective,
    interleaved_slots: Slots = (),
    special: SpecialTokens | None = None,
    **family_options: object,
) -> TaskFamily:
    """The tasks of the published system that an objective trains, by name.

    Args:
      objective: which family, by its type.
      interleaved_slots: of an interleaved task beside them; () for none.
      special: ids of the markers.
      **family_options: other arguments of the family, such as `time_cap`.
    """
    if isinstance(objective, MaskedImage):
        tasks = dict(masked_image_tasks(special, **family_options))
    elif isinstance(objective, ImageDiffusion):
        tasks = dict(diffusion_tasks(special, **family_options))
    else:
        tasks = dict(next_token_tasks(special, **family_options))
    if interleaved_slots:
        rows = {}
        if objective.continuous_images:
            time_cap = family_options.get("time_cap", 0.5)
            rows = {"bidirectional": ("image",), "captioned_time": time_cap}
        tasks["interleaved"] = interleaved_task(interleaved_slots, **rows)
    return tasks


def layouts(
    objective: Objective,
    sizes: PartSizes,
    streams: tuple[Stream, ...],
    interleaved_slots: Slots = (),
    special: SpecialTokens | None = None,
    **family_options: object,
) -> dict[str, RowLayout]:
    """Task -> layout, of the tasks of `family_of`, with images as the objective's."""
    sizes = dataclasses.replace(sizes, continuous=objective.continuous_images)
    family = family_of(objective, interleaved_slots, special, **family_options)
    found = {
        name: rows_of_task(task, sizes, streams, special)
        for name, task in family.items()
    }
    for layout in found.values():
        objective.check(layout)
    return found
