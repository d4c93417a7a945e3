"""Finding a released tokenizer's file, and ids in it by their published names."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from unimod_jax.data.record_schema import DataError
from unimod_jax.data.vocabulary import Runs

if TYPE_CHECKING:
    import tokenizers

QUESTION_TOKENS = 64
"""Slots of a question about an image, with the wording around it."""

REMEDY = "give the tokenizer files that were released with the model"
"""What to do about a missing or damaged file, or one of another model."""


def find_file(path: str | os.PathLike[str], names: Sequence[str]) -> Path:
    """The tokenizer file: the path itself, or the first of some names in a folder.

    Raises:
      DataError: if there is none.
    """
    path = Path(path)
    if path.is_file():
        return path
    for name in names:
        if (path / name).is_file():
            return path / name
    raise DataError(
        f"{os.fspath(path)!r} is neither a tokenizer file nor a folder with "
        f"{' or '.join(names)}; {REMEDY}."
    )


def marker_ids(
    pieces: "tokenizers.Tokenizer", names: Iterable[str], where: object
) -> list[int]:
    """Ids of some markers by name.

    Args:
      pieces: the tokenizer.
      names: as published.
      where: names the tokenizer in messages, such as its file.

    Raises:
      DataError: for a name that the tokenizer does not have.
    """
    ids = []
    for name in names:
        token = pieces.token_to_id(name)
        if token is None:
            raise DataError(
                f"the tokenizer of '{where}' has no token {name!r}; {REMEDY}."
            )
        ids.append(token)
    return ids


def runs_of(ids: Iterable[int]) -> Runs:
    """Ids as the fewest runs of consecutive ones."""
    runs: list[tuple[int, int]] = []
    for token in sorted(ids):
        if runs and runs[-1][1] == token:
            runs[-1] = (runs[-1][0], token + 1)
        else:
            runs.append((token, token + 1))
    return tuple(runs)


def check_rows(used: int, rows: int, path: Path) -> None:
    """Checks that a tokenizer's vocabulary is the model's.

    Args:
      used: ids of the tokenizer, its markers and the image codes.
      rows: embedding rows of the model.
      path: the tokenizer's file, for the message.

    Raises:
      DataError: if the numbers differ.
    """
    if used != rows:
        raise DataError(
            f"tokenizer file {os.fspath(path)!r} makes a vocabulary of {used} ids but "
            f"the model has {rows} embedding rows; {REMEDY}."
        )
