"""What a training example is, for any data set, and how bad ones are refused.

Whatever a data set calls its features, a row of it becomes one `Record`. The first row
of the built-in data set's train split, as `describe` prints it:

    key       scan-0000
    label     0
    caption   a handwritten zero
    caption   a small image of the number zero
    caption   the digit zero
    caption   an image of the digit zero
    image     uint8 [8, 8, 1]
             0   0  80 207 143  16   0   0
             0   0 207 239 159 239  80   0
             0  48 239  32   0 175 128   0
             0  64 191   0   0 128 128   0
             0  80 128   0   0 143 128   0
             0  64 175   0  16 191 112   0
             0  32 223  80 159 191   0   0
             0   0  96 207 159   0   0   0
"""

import abc
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from unimod_jax.data.resizing import fit_to_square

if TYPE_CHECKING:
    from unimod_jax.data.config import DataConfig


class DataError(ValueError):
    """Bad data or a bad option: one sentence with the value, why, and what to do."""


@dataclasses.dataclass(frozen=True, eq=False)
class Record:
    """One training example.

    Attributes:
      picture: the image, or what reads it when it is first asked for: a row whose codes
        are known never needs its pixels.
      captions: at least one text that describes the image; none is empty.
      label: the image's class, or None if the data set has none.
      key: names the record in messages; unique within its split.
      speech: units of the record spoken, or None if the data set has no speech.
      codes: what a learned tokenizer has made of the image, if it has: codes int32 [N],
        or latents float32 [Y, X, Z].
    """

    picture: np.ndarray | Callable[[], np.ndarray]
    captions: tuple[str, ...]
    label: int | None
    key: str
    speech: tuple[int, ...] | None = None
    codes: np.ndarray | None = None

    @functools.cached_property
    def image(self) -> np.ndarray:
        """uint8 [height, width, channels], pixels 0..255, grey (1) or RGB (3).

        Raises:
          DataError: if it is read only now, and is damaged or breaks the schema.
        """
        return self.picture() if callable(self.picture) else self.picture


class Records(Sequence[Record]):
    """Records by index, each read when it is asked for, and lists of them by slices."""

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


def validate_record(raw: Mapping[str, Any], config: "DataConfig", where: str) -> Record:
    """Makes a Record of a row as TFDS decodes it.

    Args:
      raw: feature name -> value; texts may be bytes (UTF-8) or str, and the image a
        function that reads it, which is then called and checked when it is needed.
      config: which features to read, and the image size to expect.
      where: names the row in messages, and is its key unless it has a "key" feature.

    Raises:
      DataError: if a feature is missing, there is no caption, a caption is empty, or
        the image has the wrong dtype, channels or size (and config.resize is off), or
        the speech is empty, too long or not in units.
    """
    picture = _feature(raw, "image_feature", config, where)
    if callable(picture):
        picture = functools.partial(_read_image, picture, config, where)
    else:
        picture = _image(picture, config, where)
    captions = _captions(_feature(raw, "caption_feature", config, where), where)
    label = None
    if config.label_feature:
        label = _label(_feature(raw, "label_feature", config, where), where)
    speech = None
    if config.speech_feature:
        speech = _speech(_feature(raw, "speech_feature", config, where), config, where)
    key = _text(raw["key"], where) if "key" in raw else where
    return Record(picture, captions, label, key, speech)


def describe(record: Record) -> str:
    """A record as text: its fields, then its pixels (each channel) in rows."""
    height, width, channels = record.image.shape
    lines = [
        f"key       {record.key}",
        f"label     {record.label}",
        *(f"caption   {caption}" for caption in record.captions),
        *([] if record.speech is None else [f"speech    {_spelled(record.speech)}"]),
        f"image     {record.image.dtype} [{height}, {width}, {channels}]",
    ]
    for row in record.image.reshape(height, width * channels):
        lines.append("      " + "".join(f"{pixel:4d}" for pixel in row))
    return "\n".join(lines)


def _feature(
    raw: Mapping[str, Any], field: str, config: "DataConfig", where: str
) -> Any:
    name = getattr(config, field)
    if name not in raw:
        may_lack = field in ("label_feature", "speech_feature")
        hint = ' (or to "" if it has none)' if may_lack else ""
        raise DataError(
            f"{where} has no feature {name!r}, only {sorted(raw)}; "
            f"set data.{field} to one of these{hint}."
        )
    return raw[name]


def _read_image(
    read: Callable[[], Any], config: "DataConfig", where: str
) -> np.ndarray:
    image = _image(read(), config, where)
    # Records are shared between all who ask, so nobody may write on them.
    image.flags.writeable = False
    return image


def _image(value: Any, config: "DataConfig", where: str) -> np.ndarray:
    image = np.asarray(value)
    if image.dtype != np.uint8 or image.ndim != 3:
        raise DataError(
            f"the image of {where} is {image.dtype} {list(image.shape)}, but images "
            "are uint8 [height, width, channels] with pixels 0..255; convert it in the "
            "builder."
        )
    if image.shape[2] == 1 and config.image_channels == 3:
        image = np.repeat(image, 3, axis=2)
    if image.shape[2] != config.image_channels:
        raise DataError(
            f"the image of {where} has {image.shape[2]} channels but "
            f"data.image_channels is {config.image_channels}; make them agree."
        )
    wanted = (config.image_size, config.image_size)
    if image.shape[:2] == wanted:
        return image
    if not config.resize or 0 in image.shape:
        raise DataError(
            f"the image of {where} is {image.shape[0]} x {image.shape[1]} pixels but "
            f"data.image_size is {config.image_size}; change it or set data.resize."
        )
    return fit_to_square(image, config.image_size)


def _captions(value: Any, where: str) -> tuple[str, ...]:
    values = [value] if isinstance(value, str | bytes) else list(value)
    captions = tuple(_text(caption, where) for caption in values)
    if not captions:
        raise DataError(f"{where} has no caption; give each image one, or drop it.")
    for place, caption in enumerate(captions):
        if not caption.strip():
            raise DataError(
                f"caption {place} of {where} is empty; write one, or drop it."
            )
    return captions


def _text(value: Any, where: str) -> str:
    if isinstance(value, str):
        return value
    if not isinstance(value, bytes):
        raise DataError(
            f"{where} has a text feature that holds {value!r}; "
            "use tfds.features.Text or a sequence of it."
        )
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise DataError(
            f"{where} has a text that is not UTF-8, {value[:20]!r}; encode it as UTF-8."
        ) from None


def _label(value: Any, where: str) -> int:
    label = np.asarray(value)
    if label.ndim or not np.issubdtype(label.dtype, np.integer):
        raise DataError(
            f"the label of {where} is {value!r}, not an integer; "
            'choose another data.label_feature, or "" for none.'
        )
    return int(label)


def _speech(value: Any, config: "DataConfig", where: str) -> tuple[int, ...]:
    units = np.asarray(value)
    if units.ndim != 1 or not np.issubdtype(units.dtype, np.integer):
        raise DataError(
            f"the speech of {where} is {value!r}, not a sequence of integers; "
            'choose another data.speech_feature, or "" for none.'
        )
    if not 1 <= len(units) <= config.speech_tokens:
        raise DataError(
            f"the speech of {where} has {len(units)} units but data.speech_tokens is "
            f"{config.speech_tokens}; enlarge it, or drop the record if it is empty."
        )
    if units.min() < 0 or units.max() >= config.speech_units:
        raise DataError(
            f"the speech units of {where} span {units.min()}..{units.max()} but "
            f"data.speech_units is {config.speech_units}; count units from 0."
        )
    return tuple(units.tolist())


def _spelled(units: tuple[int, ...]) -> str:
    return " ".join(str(unit) for unit in units)
