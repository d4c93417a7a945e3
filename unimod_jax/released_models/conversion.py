"""From published files to a converted directory: all of it, or nothing.

Everything small is read and checked first (`source`), so that a mistake costs seconds
and leaves nothing behind; then the weights stream into place, and the directory appears
by one rename.
"""

import dataclasses
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from unimod_jax.convert import (
    ConversionError,
    TensorFiles,
    new_manifest,
    read_weights,
    write_files,
)
from unimod_jax.convert.image_tokenizer_files import WITHIN
from unimod_jax.convert.write_files import tensors_of
from unimod_jax.data import OWN_RECORDS, DataConfig
from unimod_jax.layout import Task, shared
from unimod_jax.models import MixtureOfDepths, MixtureOfTransformers
from unimod_jax.models.config import DENSE
from unimod_jax.parallel import make_mesh
from unimod_jax.presets import preset
from unimod_jax.released_models.families import Family
from unimod_jax.released_models.source import PublishedFiles, Source, open_source
from unimod_jax.training import (
    Assembly,
    Experiment,
    RunDirectory,
    TrainingConfig,
)
from unimod_jax.training.converted_weights import save_weights
from unimod_jax.training.run_directory import experiment_to_json, write_atomically
from unimod_jax.training.starting_point import check_pictures


@dataclasses.dataclass(frozen=True)
class WarmStart:
    """What the converted model has more than the released one.

    Attributes:
      towers: whether every tower starts as a copy of the released weights.
      routes: whether tasks are routed as UniMoD does for the family.
    """

    towers: bool = False
    routes: bool = False

    def mixture_of_transformers(self) -> MixtureOfTransformers:
        """Towers of the converted model."""
        if not self.towers:
            return DENSE[0]
        return MixtureOfTransformers(initial_towers="copies")

    def mixture_of_depths(self, family: Family, num_layers: int) -> MixtureOfDepths:
        """Routing of the converted model."""
        if not self.routes:
            return DENSE[1]
        return preset(family.preset).unimod.at_depth(num_layers)


AS_RELEASED = WarmStart()
"""The dense model, as it was."""


def convert_model(
    family: Family,
    published: PublishedFiles,
    directory: Path,
    warm_start: WarmStart = AS_RELEASED,
    image_size: int | None = None,
    change: Callable[[Experiment], Experiment] = lambda experiment: experiment,
) -> RunDirectory:
    """Converts a released model into a directory that opens like a run.

    Args:
      family: whose model it is.
      published: its files.
      directory: must not exist; it appears when everything is in it.
      warm_start: towers and routes to start from the released weights.
      image_size: pixels along a side of its images; None is what it was trained on.
      change: of the experiment, such as options of a command line.

    Raises:
      ConversionError: for a directory that exists, or files that cannot be read, are
        not all there, or are of another model.
      DataError: for tokenizer files that are missing or of another model.
      ValueError: for options that do not go together.
    """
    if directory.exists():
        raise ConversionError(
            f"{directory} exists already; give --out a directory that does not, so "
            "that nothing is overwritten."
        )
    source = open_source(family, published)
    start = starting_experiment(source, warm_start, image_size)
    experiment = change(start)
    check_pictures(start, experiment)
    partial = RunDirectory(directory.with_name(f"{directory.name}.partial"))
    shutil.rmtree(partial.path, ignore_errors=True)
    partial.path.mkdir(parents=True)
    try:
        _write_small_files(source, experiment, partial)
        save_weights(partial.weights, _read_weights(source, experiment))
        partial.path.rename(directory)
    finally:
        shutil.rmtree(partial.path, ignore_errors=True)
    return RunDirectory(directory)


def starting_experiment(
    source: Source, warm_start: WarmStart, image_size: int | None = None
) -> Experiment:
    """The experiment of a converted model: how it reads, draws, and would be trained.

    Objective and recipe are the preset's.

    Args:
      source, warm_start, image_size: as of `convert_model`.

    Raises:
      ValueError: for an image size that is no whole number of codes.
    """
    family, image_tokenizer = source.family, source.image_tokenizer
    chosen = preset(family.preset)
    downsampling = image_tokenizer.tokenizer.downsampling
    side = image_tokenizer.tokenizer.codes_per_side(image_size or family.image_size)
    return Experiment(
        objective=chosen.objective,
        model=source.model,
        mot=warm_start.mixture_of_transformers(),
        mod=warm_start.mixture_of_depths(family, source.model.num_layers),
        data=DataConfig(
            name=OWN_RECORDS,
            parts=("image", "text"),
            attributes=(),
            image_size=side * downsampling,
            image_channels=3,
            image_levels=image_tokenizer.tokenizer.num_codes,
            image_line=side if family.has_lines else 0,
            code_size=downsampling,
            resize=True,
            caption_tokens=chosen.sizes.text_tokens,
            batch_size=chosen.batch_rows,
        ),
        tasks=_tasks(source, side),
        training=TrainingConfig(**dataclasses.asdict(chosen.recipe)),
        sampling=family.sampling,
        vocabulary=source.text_tokenizer.vocabulary,
    )


def _tasks(source: Source, side: int) -> tuple[Task, ...]:
    """The rows of a training step, of tasks that the released model knows.

    Others of the preset, which routes may name, are there without a share.
    """
    family, shares = source.family, dict(source.family.shares)
    if not source.layout.reads_codes:
        shares["text_to_image"] += shares["image_to_text"]
        shares["image_to_text"] = 0
    known = family.tasks(source.text_tokenizer, side)
    others = tuple(
        dataclasses.replace(task, share=0)
        for task in preset(family.preset).tasks
        if task.name not in known
    )
    return (*shared(known, **shares), *others)


def copy_tensors(files: TensorFiles, names: Sequence[str], directory: Path) -> None:
    """Copies some tensors into a new folder, in one file; nothing where there are none.

    Values and dtypes stay as they are.
    """
    if not names:
        return
    described = {name: (files.shape(name), files.dtype(name)) for name in names}
    manifest = new_manifest(described, shard_bytes=1 << 62)
    write_files(
        manifest, directory, {name: lambda n=name: files.read(n) for name in names}
    )


def _write_small_files(
    source: Source, experiment: Experiment, run: RunDirectory
) -> None:
    """All of a converted directory but the weights."""
    files, image_files = source.files, source.image_files
    write_atomically(run.config, experiment_to_json(experiment))
    source.text_tokenizer.save(run.tokenizer)
    within = [name for name in image_files.names if name.startswith(WITHIN)]
    copy_tensors(image_files, within or image_files.names, run.image_tokenizer)
    kept = {tensor.name for e in source.table.values() for tensor in e.tensors}
    kept |= set(within if image_files is files else ())
    exported = tensors_of(source.exported_as.manifest)
    rest = [n for n in files.names if n in exported and n not in kept]
    copy_tensors(files, rest, run.other_tensors)
    write_atomically(run.published, source.exported_as.to_json())


def _read_weights(source: Source, experiment: Experiment) -> dict[str, Any]:
    assembly = Assembly(experiment)
    return read_weights(
        source.files,
        source.table,
        assembly.spec,
        assembly.layouts,
        make_mesh(experiment.mesh),
        experiment.sharding,
        elsewhere=source.layout.elsewhere,
        grown=source.grown,
        seed=experiment.training.seed,
    )
