"""An experiment: one frozen dataclass that says everything about a run.

An experiment file is Python with a function `experiment()` that returns one; the
command line overrides its fields by dotted names. `Assembly` derives from it all that
data, model and generation must agree on.
"""

import dataclasses
import functools
from typing import Literal

from unimod_jax.data import DataConfig, Notation, Vocabulary, worst_case_slots
from unimod_jax.generation import SamplingConfig
from unimod_jax.generation.generate import ImageCodes
from unimod_jax.layout import IMAGE, SPEECH, TEXT, RowLayout
from unimod_jax.models import (
    MixtureOfDepths,
    MixtureOfTransformers,
    ModelConfig,
    ModelSpec,
)
from unimod_jax.models.config import DENSE
from unimod_jax.objectives import (
    INTERLEAVED,
    ImageDiffusion,
    MaskedImage,
    NextToken,
    SequenceSizes,
)
from unimod_jax.parallel import MeshConfig, ShardingRules
from unimod_jax.presets import Recipe


@dataclasses.dataclass(frozen=True)
class TaskShares:
    """How the rows of a step are divided among the tasks; 0 leaves a task out."""

    text_to_image: int = 1
    image_to_text: int = 1
    text_only: int = 1
    interleaved: int = 0

    def rows(self, batch_size: int) -> dict[str, int]:
        """Task -> rows per step.

        Raises:
          ValueError: if the batch does not divide by the shares.
        """
        shares = {name: n for name, n in dataclasses.asdict(self).items() if n}
        whole = sum(shares.values())
        if not whole or min(shares.values()) < 0 or batch_size % whole:
            raise ValueError(
                f"batch_size {batch_size} cannot be divided among the task shares "
                f"{shares}; make it a multiple of {max(whole, 1)}."
            )
        return {name: batch_size * n // whole for name, n in shares.items()}


@dataclasses.dataclass(frozen=True)
class TrainingConfig(Recipe):
    """The recipe of a run, and what is kept of it.

    Attributes:
      seed: of initialisation and of all noise in training.
      checkpoint_every: steps between checkpoints; the last step is always kept.
      keep_checkpoints: how many of the newest checkpoints are kept.
      log_every: steps between rows of metrics.jsonl.
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
        for name in ("skip_above", "skip_budget"):
            if getattr(self, name) < 0:
                raise ValueError(
                    f"training.{name} is {getattr(self, name)}; give 0 or more."
                )
        for name in (
            "steps",
            "checkpoint_every",
            "keep_checkpoints",
            "log_every",
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
      task_shares: how a step's rows are divided among the tasks.
      training: optimiser and schedule.
      sampling: how images are drawn and captions written after training.
      mesh: how many devices share the work, and along which axes.
      sharding: which axes of arrays are cut over which axes of the mesh.
      notation: vocabulary and templates of a released model; None for our own, which
        follow from `data` and `objective`.
    """

    objective: NextToken | MaskedImage | ImageDiffusion
    model: ModelConfig = ModelConfig()
    mot: MixtureOfTransformers = MixtureOfTransformers()
    mod: MixtureOfDepths = MixtureOfDepths()
    data: DataConfig = DataConfig()
    task_shares: TaskShares = TaskShares()
    training: TrainingConfig = TrainingConfig()
    sampling: SamplingConfig = SamplingConfig()
    mesh: MeshConfig = MeshConfig()
    sharding: ShardingRules = ShardingRules()
    notation: Notation | None = None

    def __post_init__(self) -> None:
        """Checks that the plan is of the model's depth, and the data of its kind."""
        self.mod.routes(self.model.num_layers)
        wanted = {TEXT, IMAGE} | ({SPEECH} if self.data.speech_feature else set())
        if not wanted <= set(self.model.modalities):
            raise ValueError(
                f"model.modalities is {self.model.modalities}, but the data has "
                f"{sorted(wanted)}; name all of these."
            )
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
        if self.task_shares.interleaved and isinstance(self.objective, MaskedImage):
            raise ValueError(
                "task_shares.interleaved is set, but masked-image training has no "
                "interleaved rows; choose NextToken or ImageDiffusion, or set it to 0."
            )

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
        notation = self.experiment.notation
        return notation.vocabulary if notation else Vocabulary.of(self.experiment.data)

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
        image_slots = self.sizes.image_slots
        return ModelSpec(
            e.model,
            e.mot,
            e.mod,
            self.vocabulary_size,
            image_tokens=e.data.num_patches if continuous else image_slots,
            patch_size=e.data.patch_width if continuous else 0,
        )

    @functools.cached_property
    def sizes(self) -> SequenceSizes:
        """Slot counts."""
        data = self.experiment.data
        sizes = SequenceSizes(
            data.caption_tokens,
            data.num_image_codes,
            data.num_patches,
            image_line=data.image_line,
            patch_size=data.patch_width,
            question_tokens=data.question_tokens,
        )
        if INTERLEAVED not in self.rows:
            return sizes
        continuous = self.experiment.objective.continuous_images
        image_slots = data.num_patches if continuous else sizes.image_slots
        return dataclasses.replace(
            sizes,
            interleaved_slots=worst_case_slots(data, image_slots),
            interleaved_documents=data.documents_per_row,
        )

    @functools.cached_property
    def layouts(self) -> dict[str, RowLayout]:
        """Task -> layout, for the tasks that have rows."""
        streams = self.spec.streams
        notation = self.experiment.notation
        templates = notation.templates if notation else None
        every = self.experiment.objective.layouts(self.sizes, streams, templates)
        return {task: every[task] for task in self.rows}

    @functools.cached_property
    def rows(self) -> dict[str, int]:
        """Task -> rows per step."""
        e = self.experiment
        return e.task_shares.rows(e.data.batch_size)

    @property
    def tokens_per_step(self) -> int:
        """Slots of a step's rows, empty ones too."""
        return sum(
            self.rows[task] * layout.row_length for task, layout in self.layouts.items()
        )

    @functools.cached_property
    def image_codes(self) -> ImageCodes:
        """Where image codes stand in the vocabulary."""
        v = self.vocabulary
        return ImageCodes(v.image_start, v.image_codes, self.vocabulary_size)
