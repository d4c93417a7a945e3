"""What a training example is, for any data set: an ordered sequence of parts.

Whatever a data set calls its features, a row of it becomes one `Record`: texts, images
and speech in reading order, each with a name that tasks use. A captioned picture is the
simple case; a document has any number of each. The first row of the built-in data
set's train split, as `describe` prints it:

    key       scan-0000
    label     0
    image     uint8 [8, 8, 1]
             0   0  80 207 143  16   0   0
             0   0 207 239 159 239  80   0
             0  48 239  32   0 175 128   0
             0  64 191   0   0 128 128   0
             0  80 128   0   0 143 128   0
             0  64 175   0  16 191 112   0
             0  32 223  80 159 191   0   0
             0   0  96 207 159   0   0   0
    text      a handwritten zero
            | a small image of the number zero
            | the digit zero
            | an image of the digit zero
"""

import abc
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import overload

import numpy as np

from unimod_jax.layout import IMAGE, SPEECH, TEXT


class DataError(ValueError):
    """Bad data or a bad option: one sentence with the value, why, and what to do."""


@dataclasses.dataclass(frozen=True)
class Text:
    """A text of a record.

    Attributes:
      texts: at least one, none empty; alternatives of which one is drawn each time,
        such as the captions of a picture.
      name: what tasks call it.
    """

    texts: tuple[str, ...]
    name: str = TEXT
    modality = TEXT


@dataclasses.dataclass(frozen=True, eq=False)
class Image:
    """An image of a record.

    Attributes:
      picture: the image, or what reads it when it is first asked for: a row whose codes
        are known never needs its pixels.
      name: what tasks call it.
      codes: what a learned tokenizer has made of it, if it has: codes int32 [N], or
        latents float32 [Y, X, Z].
    """

    picture: np.ndarray | Callable[[], np.ndarray]
    name: str = IMAGE
    codes: np.ndarray | None = None
    modality = IMAGE

    @functools.cached_property
    def pixels(self) -> np.ndarray:
        """uint8 [height, width, channels], pixels 0..255, grey (1) or RGB (3).

        Raises:
          DataError: if it is read only now, and is damaged or breaks the schema.
        """
        return self.picture() if callable(self.picture) else self.picture


@dataclasses.dataclass(frozen=True)
class Speech:
    """An utterance of a record.

    Attributes:
      units: from 0, at least one.
      name: what tasks call it.
    """

    units: tuple[int, ...]
    name: str = SPEECH
    modality = SPEECH


type Part = Text | Image | Speech


@dataclasses.dataclass(frozen=True, eq=False)
class Record:
    """One training example.

    Attributes:
      parts: in reading order, at least one.
      key: names the record in messages; unique within its split.
      attributes: what is known of it beside, such as its class; read by judges alone.
    """

    parts: tuple[Part, ...]
    key: str
    attributes: Mapping[str, int | str] = dataclasses.field(default_factory=dict)

    def part(self, name: str, occurrence: int = 0) -> Part | None:
        """The part of a name, the n-th of them; None if there are not so many."""
        found = [part for part in self.parts if part.name == name]
        return found[occurrence] if occurrence < len(found) else None

    @property
    def images(self) -> tuple[Image, ...]:
        """Its images, in reading order."""
        return tuple(part for part in self.parts if isinstance(part, Image))

    @property
    def texts(self) -> tuple[str, ...]:
        """All of its texts, alternatives too."""
        found = (part.texts for part in self.parts if isinstance(part, Text))
        return tuple(text for texts in found for text in texts)


class Records(Sequence[Record]):
    """Records by index, each read when it is asked for, and lists of them by slices."""

    images_per_record: int | None = None
    """How many images every record has, where that is known without reading them."""

    @abc.abstractmethod
    def read(self, place: int) -> Record:
        """The record at a place from 0 to len(self) - 1."""

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        """One record, or a list of them for a slice; negative indices count back."""
        places = range(len(self))[index]
        if isinstance(places, int):
            return self.read(places)
        return [self.read(place) for place in places]


def describe(record: Record) -> str:
    """A record as text: its attributes, then its parts in order."""
    lines = [f"{'key':<9} {record.key}"]
    lines += [f"{name:<9} {value}" for name, value in record.attributes.items()]
    for part in record.parts:
        lines += _described(part)
    return "\n".join(lines)


def _described(part: Part) -> list[str]:
    if isinstance(part, Text):
        first, *others = part.texts
        return [f"{part.name:<9} {first}", *(f"{'|':>9} {text}" for text in others)]
    if isinstance(part, Speech):
        return [f"{part.name:<9} {' '.join(map(str, part.units))}"]
    height, width, channels = part.pixels.shape
    rows = part.pixels.reshape(height, width * channels)
    lines = ["      " + "".join(f"{pixel:4d}" for pixel in row) for row in rows]
    kind = f"{part.pixels.dtype} [{height}, {width}, {channels}]"
    return [f"{part.name:<9} {kind}", *lines]
