"""The data sets that the project can build itself, by name."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from unimod_jax.data import handwritten_digits, textbook
from unimod_jax.data.textbook.sections import find_sections


def _digits(directory: Path) -> dict[str, Any]:
    """Nothing: they come with scikit-learn."""
    del directory
    return {}


def _textbook(directory: Path) -> dict[str, Any]:
    return {"sections": find_sections(directory)}


BUILT_IN: dict[str, Callable[[Path], dict[str, Any]]] = {
    handwritten_digits.DATA_SET: _digits,
    textbook.DATA_SET: _textbook,
}
"""Name -> from `data.directory` to what its builder is given."""

JUDGES = {
    handwritten_digits.DATA_SET: "unimod_jax.data.handwritten_digits.judge:DigitJudge"
}
"""Name -> what makes the judge that the data set brings; see `data.judge`."""


def builder_class(name: str) -> Any:
    """The TFDS builder of a built-in data set; imports TFDS."""
    if name == textbook.DATA_SET:
        from unimod_jax.data.textbook import textbook_dataset_builder

        return textbook_dataset_builder.Builder
    from unimod_jax.data.handwritten_digits import handwritten_digits_dataset_builder

    return handwritten_digits_dataset_builder.Builder
