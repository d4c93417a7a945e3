"""Codes of images on disk: made once by a learned tokenizer, read whenever needed.

The codes of a split lie beside its records,

    <directory>/<name>/<version>/image_codes/<split>-<fingerprint>/00000-of-00012.npy

in parts of PART_IMAGES images, so that processes can share the work and a run that was
stopped goes on with the parts that are there. A part is an array [images, ...] of codes
or latents; it appears by one rename, so it is whole. The fingerprint is taken of all
that decides what the codes are, so those of another tokenizer lie in another folder.
Every folder may be deleted: what is missing is made anew.
"""

import contextlib
import errno
import functools
import hashlib
import json
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unimod_jax.data.config import DataConfig
from unimod_jax.data.image_codes import ImageCodec, encode_images
from unimod_jax.data.record_schema import DataError, Image, Record
from unimod_jax.data.tfds_source import INFO_FILE, SplitRecords

PART_IMAGES = 1024
"""Images of a part, the last one's apart: what a run that is stopped has to repeat."""

_FORMAT = 1
"""Of these files; another number, and all codes are made anew."""

_PARTS_OPEN = 64
"""Each open part holds a file descriptor, of which a process often has only 1,024."""

_SEEN_LATE_SECONDS = 60.0
"""How long a network file system may hide a file from the hosts that did not write it;
NFS keeps what it knows of a directory for up to this long."""


class StoredCodes:
    """The codes of a split's images: rows by index, from memory-mapped parts.

    Thread-safe and picklable. Use `make_parts` and `check` before reading.

    Attributes:
      folder: where the parts are, or will be.
    """

    def __init__(self, folder: Path, num_images: int, config: DataConfig) -> None:
        """Opens nothing yet.

        Args:
          folder: from `codes_folder`; made when the first part is.
          num_images: of the split.
          config: how many codes an image has, or latents.
        """
        self.folder = folder
        self._num_images, self._config = num_images, config
        self._shape, self._dtype = (config.num_image_codes,), np.dtype(np.int32)
        if config.latent_channels:
            side = config.patched_size
            self._shape = (side, side, config.latent_channels)
            self._dtype = np.dtype(np.float32)
        self._opened = functools.lru_cache(_PARTS_OPEN)(self._open)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles what to open, not what is open."""
        return StoredCodes, (self.folder, self._num_images, self._config)

    def __len__(self) -> int:
        """Number of images."""
        return self._num_images

    def __getitem__(self, index: int) -> np.ndarray:
        """An image's codes, int32 [N], or latents, float32 [Y, X, Z]."""
        part, row = divmod(range(len(self))[index], PART_IMAGES)
        return np.array(self._opened(part)[row])

    @property
    def num_parts(self) -> int:
        """Parts of the whole."""
        return -(-self._num_images // PART_IMAGES)

    def path(self, part: int) -> Path:
        """The file of a part, from 0."""
        return self.folder / f"{part:05}-of-{self.num_parts:05}.npy"

    def images(self, part: int) -> range:
        """Which images' codes are in a part."""
        start = part * PART_IMAGES
        return range(start, min(start + PART_IMAGES, self._num_images))

    def missing(self) -> list[int]:
        """The parts that are not there."""
        there = set(os.listdir(self.folder)) if self.folder.is_dir() else set()
        return [p for p in range(self.num_parts) if self.path(p).name not in there]

    def make(
        self,
        part: int,
        records: Sequence[Record],
        first_image: np.ndarray,
        codec: ImageCodec,
    ) -> None:
        """Encodes the images of a part and writes it, if it is not there.

        Args:
          part: which one.
          records: of the whole split; those of the part are read one after the other.
          first_image: from `image_codes.first_images`.
          codec: the learned tokenizer of the fingerprint.

        Raises:
          DataError: if it cannot be written, or a record is damaged.
        """
        path = self.path(part)
        if path.exists():
            return
        with _writing_to(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            if not os.access(self.folder, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        codes = encode_images(_images(records, first_image, self.images(part)), codec)
        with _writing_to(self.folder):
            _save_at_once(path, codes)

    def check(self, patience: float = _SEEN_LATE_SECONDS) -> None:
        """Opens every part once.

        Args:
          patience: seconds to wait for parts that other hosts have written.

        Raises:
          DataError: if one is missing, cannot be read, or is of another shape.
        """
        until = time.monotonic() + patience
        while (missing := self.missing()) and time.monotonic() < until:
            time.sleep(1.0)
        if missing:
            raise DataError(
                f"image codes {self.path(missing[0])} were made on another host but "
                "are not seen on this one; set data.codes_directory to a folder that "
                "all hosts share."
            )
        for part in range(self.num_parts):
            self._open(part)

    def _open(self, part: int) -> np.ndarray:
        """A part, [images, ...], mapped from its file."""
        path, shape = self.path(part), (len(self.images(part)), *self._shape)
        try:
            codes = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise _useless(path, " ".join(str(error).split())) from error
        if codes.shape != shape or codes.dtype != self._dtype:
            found = f"{codes.dtype} {list(codes.shape)}"
            raise _useless(path, f"they are {found}, not {self._dtype} {list(shape)}")
        return codes


def _images(
    records: Sequence[Record], first_image: np.ndarray, numbers: range
) -> Iterable[Image]:
    """The images of some numbers, counted over all records."""
    place = int(np.searchsorted(first_image, numbers.start, side="right")) - 1
    while place < len(records) and first_image[place] < numbers.stop:
        for number, image in enumerate(records[place].images, int(first_image[place])):
            if number in numbers:
                yield image
        place += 1


def codes_folder(records: SplitRecords, tokenizer: Path, config: DataConfig) -> Path:
    """Where the codes of a split by a tokenizer are kept.

    Args:
      records: the split.
      tokenizer: a folder with the tokenizer's files; all of it is read.
      config: where the records are, and how large their images.

    Returns:
      A folder whose name has a fingerprint of the tokenizer's files, the size of the
      pictures, and the split of this version of the data set.
    """
    decides = (
        *(_FORMAT, PART_IMAGES, config.name, records.folder.name),
        *(records.split, len(records), *config.parts),
        *(config.image_size, config.image_channels, config.num_image_codes),
    )
    digest = hashlib.sha256(json.dumps(decides).encode())
    digest.update((records.folder / INFO_FILE).read_bytes())
    for path in sorted(path for path in tokenizer.rglob("*") if path.is_file()):
        name = path.relative_to(tokenizer).as_posix()
        digest.update(json.dumps([name, path.stat().st_size]).encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    split = re.sub(r"\W+", "_", records.split).strip("_")
    home = Path(config.codes_directory or config.directory, config.name)
    name = f"{split}-{digest.hexdigest()[:16]}"
    return home / records.folder.name / "image_codes" / name


def make_parts(
    missing: Sequence[int],
    make: Callable[[int], None],
    meet: Callable[[int], None],
    *,
    process_index: int = 0,
    process_count: int = 1,
) -> None:
    """Makes this process's share of the parts that are missing, and meets the others.

    The parts go round, so in a round every process makes one or none, and none waits
    for another longer than a part takes.

    Args:
      missing: the parts that some process has to make, the same list for all.
      make: makes one.
      meet: called after each round with how many parts are still missing; a barrier.
      process_index: which process this is.
      process_count: how many share the work.
    """
    for start in range(0, len(missing), process_count):
        shared_out = missing[start : start + process_count]
        for part in shared_out[process_index : process_index + 1]:
            make(part)
        meet(len(missing) - start - len(shared_out))


@contextlib.contextmanager
def _writing_to(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(
            f"image codes cannot be written to {folder} ({error.strerror}); set "
            "data.codes_directory to a folder with write access and free space."
        ) from error


def _save_at_once(path: Path, codes: np.ndarray) -> None:
    """Writes a whole file or nothing, whoever else writes the same one."""
    writer = f"{socket.gethostname()}-{os.getpid()}-{threading.get_ident()}"
    partial = path.with_name(f".{path.name}.{writer}")
    try:
        with partial.open("wb") as file:
            np.save(file, codes, allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def _useless(path: Path, reason: str) -> DataError:
    return DataError(
        f"image codes {path} are damaged ({reason}); run rm {path} and start again, so "
        "that they are made anew."
    )
