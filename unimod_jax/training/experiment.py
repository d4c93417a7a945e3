"""An experiment: one frozen dataclass that says everything about a run.

An experiment file is Python with a function `experiment()` that returns one; the
command line overrides its fields by dotted names. `Assembly` derives from it all that
data, model and generation must agree on.
"""

import dataclasses
import functools

from unimod_jax.data import DataConfig, Vocabulary
from unimod_jax.generation import SamplingConfig
from unimod_jax.generation.generate import ImageCodes
from unimod_jax.layout import IMAGE, TEXT, TaskLayout
from unimod_jax.models import (
    MixtureOfDepths,
    MixtureOfTransformers,
    ModelConfig,
    ModelSpec,
)
from unimod_jax.objectives import (
    ImageDiffusion,
    MaskedImage,
    NextToken,
    SequenceSizes,
)
from unimod_jax.parallel import MeshConfig


@dataclasses.dataclass(frozen=True)
class TaskShares:
    """How the rows of a step are divided among the tasks; 0 leaves a task out."""

    text_to_image: int = 1
    image_to_text: int = 1
    text_only: int = 1

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
class TrainingConfig:
    """The optimiser, its schedule, and what is kept.

    Attributes:
      steps: how many steps to train.
      learning_rate: peak of the schedule (linear warm-up, then cosine decay).
      router_learning_rate_ratio: the routers' learning rate over the others'.
      warmup_steps: steps of linear warm-up from zero.
      final_learning_rate_ratio: end of the cosine over its peak.
      weight_decay: of matrices; norms, routers and positions are not decayed.
      beta1, beta2, epsilon: of AdamW.
      clip_norm: largest global gradient norm.
      seed: of initialisation and of all noise in training.
      checkpoint_every: steps between checkpoints; the last step is always kept.
      keep_checkpoints: how many of the newest checkpoints are kept.
      log_every: steps between rows of metrics.jsonl.
    """

    steps: int = 1000
    learning_rate: float = 2e-3
    router_learning_rate_ratio: float = 1.0
    warmup_steps: int = 100
    final_learning_rate_ratio: float = 0.02
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    clip_norm: float = 1.0
    seed: int = 0
    checkpoint_every: int = 250
    keep_checkpoints: int = 2
    log_every: int = 10

    def __post_init__(self) -> None:
        """Checks that counts are positive."""
        for name in ("steps", "checkpoint_every", "keep_checkpoints", "log_every"):
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
      mod: which layers route which tasks.
      data: which records, and how they become tokens.
      task_shares: how a step's rows are divided among the tasks.
      training: optimiser and schedule.
      sampling: how images are drawn after training.
      mesh: over which devices arrays are cut.
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

    def __post_init__(self) -> None:
        """Checks that modalities stand in the order that objectives count on."""
        if self.model.modalities != (TEXT, IMAGE):
            raise ValueError(
                f"model.modalities is {self.model.modalities}, but the objectives "
                f"train on {(TEXT, IMAGE)}; leave it at that."
            )


@dataclasses.dataclass(frozen=True)
class Assembly:
    """What follows from an experiment: vocabulary, model spec, layouts and rows."""

    experiment: Experiment

    @functools.cached_property
    def vocabulary(self) -> Vocabulary:
        """Which id means what."""
        return Vocabulary.of(self.experiment.data)

    @functools.cached_property
    def spec(self) -> ModelSpec:
        """The model's spec."""
        e = self.experiment
        continuous = e.objective.continuous_images
        return ModelSpec(
            e.model,
            e.mot,
            e.mod,
            self.vocabulary.size,
            image_tokens=e.data.num_patches if continuous else e.data.num_image_codes,
            patch_size=e.data.patch_width if continuous else 0,
        )

    @functools.cached_property
    def layouts(self) -> dict[str, TaskLayout]:
        """Task -> layout, for the tasks that have rows."""
        data = self.experiment.data
        sizes = SequenceSizes(
            data.caption_tokens, data.num_image_codes, data.num_patches
        )
        streams = self.spec.untying.streams()
        every = self.experiment.objective.layouts(sizes, streams)
        return {task: every[task] for task in self.rows}

    @functools.cached_property
    def rows(self) -> dict[str, int]:
        """Task -> rows per step."""
        e = self.experiment
        return e.task_shares.rows(e.data.batch_size)

    @functools.cached_property
    def image_codes(self) -> ImageCodes:
        """Where image codes stand in the vocabulary."""
        v = self.vocabulary
        return ImageCodes(v.image_start, v.image_levels, v.size)
