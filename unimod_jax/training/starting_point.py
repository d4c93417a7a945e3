"""Training that starts from another run, trained or converted.

Its variables are read with the shapes of its own configuration, onto the mesh of the
new run, and go by their names (`models.parameter_path`) to where the new run has them:
a dense model may start one with towers, with routes, or with both, and one plan another
(`models.warm_start`). The optimiser starts fresh.
"""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import jax
from flax import linen as nn

from unimod_jax.mod.causal_gate import STATE
from unimod_jax.models.warm_start import warm_start
from unimod_jax.parallel import make_mesh
from unimod_jax.training.experiment import Assembly, Experiment
from unimod_jax.training.newest_variables import newest_variables
from unimod_jax.training.processes import ALONE, Processes
from unimod_jax.training.run_directory import RunDirectory, RunError
from unimod_jax.training.sharded_step import abstract_state
from unimod_jax.training.state import TrainState

_PICTURES = (
    *("image_size", "image_channels", "image_levels", "image_line", "code_size"),
    *("patch_size", "latent_channels", "latent_scale"),
)
"""What a model's rows were made for."""

_DATA = (*_PICTURES, *("text_vocabulary_size", "speech_units"), "resize")
"""What a model's vocabulary and its image tokenizer fix of the data."""


@dataclasses.dataclass(frozen=True)
class StartingPoint:
    """A trained run or a converted model.

    Attributes:
      run: its directory.
      experiment: that it was trained or converted with.
    """

    run: RunDirectory
    experiment: Experiment

    @classmethod
    def open(cls, path: Path) -> "StartingPoint":
        """Opens a run directory.

        Raises:
          RunError: if this is none, or has no weights or no text tokenizer.
        """
        run = RunDirectory(path)
        experiment = run.read_experiment()
        if not (run.checkpoints.is_dir() or run.weights.is_dir()):
            raise RunError(
                f"{path} has neither checkpoints/ nor weights/, so there is nothing to "
                "start from; give a run that was trained, or convert a model with "
                "experiments.convert."
            )
        if not run.tokenizer.is_file():
            raise RunError(
                f"{path} has no {run.tokenizer.name}, so what its text ids mean is not "
                "known; copy the one it was trained with there."
            )
        return cls(run, experiment)

    def adopted_by(self, experiment: Experiment) -> Experiment:
        """The experiment with this model's architecture, vocabulary and image codes.

        A task that the model knows gets the model's rows; shares, weights and tasks of
        other names stay the experiment's, and so do objective, towers, recipe and
        records, and its plan, brought to this model's depth.
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
            mod=experiment.mod.at_depth(self.experiment.model.num_layers),
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

    def started(
        self, state: TrainState, assembly: Assembly, processes: Processes = ALONE
    ) -> TrainState:
        """A fresh state with this model's weights.

        Args:
          state: of the new run, on its mesh.
          assembly: of the new run.
          processes: of the new run.

        Raises:
          RunError: if the weights cannot be read, or the new run's model has no place
            for them.
        """
        experiment = assembly.experiment
        mine = Assembly(dataclasses.replace(self.experiment, mesh=experiment.mesh))

        def start(held: Any, fresh: Any) -> Any:
            return warm_start(held, mine.spec.designs, fresh, assembly.spec.designs)

        shapes = [nn.unbox(abstract_state(a).variables()) for a in (mine, assembly)]
        try:
            jax.eval_shape(start, *shapes)
        except ValueError as error:
            raise RunError(f"{self.run.path} cannot start this run: {error}") from error
        mesh, rules = make_mesh(experiment.mesh), experiment.sharding
        held, _ = newest_variables(self.run, mine, mesh, rules, processes)
        fresh = state.variables()
        places = jax.tree.map(lambda leaf: leaf.sharding, fresh)
        variables = jax.jit(start, out_shardings=places)(held, fresh)
        return dataclasses.replace(
            state, params=variables["params"], router_state=variables[STATE]
        )


def check_pictures(given: Experiment, experiment: Experiment) -> None:
    """Refuses pictures of another kind than a model's rows were made for.

    Args:
      given: the model's.
      experiment: with other options.

    Raises:
      ValueError: naming the first that differs.
    """
    for name in _PICTURES:
        asked, made_for = getattr(experiment.data, name), getattr(given.data, name)
        if asked != made_for:
            raise ValueError(
                f"data.{name} is {asked}, but the rows of the model are made for "
                f"{made_for}; leave it, or choose a size with --image-size of "
                "experiments.convert."
            )
