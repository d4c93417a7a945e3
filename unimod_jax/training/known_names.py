"""Names that an experiment writes, held against what they should name.

Tasks, modalities and towers are called by name in several places (`mod`, `mot`, rows of
tasks); one that nothing is called would silently do nothing, so it is refused.
"""

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING

from unimod_jax.layout import Task

if TYPE_CHECKING:
    from unimod_jax.training.experiment import Experiment


def check_names(experiment: "Experiment") -> None:
    """Refuses names of tasks, modalities and towers that an experiment does not have.

    Raises:
      ValueError: naming the first, where it is written, and what there is.
    """
    e, modalities = experiment, experiment.model.modalities
    tasks = [task.name for task in e.tasks]
    _check(e.mod.tasks, tasks, "mod routes the task", "the experiment's tasks are")
    grouped = [name for group in e.mot.tower_groups for name in group]
    has = "the model has the modalities"
    _check(grouped, modalities, "mot.tower_groups names the modality", has)
    towers = {
        tower
        for untying in e.mot.untying_maps(modalities, e.model.num_layers)
        for tower in untying.towers_of_component("feed_forward")
    }
    what = "mot.expert_towers names the feed-forward tower"
    _check(e.mot.expert_towers, towers, what, "the model has the feed-forward towers")
    for task in e.tasks:
        what = f"task {task.name!r} has tokens of the modality"
        _check(_modalities(task), modalities, what, has)


def _modalities(task: Task) -> list[str]:
    if task.documents is not None:
        return [name for name, _ in task.documents.slots]
    return [piece.modality for piece in task.pieces]


def _check(
    written: Iterable[str], known: Iterable[str], what: str, there_are: str
) -> None:
    known = sorted(known)
    for name in written:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else "name one of these."
            raise ValueError(
                f"{what} {name!r}, but {there_are} {', '.join(known)}; {hint}"
            )


def check_ids(task: Task, vocabulary_size: int) -> None:
    """Refuses fixed ids that the vocabulary does not have.

    Raises:
      ValueError: naming the piece and the id.
    """
    for piece in task.pieces:
        for token in piece.ids:
            if token >= vocabulary_size:
                raise ValueError(
                    f"the piece {piece.name!r} of task {task.name!r} has the id "
                    f"{token}, but the vocabulary has {vocabulary_size} ids; give the "
                    "ids of the model's own vocabulary."
                )
