"""Prepared data sets are whole or refused, however their folder came to look."""

import dataclasses
import os
import pickle
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from unimod_jax.data import DataConfig, DataError, open_split, prepare, tfds_source

FOLDER = Path("handwritten_digits", "1.2.0")
SHARD = "handwritten_digits-train.array_record-00000-of-00001"


@pytest.fixture
def copied(digits: DataConfig, tmp_path: Path) -> DataConfig:
    """A copy of the prepared digits that a test may damage."""
    shutil.copytree(digits.directory, tmp_path, dirs_exist_ok=True)
    return dataclasses.replace(digits, directory=str(tmp_path))


def test_preparing_twice_changes_nothing(copied):
    folder = prepare(copied)
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert prepare(copied) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_a_partial_build_is_rebuilt_and_remains_are_removed(tmp_path):
    partial = tmp_path / FOLDER
    partial.mkdir(parents=True)
    (partial / SHARD).write_bytes(b"half of it")
    killed = tmp_path / "handwritten_digits" / ".building-killed"
    killed.mkdir()
    an_earlier_hour = time.time() - 7200
    os.utime(killed, (an_earlier_hour, an_earlier_hour))

    config = DataConfig(directory=str(tmp_path))
    prepare(config)
    assert len(open_split(config, "train")) == 1437
    assert [path.name for path in (tmp_path / "handwritten_digits").iterdir()] == [
        FOLDER.name
    ]


def test_an_earlier_version_stays_but_the_present_one_is_prepared_and_read(copied):
    earlier = Path(copied.directory, FOLDER.parent, "1.0.0")
    Path(copied.directory, FOLDER).rename(earlier)
    before = {path: path.stat().st_mtime_ns for path in earlier.iterdir()}

    assert prepare(copied) == Path(copied.directory, FOLDER)
    assert open_split(copied, "train").folder == Path(copied.directory, FOLDER)
    assert {path: path.stat().st_mtime_ns for path in earlier.iterdir()} == before


def test_a_failed_build_leaves_nothing(tmp_path, monkeypatch):
    def fail(builder_class, directory):
        Path(directory, "remains").write_text("of a build")
        raise OSError("No space left on device")

    monkeypatch.setattr(tfds_source, "_build", fail)
    with pytest.raises(DataError, match=r"No space left on device.*data.directory"):
        prepare(DataConfig(directory=str(tmp_path)))
    assert list((tmp_path / "handwritten_digits").iterdir()) == []


def test_two_processes_may_prepare_at_once(tmp_path):
    program = (
        "from unimod_jax.data import DataConfig, open_split, prepare\n"
        f"config = DataConfig(directory={str(tmp_path)!r})\n"
        "prepare(config)\n"
        "print(len(open_split(config, 'test')))"
    )
    both = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    assert [process.communicate(timeout=120)[0] for process in both] == ["360\n"] * 2


def test_the_first_of_two_builders_wins(tmp_path, copied):
    built, aside = tmp_path / "built", tmp_path / "aside"
    shutil.copytree(tmp_path / FOLDER, built)
    tfds_source._move_into_place(built, tmp_path / FOLDER, aside)
    assert built.exists() and not aside.exists()


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
def test_a_truncated_shard_is_refused_at_once(copied, share):
    shard = Path(copied.directory, FOLDER, SHARD)
    os.truncate(shard, int(shard.stat().st_size * share))
    _assert_damage_is_reported(copied)


@pytest.mark.parametrize("file", [SHARD, "dataset_info.json", "features.json"])
def test_a_missing_file_is_refused_at_once(copied, file):
    Path(copied.directory, FOLDER, file).unlink()
    _assert_damage_is_reported(copied)


def test_a_damaged_description_is_refused_at_once(copied):
    os.truncate(Path(copied.directory, FOLDER, "dataset_info.json"), 300)
    _assert_damage_is_reported(copied)


def test_damage_inside_a_shard_is_found_when_it_is_read(copied):
    shard = Path(copied.directory, FOLDER, SHARD)
    content = bytearray(shard.read_bytes())
    content[len(content) // 3 : len(content) // 3 + 200] = b"x" * 200
    shard.write_bytes(content)
    records = open_split(copied, "train")
    with pytest.raises(DataError, match=r"damaged.*rm -r"):
        list(records)


def test_what_is_missing_is_named(digits, tmp_path):
    elsewhere = dataclasses.replace(digits, directory=str(tmp_path))
    with pytest.raises(DataError, match="no prepared data set 'handwritten_digits'"):
        open_split(elsewhere, "train")
    with pytest.raises(DataError, match="no prepared data set 'mine'"):
        prepare(dataclasses.replace(digits, name="mine"))
    with pytest.raises(DataError, match=r"no split 'valid', only \['test', 'train'\]"):
        open_split(digits, "valid")
    with pytest.raises(DataError, match="is empty"):
        open_split(digits, "train[:0]")


def test_a_slice_of_a_split_is_a_split(digits, train_records):
    part = open_split(digits, "train[:10%]")
    assert len(part) == 144
    assert part[143].key == train_records[143].key


def test_records_behave_as_a_sequence(train_records):
    assert train_records[-1].key == train_records[1436].key
    assert [record.key for record in train_records[2:4]] == [
        train_records[2].key,
        train_records[3].key,
    ]
    with pytest.raises(IndexError):
        train_records[1437]


def test_records_survive_pickling(train_records):
    again = pickle.loads(pickle.dumps(train_records))
    image, same = (records[5].images[0] for records in (train_records, again))
    np.testing.assert_array_equal(same.pixels, image.pixels)


@pytest.mark.parametrize("code_size", [0, 4])
def test_records_are_kept_only_if_all_their_images_fit(digits, code_size, monkeypatch):
    """Whatever their codes take: it is the pixels that fill the memory."""
    config = dataclasses.replace(digits, code_size=code_size)
    fits = 360 * (64 + 2048)
    monkeypatch.setattr(tfds_source, "CACHED_BYTES", fits)
    kept = open_split(config, "test")
    assert kept[3] is kept[3]
    monkeypatch.setattr(tfds_source, "CACHED_BYTES", fits - 1)
    read = open_split(config, "test")
    assert read[3] is not read[3]


def test_shared_images_cannot_be_written_on(train_records):
    with pytest.raises(ValueError, match="read-only"):
        train_records[0].images[0].pixels[0, 0, 0] = 1


def test_the_library_imports_without_heavy_libraries():
    heavy = ("tensorflow_datasets", "grain", "tokenizers", "sklearn", "PIL")
    program = (
        "import sys, unimod_jax.data\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    output = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert output == "[]\n"


def _assert_damage_is_reported(config: DataConfig) -> None:
    folder = Path(config.directory, FOLDER)
    with pytest.raises(DataError) as error:
        open_split(config, "train")
    text = str(error.value)
    assert f"data set '{folder}' is damaged" in text
    assert f"run rm -r {folder} and build it again" in text
    assert "\n" not in text
