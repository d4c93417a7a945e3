"""From a row of a data set to a record: which features are its parts, and of what kind.

`data.parts` names features in reading order, each as NAME or NAME=FEATURE: the part's
name, and the feature that holds it. What a part is, its values say:

    text      one text, or a sequence of alternatives
    image     pixels, or the bytes of a picture file; a sequence is several images
    speech    a sequence of units
    a sequence of groups, such as turns {question, answer} or blocks {text, image}:
              the members of the first group, then those of the second, each under its
              own name; empty ones are left out

FEATURE may be a path into a group, such as captions/text.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from unimod_jax.data.config import DataConfig
from unimod_jax.data.image_codec import decode_image
from unimod_jax.data.record_schema import DataError, Image, Part, Record, Speech, Text
from unimod_jax.data.resizing import fit_to_square

_PICTURES = (b"\x89PNG", b"\xff\xd8\xff")
"""How the files of PNG and JPEG begin; no text does."""


def read_record(raw: Mapping[str, Any], config: DataConfig, where: str) -> Record:
    """Makes a record of a row as TFDS decodes it.

    Args:
      raw: feature name -> value; texts may be bytes (UTF-8) or str, and an image a
        function that reads it, which is then called and checked when it is needed.
      config: which features are parts and attributes, and the image size to expect.
      where: names the row in messages, and is its key unless it has a "key" feature.

    Raises:
      DataError: if a feature is missing or of no kind, a text is empty or not UTF-8, an
        image has the wrong dtype, channels or size (and config.resize is off), or
        speech is empty, too long or not in units.
    """
    parts: list[Part] = []
    for entry in config.parts:
        name, _, feature = entry.partition("=")
        value = _feature(raw, feature or name, "parts", where)
        parts += _parts(name, value, config, where)
    if not parts:
        raise DataError(f"{where} has no part at all; give it one, or drop it.")
    attributes = {
        name: _attribute(name, _feature(raw, name, "attributes", where), where)
        for name in config.attributes
    }
    key = _text(raw["key"], where) if "key" in raw else where
    return Record(tuple(parts), key, attributes)


def _feature(raw: Mapping[str, Any], path: str, field: str, where: str) -> Any:
    value: Any = raw
    for name in path.split("/"):
        if not isinstance(value, Mapping) or name not in value:
            known = sorted(value) if isinstance(value, Mapping) else []
            hint = " (or leave it out)" if field == "attributes" else ""
            raise DataError(
                f"{where} has no feature {path!r}, only {known or sorted(raw)}; name "
                f"one of these in data.{field}{hint}."
            )
        value = value[name]
    return value


def _parts(name: str, value: Any, config: DataConfig, where: str) -> list[Part]:
    """The parts that a feature holds: one, or several where it is a sequence."""
    if isinstance(value, Mapping):
        return [part for one in _groups(value, config, where) for part in one]
    if callable(value) or _is_picture(value) or np.ndim(value) == 3:
        return [_image(name, value, config, where)]
    if isinstance(value, str | bytes):
        return [Text((_sentence(value, 0, where),), name)]
    values = list(value) if isinstance(value, Sequence | np.ndarray) else [value]
    if values and all(
        isinstance(each, str | bytes) and not _is_picture(each) for each in values
    ):
        texts = (_sentence(v, place, where) for place, v in enumerate(values))
        return [Text(tuple(texts), name)]
    if values and all(_is_picture(v) or np.ndim(v) == 3 for v in values):
        return [_image(name, each, config, where) for each in values]
    if not values:
        raise DataError(
            f"{where} has an empty feature {name!r}: no text, image or speech; give it "
            "one, or drop the record."
        )
    return [Speech(_units(value, name, config, where), name)]


def _groups(
    value: Mapping[str, Any], config: DataConfig, where: str
) -> Iterator[list[Part]]:
    """The parts of each group of a sequence of groups; members that are empty go."""
    lengths = {name: len(column) for name, column in value.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(
            f"{where} has groups whose members differ in number, {lengths}; give every "
            "group each member, empty ones as empty texts."
        )
    for place in range(max(lengths.values(), default=0)):
        members = {name: column[place] for name, column in value.items()}
        held = {n: m for n, m in members.items() if not _is_empty(m)}
        yield [p for n, m in held.items() for p in _parts(n, m, config, where)]


def _is_empty(member: Any) -> bool:
    return isinstance(member, str | bytes) and not member.strip()


def _is_picture(value: Any) -> bool:
    return isinstance(value, bytes) and value.startswith(_PICTURES)


def _image(name: str, value: Any, config: DataConfig, where: str) -> Image:
    if isinstance(value, bytes):
        value = functools.partial(decode_image, value, where)
    if callable(value):
        return Image(functools.partial(_read_image, value, config, where), name)
    return Image(_pixels(value, config, where), name)


def _read_image(read: Callable[[], Any], config: DataConfig, where: str) -> np.ndarray:
    image = _pixels(read(), config, where)
    # Records are shared between all who ask, so nobody may write on them.
    image.flags.writeable = False
    return image


def _pixels(value: Any, config: DataConfig, where: str) -> np.ndarray:
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


def _sentence(value: Any, place: int, where: str) -> str:
    text = _text(value, where)
    if not text.strip():
        raise DataError(f"text {place} of {where} is empty; write one, or drop it.")
    return text


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


def _attribute(name: str, value: Any, where: str) -> int | str:
    if isinstance(value, str | bytes):
        return _text(value, where)
    number = np.asarray(value)
    if number.ndim or not np.issubdtype(number.dtype, np.integer):
        raise DataError(
            f"the attribute {name!r} of {where} is {_seen(value)}, neither a whole "
            "number nor a text; leave it out of data.attributes."
        )
    return int(number)


def _units(value: Any, name: str, config: DataConfig, where: str) -> tuple[int, ...]:
    units = np.asarray(value)
    if units.ndim != 1 or not np.issubdtype(units.dtype, np.integer):
        raise DataError(
            f"the feature {name!r} of {where} is {_seen(value)}: no text, no uint8 "
            "image and no sequence of speech units; name another in data.parts."
        )
    if len(units) > config.speech_tokens:
        raise DataError(
            f"the speech of {where} has {len(units)} units but data.speech_tokens is "
            f"{config.speech_tokens}; enlarge it, or drop the record."
        )
    if units.min() < 0 or units.max() >= config.speech_units:
        raise DataError(
            f"the speech units of {where} span {units.min()}..{units.max()} but "
            f"data.speech_units is {config.speech_units}; count units from 0."
        )
    return tuple(units.tolist())


def _seen(value: Any) -> str:
    """A value as messages show it, on one line: an array by its kind and size."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {list(value.shape)}"
    return repr(value)
