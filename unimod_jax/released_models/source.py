"""A released model, opened: all that is small is read and checked, and no weight.

A family whose weights are only the beginning of a model (`Family.larger`) is opened as
that model; what its files lack is known by name and shape.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from unimod_jax.convert import (
    ConversionError,
    PublishedLayout,
    Table,
    TensorFiles,
    layout_of,
    open_tensor_files,
    read_config,
    recognised,
)
from unimod_jax.convert.check_tensors import check_tensors
from unimod_jax.convert.growth import grown_manifest, growth
from unimod_jax.convert.image_tokenizer_files import (
    WITHIN,
    PublishedTokenizer,
    published_tokenizer,
)
from unimod_jax.data import TextTokenizer
from unimod_jax.models import ModelConfig
from unimod_jax.models.parameter_path import Path as ParameterPath
from unimod_jax.released_models.families import Family
from unimod_jax.released_models.provenance import Provenance


@dataclasses.dataclass(frozen=True)
class PublishedFiles:
    """Where the files of a released model are.

    Attributes:
      weights: a file, an index of shards, or their folder.
      image_tokenizer: file or folder of the image tokenizer; None if `weights` hold it.
      text_tokenizer: file or folder; None if it is in the folder of the weights.
    """

    weights: Path
    image_tokenizer: Path | None = None
    text_tokenizer: Path | None = None

    @property
    def folder(self) -> Path:
        """Where the weights lie."""
        return self.weights if self.weights.is_dir() else self.weights.parent


@dataclasses.dataclass(frozen=True)
class Source:
    """A released model, opened and checked, with no weight read.

    Attributes:
      family: whose it is.
      files: of the weights.
      layout: theirs.
      table: which of their tensors is which parameter.
      grown: parameters that they hold a part of, or nothing, and their shapes.
      exported_as: the architecture, and the files that it will be exported as.
      image_files: that hold the image tokenizer; perhaps the same files.
      image_tokenizer: it.
      text_tokenizer: opened.
    """

    family: Family
    files: TensorFiles
    layout: PublishedLayout
    table: Table
    grown: Mapping[ParameterPath, tuple[int, ...]]
    exported_as: Provenance
    image_files: TensorFiles
    image_tokenizer: PublishedTokenizer
    text_tokenizer: TextTokenizer

    @property
    def model(self) -> ModelConfig:
        """The architecture."""
        return self.exported_as.model


def open_source(family: Family, published: PublishedFiles) -> Source:
    """Opens all files of a released model and checks that they belong together.

    Raises:
      ConversionError, DataError: as `convert_model`.
    """
    files = open_tensor_files(published.weights)
    layout = _layout(family, files)
    told = read_config(published.folder)
    model = layout.model_config(told) if told else family.published_model()
    table = layout.weights(model, len(files.manifest.files))
    check_tensors(files, [table], layout.elsewhere)
    image_files, image_tokenizer = _image_tokenizer(family, files, published)
    text_tokenizer = family.read_tokenizer(
        published.text_tokenizer or published.folder,
        rows=None if family.larger else model.vocabulary_size,
        image_codes=image_tokenizer.tokenizer.num_codes,
    )
    grown, exported_as = {}, Provenance(layout.name, model, files.manifest)
    if family.larger:
        model = family.larger.model_config(model, text_tokenizer.vocabulary.rows)
        own = layout_of(family.larger.layout).weights(model, 1)
        grown = growth(table, own)
        manifest = grown_manifest(files, table, own, family.larger.file_name)
        exported_as = Provenance(family.larger.layout, model, manifest)
    return Source(
        *(family, files, layout, table, grown, exported_as),
        *(image_files, image_tokenizer, text_tokenizer),
    )


def _layout(family: Family, files: TensorFiles) -> PublishedLayout:
    found = recognised(files.names)
    if found is None or found.name not in family.layouts:
        wanted = " or ".join(layout_of(name).title for name in family.layouts)
        looks = f"looks like {found.title}" if found else "is no layout that is known"
        raise ConversionError(
            f"{files.path} {looks}, but {family.name} reads {wanted}; give its files, "
            "or name the family they are of."
        )
    return found


def _image_tokenizer(
    family: Family, files: TensorFiles, published: PublishedFiles
) -> tuple[TensorFiles, PublishedTokenizer]:
    """The image tokenizer, and the files that hold it."""
    given = published.image_tokenizer
    if given is None and not any(name.startswith(WITHIN) for name in files.names):
        raise ConversionError(
            f"{files.path} holds no image tokenizer, but {family.name} reads and "
            f"writes codes of {family.image_tokenizer}; give that one as "
            "--image-tokenizer."
        )
    found_in = files if given is None else open_tensor_files(given)
    found = published_tokenizer(found_in)
    if found.kind != family.image_tokenizer:
        raise ConversionError(
            f"{found_in.path} holds {found.kind}, but {family.name} reads and writes "
            f"codes of {family.image_tokenizer}; give that one."
        )
    return found_in, found
