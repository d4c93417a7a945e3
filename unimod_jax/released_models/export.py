"""From a converted model, trained further or not, back to published files."""

from pathlib import Path
from typing import Any

from unimod_jax.convert import layout_of, open_tensor_files, weight_values, write_files
from unimod_jax.convert.write_files import tensors_of
from unimod_jax.models import ModelSpec
from unimod_jax.released_models.provenance import Provenance
from unimod_jax.training import RunDirectory


def export_model(
    run: RunDirectory,
    params: dict[str, Any],
    spec: ModelSpec,
    directory: Path,
    tower: str | None = None,
) -> None:
    """Writes the base weights as the files that they were converted from.

    Routers are no part of published layouts and are left out. A model that was not
    trained gives back the very same bytes.

    Args:
      run: a converted directory, or a run that started from one.
      params: unboxed parameters.
      spec: of their model.
      directory: must not exist; it appears when all files are written.
      tower: which modality's tower to write, where towers have become different.

    Raises:
      ConversionError: for a run that did not start from published files, a directory
        that exists, or towers that differ and no choice among them.
    """
    came_from = Provenance.read(run.published)
    manifest = came_from.manifest
    layout = layout_of(came_from.layout)
    table = layout.weights(came_from.model, len(manifest.files))
    values: dict[str, Any] = {}
    for folder in (run.image_tokenizer, run.other_tensors):
        if folder.is_dir():
            kept = open_tensor_files(folder)
            values |= {name: lambda n=name, k=kept: k.read(n) for name in kept.names}
    written = tensors_of(manifest)
    values = {name: read for name, read in values.items() if name in written}
    values |= weight_values(params, spec, table, tower)
    write_files(manifest, directory, values)
