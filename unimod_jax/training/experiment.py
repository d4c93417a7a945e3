"""An experiment: one frozen dataclass that says everything about a run.

An experiment file is Python with a function `experiment()` that returns one; the
command line overrides its fields by dotted names. `Assembly` derives from it all that
data, model and generation must agree on.
"""

import dataclasses
import functools
from typing import Literal

from unimod_jax.data import DataConfig, Vocabulary
from unimod_jax.generation import SamplingConfig
from unimod_jax.generation.generate import ImageCodes
from unimod_jax.layout import (
    PartSizes,
    RowLayout,
    Task,
    rows_of_task,
    rows_per_step,
)
from unimod_jax.models import (
    MixtureOfDepths,
    MixtureOfTransformers,
    ModelConfig,
    ModelSpec,
)
from unimod_jax.models.accounting import training_flops
from unimod_jax.models.config import DENSE
from unimod_jax.objectives import ImageDiffusion, MaskedImage, NextToken
from unimod_jax.parallel import MeshConfig, ShardingRules
from unimod_jax.presets import Recipe
from unimod_jax.training.known_names import check_ids, check_names


@dataclasses.dataclass(frozen=True)
class TrainingConfig(Recipe):
    """The recipe of a run, and what is kept of it.

    Attributes:
      seed: of initialisation and of all noise in training.
      checkpoint_every: steps between checkpoints; the last step is always kept.
      keep_checkpoints: how many of the newest checkpoints are kept.
      log_every: steps between rows of metrics.jsonl.
      held_out_every: steps between measurements of the held-out loss (`held_out`), and
        always after the last one; 0 for none.
      held_out_rows: rows of each task that it is measured on, of the first records of
        `data.test_split`.
      momentum_dtype: of AdamW's mean gradient; "bfloat16" takes half of its memory. The
        mean square needs more digits and stays float32.
      skip_above: an update whose gradient norm (before clipping) is larger is thrown
        away, as one that is not finite always is; 0 for no such bound.
      skip_budget: how many updates may be thrown away between two checkpoints; with
        one more the run stops.
      accumulation_steps: parts that a step's rows are taken in, one after the other,
        with their gradients averaged: the same batch in less memory (`accumulation`).
    """

    seed: int = 0
    checkpoint_every: int = 250
    keep_checkpoints: int = 2
    log_every: int = 10
    held_out_every: int = 250
    held_out_rows: int = 64
    momentum_dtype: Literal["float32", "bfloat16"] = "float32"
    skip_above: float = 0.0
    skip_budget: int = 0
    accumulation_steps: int = 1

    def __post_init__(self) -> None:
        """Checks that counts are positive."""
        super().__post_init__()
        if self.momentum_dtype not in ("float32", "bfloat16"):
            raise ValueError(
                f"training.momentum_dtype {self.momentum_dtype!r} is not supported; "
                f"choose 'float32' or 'bfloat16'."
            )
        for name in ("skip_above", "skip_budget", "held_out_every"):
            if getattr(self, name) < 0:
                raise ValueError(
                    f"training.{name} is {getattr(self, name)}; give 0 or more."
                )
        for name in (
            "steps",
            "checkpoint_every",
            "keep_checkpoints",
            "log_every",
            "held_out_rows",
            "accumulation_steps",
        ):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"training.{name} is {getattr(self, name)}; give a whole number "
                    f"of at least 1."
                )


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Everything about a run.

    Attributes:
      objective: what is trained and how images are represented.
      model: sizes of the transformer.
      mot: which components are untied by modality.
      mod: which tasks are routed in which layers.
      data: which records, and how they become tokens.
      tasks: what rows are, and how a step is divided among them.
      training: optimiser and schedule.
      sampling: how images are drawn and captions written after training.
      mesh: how many devices share the work, and along which axes.
      sharding: which axes of arrays are cut over which axes of the mesh.
      vocabulary: of a released model; None for our own, which follows from `data`.
    """

    objective: NextToken | MaskedImage | ImageDiffusion
    tasks: tuple[Task, ...]
    model: ModelConfig = ModelConfig()
    mot: MixtureOfTransformers = MixtureOfTransformers()
    mod: MixtureOfDepths = MixtureOfDepths()
    data: DataConfig = DataConfig()
    training: TrainingConfig = TrainingConfig()
    sampling: SamplingConfig = SamplingConfig()
    mesh: MeshConfig = MeshConfig()
    sharding: ShardingRules = ShardingRules()
    vocabulary: Vocabulary | None = None

    def __post_init__(self) -> None:
        """Checks that tasks, plan, model and data go together."""
        rows_per_step(self.tasks, self.data.batch_size)
        self.mod.routes(self.model.num_layers)
        check_names(self)
        if self.data.image_line and not isinstance(self.objective, NextToken):
            raise ValueError(
                f"data.image_line is {self.data.image_line}, but only next-token "
                "training reads images line by line; set it to 0."
            )
        objective = self.objective
        takes_latents = (
            isinstance(objective, ImageDiffusion) and not objective.largest_value
        )
        if self.data.latent_channels and not takes_latents:
            raise ValueError(
                f"data.latent_channels is {self.data.latent_channels}, but only "
                "ImageDiffusion trains on latents, and without bounds; choose it with "
                "objective.largest_value 0, or set data.latent_channels to 0."
            )

    def task(self, name: str) -> Task:
        """The task of a name; KeyError for one that there is not."""
        return next(task for task in self.tasks if task.name == name)

    def dense_twin(self) -> "Experiment":
        """The same experiment with one tower and no routing."""
        towers, routing = DENSE
        return dataclasses.replace(self, mot=towers, mod=routing)


@dataclasses.dataclass(frozen=True)
class Assembly:
    """What follows from an experiment: vocabulary, model spec, layouts and rows."""

    experiment: Experiment

    @functools.cached_property
    def vocabulary(self) -> Vocabulary:
        """Which id means what."""
        return self.experiment.vocabulary or Vocabulary.of(self.experiment.data)

    @property
    def vocabulary_size(self) -> int:
        """Embedding rows: what the model says, or as many as the data needs.

        Raises:
          ValueError: if the model has fewer.
        """
        needed, given = self.vocabulary.size, self.experiment.model.vocabulary_size
        if given and given < self.vocabulary.used:
            raise ValueError(
                f"model.vocabulary_size is {given}, but the data uses "
                f"{self.vocabulary.used} ids; enlarge it, or set it to 0."
            )
        return given or needed

    @functools.cached_property
    def spec(self) -> ModelSpec:
        """The model's spec."""
        e = self.experiment
        continuous = e.objective.continuous_images
        return ModelSpec(
            e.model,
            e.mot,
            e.mod,
            self.vocabulary_size,
            image_tokens=self.sizes.image_slots,
            patch_size=e.data.patch_width if continuous else 0,
        )

    @functools.cached_property
    def sizes(self) -> PartSizes:
        """Slots of what records fill."""
        data = self.experiment.data
        return PartSizes(
            data.caption_tokens,
            data.num_image_codes,
            data.num_patches,
            continuous=self.experiment.objective.continuous_images,
            image_line=data.image_line,
            patch_size=data.patch_width,
            speech_units=data.speech_tokens,
        )

    @functools.cached_property
    def layouts(self) -> dict[str, RowLayout]:
        """Task -> layout, for the tasks that have rows.

        Raises:
          ValueError: for rows that the objective cannot train, or ids that the
            vocabulary does not have.
        """
        e, special = self.experiment, self.vocabulary.special
        layouts: dict[str, RowLayout] = {}
        for task in e.tasks:
            if task.share:
                layout = rows_of_task(task, self.sizes, self.spec.streams, special)
                e.objective.check(layout)
                check_ids(task, self.vocabulary_size)
                layouts[task.name] = layout
        return layouts

    @property
    def task_weights(self) -> dict[str, float]:
        """Task -> weight of its loss."""
        return {task.name: task.loss_weight for task in self.experiment.tasks}

    @functools.cached_property
    def rows(self) -> dict[str, int]:
        """Task -> rows per step."""
        e = self.experiment
        return rows_per_step(e.tasks, e.data.batch_size)

    @property
    def tokens_per_step(self) -> int:
        """Slots of a step's rows, empty ones too."""
        return sum(
            self.rows[task] * layout.row_length for task, layout in self.layouts.items()
        )

    @property
    def flops_per_step(self) -> int:
        """Useful FLOPs of a training step, as `models.accounting` counts them."""
        return training_flops(self.spec, self.layouts, self.rows)

    @functools.cached_property
    def image_codes(self) -> ImageCodes:
        """Where image codes stand in the vocabulary."""
        v = self.vocabulary
        return ImageCodes(v.image_start, v.image_codes, self.vocabulary_size)
