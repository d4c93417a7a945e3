"""A trained run or a converted model, opened for use, and what goes with it.

Opening needs the run directory alone: shapes follow from the configuration, the text
tokenizer is saved beside the checkpoints, and the data set is not touched.
"""

import dataclasses
import os
from collections.abc import Set
from pathlib import Path

from unimod_jax.data import ImageCodec, TextTokenizer
from unimod_jax.generation import BoundModel
from unimod_jax.layout import TEXT, TaskLayout, with_segments
from unimod_jax.models import UnifiedModel
from unimod_jax.training import Assembly, Experiment, RunDirectory, RunError
from unimod_jax.training.learned_codec import open_codec
from unimod_jax.training.newest_variables import newest_variables


@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """What sampling and evaluation need of a run.

    Attributes:
      run: its directory.
      experiment: what was trained.
      assembly: what follows from the experiment.
      tokenizer: the run's own.
      codec: how its images become codes and back.
      model: the model.
      variables: its parameters and router thresholds, on one device.
      step: the step of the checkpoint they come from.
    """

    run: RunDirectory
    experiment: Experiment
    assembly: Assembly
    tokenizer: TextTokenizer
    codec: ImageCodec
    model: UnifiedModel
    variables: dict
    step: int

    @property
    def shows_codes(self) -> bool:
        """Whether rows hold what the codec makes of images, not their pixels."""
        continuous = self.experiment.objective.continuous_images
        return not continuous or bool(self.experiment.data.latent_channels)

    def layout(self, task: str) -> TaskLayout:
        """A task's layout.

        Raises:
          RunError: if the run was trained without the task.
        """
        layouts = self.assembly.layouts
        if task not in layouts:
            raise RunError(
                f"{self.run.path} was trained on {sorted(layouts)} and cannot do "
                f"{task}; train a run whose tasks.{task}.share is at least 1."
            )
        return with_segments(layouts[task])

    def layout_writing(
        self, modality: str, given: Set[str], task: str | None = None
    ) -> TaskLayout:
        """The layout of the one task that writes a modality when it is given others.

        Args:
          modality: of the one piece that is written.
          given: modalities that records show in its rows, a text beside them perhaps.
          task: the task to take where several do.

        Raises:
          RunError: if no task does, or several do and none is named.
        """
        if task is not None:
            return self.layout(task)
        found = [
            layout.task
            for layout in self.assembly.layouts.values()
            if isinstance(layout, TaskLayout) and _writes(layout, modality, given)
        ]
        if len(found) != 1:
            what = f"write {modality} from {' and '.join(sorted(given))}"
            known = sorted(self.assembly.layouts)
            which = (
                f"has {found} for it; name one with --task"
                if found
                else (
                    f"was trained on {known} and cannot {what}; train a task that does"
                )
            )
            raise RunError(f"{self.run.path} {which}.")
        return self.layout(found[0])

    def bound(self, variables: dict) -> BoundModel:
        """The model with its variables, for use inside a jitted function."""
        return BoundModel(self.model, variables)


def _writes(layout: TaskLayout, modality: str, given: Set[str]) -> bool:
    """Whether rows show just these modalities, and write one piece of another."""
    written = [s.modality for s in layout.segments if s.written]
    shown = [s.modality for s in layout.segments if s.part and not s.written]
    return (
        written == [modality]
        and given <= set(shown) <= given | {TEXT}
        and all(shown.count(each) == 1 for each in given - {TEXT})
    )


def open_run(path: str | os.PathLike[str]) -> TrainedRun:
    """Opens a run at its newest checkpoint that can be read, or a converted model.

    A checkpoint that cannot be read is named in a warning and passed over.

    Raises:
      RunError: if this is not a run directory, or has no readable checkpoint.
      DataError: if its tokenizer is missing or damaged.
    """
    run = RunDirectory(Path(path))
    experiment = run.read_experiment()
    assembly = Assembly(experiment)
    variables, step = newest_variables(run, assembly)
    return TrainedRun(
        run,
        experiment,
        assembly,
        TextTokenizer.load(run.tokenizer, assembly.vocabulary),
        open_codec(run, experiment.data),
        UnifiedModel(assembly.spec),
        variables,
        step,
    )
