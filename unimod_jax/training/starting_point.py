"""Training that starts from a converted model.

The weights are read into place on the mesh of the new run. A dense model may start one
with towers, with routes, or with both (`models.warm_start`); any other starts its like.
"""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import jax

from unimod_jax.mod.causal_gate import STATE
from unimod_jax.models.warm_start import warm_start
from unimod_jax.parallel import make_mesh
from unimod_jax.training.converted_weights import load_weights
from unimod_jax.training.experiment import Assembly, Experiment
from unimod_jax.training.run_directory import RunDirectory, RunError
from unimod_jax.training.state import TrainState

_PICTURES = (
    *("image_size", "image_channels", "image_levels", "image_line", "code_size"),
)
"""What a model's rows were made for."""

_DATA = (*_PICTURES, "resize")
"""What a model's vocabulary and its image tokenizer fix of the data."""


@dataclasses.dataclass(frozen=True)
class StartingPoint:
    """A converted model.

    Attributes:
      run: its directory.
      experiment: that it was converted with.
    """

    run: RunDirectory
    experiment: Experiment

    @classmethod
    def open(cls, path: Path) -> "StartingPoint":
        """Opens a converted directory.

        Raises:
          RunError: if this is none.
        """
        run = RunDirectory(path)
        experiment = run.read_experiment()
        if not run.weights.is_dir():
            raise RunError(
                f"{path} has no weights/, so it is no converted model; make one with "
                "experiments.convert."
            )
        return cls(run, experiment)

    def adopted_by(self, experiment: Experiment) -> Experiment:
        """The experiment with this model's architecture, vocabulary and image codes.

        A task that the model knows gets the model's rows; shares, weights and tasks of
        other names stay the experiment's, and so do objective, towers, routing, recipe
        and records.
        """
        known = {task.name: task for task in self.experiment.tasks}
        tasks = tuple(
            dataclasses.replace(
                known.get(task.name, task),
                share=task.share,
                loss_weight=task.loss_weight,
            )
            for task in experiment.tasks
        )
        data = {name: getattr(self.experiment.data, name) for name in _DATA}
        return dataclasses.replace(
            experiment,
            model=self.experiment.model,
            vocabulary=self.experiment.vocabulary,
            tasks=tasks,
            data=dataclasses.replace(experiment.data, **data),
        )

    def copy_into(self, run: RunDirectory) -> None:
        """Copies what stays with the weights: tokenizers, and what an export needs."""
        for name in ("tokenizer", "published"):
            source, target = getattr(self.run, name), getattr(run, name)
            if source.exists() and not target.exists():
                shutil.copyfile(source, target)
        if self.run.image_tokenizer.is_dir():
            run.copy_image_tokenizer(self.run.image_tokenizer)
        if self.run.other_tensors.is_dir() and not run.other_tensors.exists():
            shutil.copytree(self.run.other_tensors, run.other_tensors)

    def started(self, state: TrainState, assembly: Assembly) -> TrainState:
        """A fresh state with this model's weights.

        Args:
          state: of the new run, on its mesh.
          assembly: of the new run.

        Raises:
          RunError: if the new run's model is of another architecture.
        """
        experiment = assembly.experiment
        mine = Assembly(dataclasses.replace(self.experiment, mesh=experiment.mesh))
        mesh, rules = make_mesh(experiment.mesh), experiment.sharding
        held = load_weights(self.run.weights, mine, mesh, rules)
        if _is_same(self.experiment, experiment):
            return dataclasses.replace(
                state, params=held["params"], router_state=held[STATE]
            )
        if not _is_dense(self.experiment):
            raise RunError(
                f"{self.run.path} has towers or routes that the new run has not; start "
                "from a dense conversion, or train with the same mot and mod."
            )
        return dataclasses.replace(
            state, params=self._warm_started(held["params"], mine, state, assembly)
        )

    def _warm_started(
        self, dense: Any, mine: Assembly, state: TrainState, assembly: Assembly
    ) -> Any:
        def start(dense: Any, fresh: Any) -> Any:
            return warm_start(dense, mine.spec, fresh, assembly.spec)

        places = jax.tree.map(lambda leaf: leaf.sharding, state.params)
        try:
            return jax.jit(start, out_shardings=places)(dense, state.params)
        except ValueError as error:
            raise RunError(f"{self.run.path} cannot start this run: {error}") from error


def check_pictures(converted: Experiment, experiment: Experiment) -> None:
    """Refuses pictures of another kind than a converted model's rows were made for.

    Args:
      converted: the model's.
      experiment: with other options.

    Raises:
      ValueError: naming the first that differs.
    """
    for name in _PICTURES:
        given, made_for = getattr(experiment.data, name), getattr(converted.data, name)
        if given != made_for:
            raise ValueError(
                f"data.{name} is {given}, but the rows of the converted model are made "
                f"for {made_for}; choose another size with --image-size of "
                "experiments.convert."
            )


def _is_dense(experiment: Experiment) -> bool:
    """Whether it has one tower, without experts, and routes nothing."""
    towers, depth = experiment.mot, experiment.model.num_layers
    routed = any(layer.routes for layer in experiment.mod.layer_plan(depth))
    return not (towers.untied_components or towers.expert_towers or routed)


def _is_same(one: Experiment, other: Experiment) -> bool:
    """Whether both have parameters of the same names and shapes."""
    return (one.model, one.mot, one.mod) == (other.model, other.mot, other.mod)
