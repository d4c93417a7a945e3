"""Prepared TFDS data sets on disk: building the digits, and reading any of them.

A data set is read record by record, at random, from ArrayRecord files, without
TensorFlow. A finished one is a folder <directory>/<name>/<version> that holds a
`dataset_info.json`. It appears by one rename, so a half-written one has another name.
"""

import contextlib
import functools
import io
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from unimod_jax.data.built_in import BUILT_IN, builder_class
from unimod_jax.data.config import DataConfig
from unimod_jax.data.image_codec import decode_image
from unimod_jax.data.record_reader import read_record
from unimod_jax.data.record_schema import DataError, Record, Records

CACHED_BYTES = 256 * 2**20
"""A split whose records fit in this much memory is read and decoded only once."""

_BYTES_BESIDE_IMAGES = 2048
_IMAGES_OF_A_DOCUMENT = 8
_STALE_SECONDS = 3600
INFO_FILE = "dataset_info.json"
"""What a finished data set has: its version, its splits, and how long they are."""


def prepare(config: DataConfig) -> Path:
    """The folder of a prepared data set; builds those of `BUILT_IN` that are missing.

    Calling it again changes nothing. An interrupted build leaves nothing that looks
    finished, so the next call builds anew; of several processes that build at once, on
    one or many machines, the first to finish wins and the others use its result.

    Returns:
      <directory>/<name>/<version>.

    Raises:
      DataError: if another data set is missing, or what one is built from.
    """
    if config.name not in BUILT_IN:
        return _prepared_folder(config)
    made_by = builder_class(config.name)
    home = Path(config.directory, config.name)
    final = home / str(made_by.VERSION)
    if (final / INFO_FILE).exists():
        return final
    given = BUILT_IN[config.name](Path(config.directory))
    try:
        home.mkdir(parents=True, exist_ok=True)
        _remove_stale_builds(home)
        with tempfile.TemporaryDirectory(prefix=".building-", dir=home) as scratch:
            _build(functools.partial(made_by, **given), scratch)
            built = Path(scratch, config.name, final.name)
            _move_into_place(built, final, Path(scratch, "incomplete"))
    except OSError as error:
        raise DataError(
            f"cannot write the data set to {str(home)!r} ({error}); "
            "set data.directory to a folder with write access and free space."
        ) from error
    return final


def open_split(config: DataConfig, split: str) -> "SplitRecords":
    """Opens a split of any prepared data set, as a sequence of validated records.

    Args:
      config: names the data set, its features and its image size.
      split: such as config.train_split; TFDS slices ("train[:90%]") work.

    Raises:
      DataError: if the data set or split is missing, or its files are damaged. Records
        are checked one by one when they are read.
    """
    return SplitRecords(config, split)


class SplitRecords(Records):
    """The records of a split: random access by index, length, picklable, thread-safe.

    Raises DataError on reading a record, or its image, that is damaged or breaks the
    schema. Images are decoded when they are first asked for.

    Attributes:
      folder: the prepared data set, <directory>/<name>/<version>.
      split: name of the split.
    """

    def __init__(self, config: DataConfig, split: str) -> None:
        """Opens the split and reads its first and last record, to fail early."""
        self._config = config
        self.split = split
        self.folder = _prepared_folder(config)
        opened = _open_rows(self.folder, config, split)
        self._rows, self._images = opened.rows, opened.images
        self.images_per_record = _count_images(opened, config)
        self._cache: dict[int, Record] | None = None
        image_bytes = config.image_size**2 * config.image_channels
        image_bytes *= self.images_per_record or _IMAGES_OF_A_DOCUMENT
        if len(self._rows) * (image_bytes + _BYTES_BESIDE_IMAGES) <= CACHED_BYTES:
            self._cache = {}
        for record in (self[0], self[-1]):
            _ = [image.pixels for image in record.images]

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles what to open, not what is open."""
        return SplitRecords, (self._config, self.split)

    def __len__(self) -> int:
        """Number of records."""
        return len(self._rows)

    def read(self, place: int) -> Record:
        """One record, decoded once where all of them fit into memory."""
        if self._cache is not None and place in self._cache:
            return self._cache[place]
        record = self._read(place)
        if self._cache is not None:
            self._cache[place] = record
        return record

    def _read(self, place: int) -> Record:
        where = f"record {place} of {self.folder.parent.name}/{self.split}"
        try:
            raw = self._rows[place]
        # array_record reports a damaged file as RuntimeError, TFDS as several others.
        except Exception as error:
            raise _damaged(self.folder, error) from error
        for name in self._images & set(raw):
            picture = functools.partial(decode_image, raw[name], where)
            raw = {**raw, name: picture}
        return read_record(raw, self._config, where)


class _Opened(NamedTuple):
    """TFDS's own random-access source of a split, and what its features are.

    Attributes:
      rows: by index; images stay encoded.
      images: names of the features that are one image.
      single: names of the features that are one image, text or utterance, or texts to
        choose from.
    """

    rows: Any
    images: frozenset[str]
    single: frozenset[str]


def _open_rows(folder: Path, config: DataConfig, split: str) -> _Opened:
    import tensorflow_datasets as tfds

    try:
        builder: Any = tfds.builder_from_directory(folder)
        splits = builder.info.splits
        features = builder.info.features
    # A damaged JSON file raises whatever its parser likes.
    except Exception as error:
        raise _damaged(folder, error) from error
    try:
        files = splits[split].filepaths
    except (KeyError, ValueError, AssertionError) as error:
        raise DataError(
            f"{str(folder)!r} has no split {split!r}, only {sorted(splits)}; "
            "set data.train_split and data.test_split."
        ) from error
    if not splits[split].num_examples:
        raise DataError(f"split {split!r} of {str(folder)!r} is empty; choose another.")
    for file in files:
        if not os.path.exists(file):
            raise _damaged(folder, f"{file.name} is missing")
    images = {n for n, f in features.items() if isinstance(f, tfds.features.Image)}
    single = {n for n, f in features.items() if _holds_no_images_but_one(f)}
    skip = {name: tfds.decode.SkipDecoding() for name in images}
    try:
        rows = builder.as_data_source(split, decoders=skip)
        return _Opened(rows, frozenset(images), frozenset(single))
    except NotImplementedError as error:
        raise DataError(
            f"{str(folder)!r} is stored as {builder.info.file_format}; "
            'rebuild it with file_format="array_record".'
        ) from error


def _count_images(opened: _Opened, config: DataConfig) -> int | None:
    """Images of every record; None where records may differ."""
    features = [entry.rpartition("=")[2] for entry in config.parts]
    if not opened.single.issuperset(features):
        return None
    return sum(name in opened.images for name in features)


def _holds_no_images_but_one(feature: Any) -> bool:
    """Whether a feature is one image, or a sequence of numbers or texts, or one."""
    import tensorflow_datasets as tfds

    inner = getattr(feature, "feature", None)
    groups, images = tfds.features.FeaturesDict, tfds.features.Image
    return not isinstance(feature, groups) and not isinstance(inner, groups | images)


def _prepared_folder(config: DataConfig) -> Path:
    """The newest version of the data set that has been prepared."""
    home = Path(config.directory, config.name)
    finished = {
        version: folder
        for folder in home.glob("*")
        if (version := _version(folder.name)) and (folder / INFO_FILE).exists()
    }
    if finished:
        return finished[max(finished)]
    if broken := sorted(f for f in home.glob("*") if _version(f.name)):
        raise _damaged(broken[-1], f"{INFO_FILE} is missing")
    raise DataError(
        f"there is no prepared data set {config.name!r} in {str(home)!r}; "
        "build it there, or set data.directory and data.name."
    )


def _version(name: str) -> tuple[int, ...] | None:
    parts = name.split(".")
    return tuple(map(int, parts)) if all(map(str.isdecimal, parts)) else None


def _damaged(folder: Path, reason: object) -> DataError:
    what = " ".join(str(reason).split())
    return DataError(
        f"data set {str(folder)!r} is damaged ({what}); "
        f"run rm -r {folder} and build it again, or set data.directory."
    )


def _build(make_builder: Any, directory: str) -> None:
    import tensorflow_datasets as tfds

    # TFDS shows progress bars and prints a banner, for a build of two seconds.
    with _no_progress_bar(), contextlib.redirect_stdout(io.StringIO()):
        make_builder(
            data_dir=directory, file_format="array_record"
        ).download_and_prepare(
            download_config=tfds.download.DownloadConfig(try_download_gcs=False)
        )


@contextlib.contextmanager
def _no_progress_bar() -> Iterator[None]:
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    try:
        yield
    finally:
        tfds.enable_progress_bar()


def _move_into_place(built: Path, final: Path, aside: Path) -> None:
    """Renames a finished build; keeps the present one if another process was first."""
    if final.exists() and not (final / INFO_FILE).exists():
        with contextlib.suppress(FileNotFoundError):
            final.rename(aside)
    try:
        built.rename(final)
    except OSError:
        if not (final / INFO_FILE).exists():
            raise


def _remove_stale_builds(home: Path) -> None:
    """Deletes what killed builds left; a build takes seconds, so an hour is plenty."""
    for scratch in home.glob(".building-*"):
        with contextlib.suppress(OSError):
            if time.time() - scratch.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(scratch, ignore_errors=True)
