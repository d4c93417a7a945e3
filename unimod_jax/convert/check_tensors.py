"""Are these the tensors that the tables describe? Said before any is read."""

from collections.abc import Iterable, Sequence

from unimod_jax.convert.conversion_error import ConversionError
from unimod_jax.convert.layer_table import EMBEDDING
from unimod_jax.convert.layouts import recognised
from unimod_jax.convert.tensor_files import TensorFiles
from unimod_jax.convert.weight_map import FileTensor, Table

_COMPUTED = ("rotary_emb.inv_freq", "rope.freqs")
"""Rotary wavelengths, which some files hold; models compute them."""


def check_tensors(
    files: TensorFiles, tables: Sequence[Table], elsewhere: Sequence[str] = ()
) -> None:
    """Refuses files that hold anything else than the tables say.

    Args:
      files: what was opened.
      tables: of everything that will be read from them.
      elsewhere: prefixes of tensors that other tables read.

    Raises:
      ConversionError: for the first missing, mis-shaped or extra tensor, or for files
        of another layout, by its name.
    """
    expected = {
        tensor.name: (path, tensor)
        for table in tables
        for path, entry in table.items()
        for tensor in entry.tensors
    }
    missing = [name for name in expected if name not in files]
    if missing:
        raise ConversionError(_missing(files, missing, tuple(expected)))
    for path, tensor in expected.values():
        if files.shape(tensor.name) != tensor.shape:
            raise ConversionError(_wrong_shape(files, path, tensor))
    extra = [
        name
        for name in files.names
        if name not in expected
        and not name.startswith(tuple(elsewhere))
        and not name.endswith(_COMPUTED)
    ]
    if extra:
        raise ConversionError(_extra(files, extra, tuple(expected)))


def _missing(
    files: TensorFiles, missing: Sequence[str], expected: Sequence[str]
) -> str:
    looks_like = _other_layout(files, expected)
    more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    return f"{files.path} has no tensor {missing[0]}{more}; " + (
        looks_like or "download it again, or choose the preset of these weights."
    )


def _extra(files: TensorFiles, extra: Sequence[str], expected: Sequence[str]) -> str:
    looks_like = _other_layout(files, expected)
    more = f" and {len(extra) - 1} more" if len(extra) > 1 else ""
    return f"{files.file_of(extra[0])} holds {extra[0]}{more}, for which the model " + (
        f"has no parameter; {looks_like or 'choose the preset of these weights.'}"
    )


def _other_layout(files: TensorFiles, expected: Iterable[str]) -> str:
    """What the files look like, if they are of another layout than was asked for."""
    found, wanted = recognised(files.names), recognised(expected)
    if found is None or wanted is None:
        names = ", ".join(files.names[:3])
        return (
            ""
            if found is wanted or wanted is None
            else f"its tensors ({names}, ...) are of no known language model, so give "
            f"the files of {wanted.title}."
        )
    if found == wanted:
        return ""
    return (
        f"it looks like {found.title}, not {wanted.title}: choose the layout "
        f"{found.name!r}, or give other files."
    )


def _wrong_shape(files: TensorFiles, path: tuple[str, ...], tensor: FileTensor) -> str:
    shape = files.shape(tensor.name)
    of_vocabulary = path == EMBEDDING or path[0] == "vocabulary_head"
    if of_vocabulary and shape[1:] == tensor.shape[1:]:
        return (
            f"{files.file_of(tensor.name)} has {shape[0]} vocabulary rows in "
            f"{tensor.name}, but the model has {tensor.shape[0]}; set vocabulary_size "
            f"to {shape[0]}, or give the files of this preset."
        )
    return (
        f"{files.file_of(tensor.name)} holds {tensor.name} of shape {shape}, but the "
        f"model's is {tensor.shape}; choose the preset of these weights."
    )
