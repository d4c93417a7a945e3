"""Reads sections of textbooks: a JSON object a line, with segments in reading order.

A segment is a text, or an image (a PNG beside the file) with perhaps an alternative
text and a caption, which stand behind it: figures carry their credits there.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unimod_jax.data.record_schema import DataError

FILE = "documents.jsonl"
FOLDER = "openstax_interleaved"
_HELD_OUT = 20
"""One section in so many is held out."""


def find_sections(directory: Path) -> Path:
    """The file of sections in a folder, or in the one that its archive unpacks to.

    Raises:
      DataError: if there is none, saying where to put it.
    """
    for folder in (directory, directory / FOLDER):
        if (folder / FILE).is_file():
            return folder / FILE
    raise DataError(
        f"there is no {FILE} in {str(directory)!r} nor in its folder {FOLDER}; unpack "
        "the interleaved textbooks there (docs/custom_data.md says where they are "
        "from), or name another folder as data.directory."
    )


def read_sections(file: Path) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """(key, parts {text, image}) of each section; DataError for damaged ones."""
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        try:
            section = json.loads(line)
            parts = [
                part
                for segment in section["segments"]
                for part in _parts(segment, file.parent)
            ]
            key = str(section["id"])
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise DataError(
                f"line {number} of {file} is no section of a textbook "
                f"({type(error).__name__}: {error}); unpack the archive again."
            ) from error
        if parts:
            yield key, parts


def _parts(segment: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    if "text" in segment:
        text = segment["text"].strip()
        return [{"text": text, "image": b""}] if text else []
    picture = (folder / segment["image"]).read_bytes()
    texts = [segment.get(name, "") for name in ("alt", "caption")]
    return [
        {"text": "", "image": picture},
        *({"text": text.strip(), "image": b""} for text in texts if text.strip()),
    ]


def is_held_out(key: str) -> bool:
    """Whether a section is for testing: by its key, whatever the order of the file."""
    digest = hashlib.sha256(key.encode()).digest()
    return int.from_bytes(digest[:8]) % _HELD_OUT == 0
