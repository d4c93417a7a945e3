"""Codes of a learned tokenizer are made once, in parts, and read from disk."""

import dataclasses
import itertools
import pickle
import threading
from pathlib import Path

import numpy as np
import pytest

from tests.data.conftest import with_segment
from unimod_jax.data import (
    CodedRecords,
    DataConfig,
    DataError,
    SplitRecords,
    StoredCodes,
    codes_folder,
    encode_images,
    fill,
    first_images,
    make_parts,
    open_split,
    stored_codes,
    tfds_source,
)

NUM_PARTS, LAST = 15, 1437 - 14 * 100


class Quarters:
    """Codes of the four quarters of a scan: the level of their first pixels."""

    def __init__(self):
        self.images = 0

    def encode(self, images):
        self.images += len(images)
        levels = images[:, ::4, ::4, 0].astype(np.int32) // 16
        return levels.reshape(len(images), 4)


class Unreachable:
    """A network that nobody may call."""

    def encode(self, images):
        raise AssertionError(f"{len(images)} images were encoded")


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(stored_codes, "PART_IMAGES", 100)


@pytest.fixture(scope="module")
def coarse(digits: DataConfig) -> DataConfig:
    return dataclasses.replace(digits, code_size=4)


@pytest.fixture
def stored(
    tmp_path: Path, train_records: SplitRecords, coarse: DataConfig
) -> StoredCodes:
    return StoredCodes(tmp_path / "codes", len(train_records), coarse)


@pytest.fixture(scope="module")
def in_memory(train_records: SplitRecords) -> np.ndarray:
    images = (image for record in train_records for image in record.images)
    return encode_images(images, Quarters())


def make_all(stored, records, codec, meet=lambda num_left: None, **process):
    firsts = first_images(records)
    make_parts(
        stored.missing(),
        lambda part: stored.make(part, records, firsts, codec),
        meet,
        **process,
    )


def test_codes_are_those_that_would_be_made_in_memory(stored, train_records, in_memory):
    make_all(stored, train_records, Quarters())
    stored.check()
    assert (stored.num_parts, len(stored)) == (NUM_PARTS, 1437)
    np.testing.assert_array_equal(
        np.stack(list(map(stored.__getitem__, range(1437)))), in_memory
    )
    np.testing.assert_array_equal(stored[-1], in_memory[1436])
    assert stored[0].dtype == np.int32
    with pytest.raises(IndexError):
        stored[1437]


def test_parts_that_are_there_are_not_made_again(stored, train_records, coarse):
    make_all(stored, train_records, Quarters())
    again = StoredCodes(stored.folder, 1437, coarse)
    assert again.missing() == []
    again.make(3, train_records, first_images(train_records), Unreachable())
    again.path(3).unlink()
    again.path(14).unlink()
    codec = Quarters()
    make_all(again, train_records, codec)
    # Whole batches of eight: 13 of them, and 5 for the last part's 37 images.
    assert codec.images == 8 * (13 + 5)
    again.check()


def test_a_run_that_is_stopped_keeps_its_parts(stored, train_records):
    def stop(num_left):
        if num_left == NUM_PARTS - 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_all(stored, train_records, Quarters(), stop)
    assert stored.missing() == list(range(2, NUM_PARTS))
    names = [path.name for path in sorted(stored.folder.iterdir())]
    assert names == ["00000-of-00015.npy", "00001-of-00015.npy"]


@pytest.mark.parametrize("count", [1, 2, 4, 20])
def test_processes_share_what_is_missing_and_meet_after_every_part(count):
    missing = [0, 1, 4, 5, 6, 9, 12]
    made, met = [], []
    for index in range(count):
        mine, left = [], []
        make_parts(
            missing, mine.append, left.append, process_index=index, process_count=count
        )
        made.append(mine)
        met.append(left)
    assert made == [missing[index::count] for index in range(count)]
    assert met == [met[0]] * count
    assert met[0] == [max(7 - count * n, 0) for n in range(1, -(-7 // count) + 1)]


def test_two_who_make_the_same_part_at_once_leave_one_whole(stored, train_records):
    together = threading.Barrier(2)

    class Meeting(Quarters):
        def encode(self, images):
            if not self.images:
                together.wait(60)
            return super().encode(images)

    codecs = Meeting(), Meeting()
    firsts = first_images(train_records)
    threads = [
        threading.Thread(target=stored.make, args=(14, train_records, firsts, codec))
        for codec in codecs
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [codec.images for codec in codecs] == [40, 40]
    assert [path.name for path in stored.folder.iterdir()] == ["00014-of-00015.npy"]
    assert np.load(stored.path(14)).shape == (LAST, 4)


def _torn(path):
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def _empty(path):
    path.write_bytes(b"")


def _of_another_shape(path):
    np.save(path, np.zeros((100, 5), np.int32))


def _of_another_type(path):
    np.save(path, np.zeros((100, 4), np.float32))


def _pickled(path):
    np.save(path, np.array([{}], object), allow_pickle=True)


@pytest.mark.parametrize(
    "damage", [_torn, _empty, _of_another_shape, _of_another_type, _pickled]
)
def test_a_part_that_cannot_be_used_is_named(stored, train_records, damage):
    make_all(stored, train_records, Quarters())
    damage(stored.path(7))
    with pytest.raises(DataError) as error:
        stored.check()
    assert f"run rm {stored.path(7)} and start again" in str(error.value)
    assert "\n" not in str(error.value)
    stored.path(7).unlink()
    make_all(stored, train_records, Quarters())
    stored.check()


def test_a_part_that_another_host_has_for_itself_is_missed(stored, train_records):
    make_all(stored, train_records, Quarters())
    stored.path(5).unlink()
    with pytest.raises(DataError, match=r"00005-of-00015.npy .*all hosts share"):
        stored.check(patience=0.0)


def test_nothing_is_encoded_for_a_folder_that_cannot_be_written_to(
    tmp_path, train_records, coarse
):
    in_the_way = tmp_path / "file"
    in_the_way.write_text("not a folder")
    stored = StoredCodes(in_the_way / "codes", len(train_records), coarse)
    with pytest.raises(DataError, match=r"cannot be written .*data.codes_directory"):
        stored.make(0, train_records, first_images(train_records), Unreachable())


def test_parts_are_mapped_and_few_of_them_at_a_time(stored, train_records, monkeypatch):
    make_all(stored, train_records, Quarters())
    monkeypatch.setattr(stored_codes, "_PARTS_OPEN", 4)
    stored = pickle.loads(pickle.dumps(stored))
    for place in itertools.chain(range(0, 1437, 50), [1, 1436]):
        stored[place]
    part = stored._opened(14)
    assert isinstance(part, np.memmap) and part.mode == "r"
    assert stored._opened.cache_info().currsize == 4


def test_documents_are_those_of_codes_in_memory(
    stored, train_records, in_memory, coarse, text_to_image, tokenizer
):
    make_all(stored, train_records, Quarters())
    layout = with_segment(text_to_image, "image", num_slots=4)
    firsts = first_images(train_records)
    from_disk = CodedRecords(train_records, stored, firsts)
    from_memory = CodedRecords(train_records, in_memory, firsts)
    for place in (0, 99, 100, 1436):
        one = fill(from_disk[place], layout, coarse, tokenizer)
        other = fill(from_memory[place], layout, coarse, tokenizer)
        assert one.tokens == other.tokens
        start = tokenizer.vocabulary.image_start
        assert one.tokens["image"] == (in_memory[place] + start).tolist()


def test_images_whose_codes_are_known_are_not_decoded(
    coarse, in_memory, text_to_image, tokenizer, monkeypatch
):
    records = open_split(coarse, "train")

    def refuse(encoded, where):
        raise AssertionError(f"the image of {where} was decoded")

    monkeypatch.setattr(tfds_source, "decode_image", refuse)
    codes = np.repeat(in_memory, 16, axis=1)
    coded = CodedRecords(records, codes, first_images(records))
    row = fill(coded[5], text_to_image, coarse, tokenizer)
    assert len(row.tokens["image"]) == 64
    assert [record.key for record in coded[5:7]] == [records[5].key, records[6].key]
    with pytest.raises(AssertionError, match="was decoded"):
        _ = coded[5].images[0].pixels


# --- Where they are kept -------------------------------------------------------------


@pytest.fixture
def tokenizer_files(tmp_path: Path) -> Path:
    folder = tmp_path / "image_tokenizer"
    (folder / "shards").mkdir(parents=True)
    (folder / "shards" / "a.safetensors").write_bytes(b"weights")
    return folder


def test_codes_lie_beside_the_records_or_where_they_are_told_to(
    train_records, tokenizer_files, coarse
):
    beside = codes_folder(train_records, tokenizer_files, coarse)
    assert beside.parent == train_records.folder / "image_codes"
    assert beside.name.startswith("train-")
    elsewhere = dataclasses.replace(coarse, codes_directory="elsewhere")
    away = codes_folder(train_records, tokenizer_files, elsewhere)
    version = train_records.folder.name
    assert away == Path(
        "elsewhere", "handwritten_digits", version, "image_codes", beside.name
    )


def test_codes_of_the_same_tokenizer_are_shared_by_all_runs(
    train_records, tokenizer_files, coarse, tmp_path
):
    copy = tokenizer_files.rename(tmp_path / "copy")
    again = open_split(coarse, "train")
    other_training = dataclasses.replace(coarse, batch_size=2, seed=5, caption_tokens=9)
    assert codes_folder(train_records, copy, coarse) == codes_folder(
        again, copy, other_training
    )


def _other_bytes(files):
    (files / "shards" / "a.safetensors").write_bytes(b"Weights")


def _other_name(files):
    (files / "shards" / "a.safetensors").rename(files / "shards" / "b.safetensors")


def _another_file(files):
    (files / "config.json").write_text("")


@pytest.mark.parametrize("change", [_other_bytes, _other_name, _another_file])
def test_another_tokenizer_has_another_folder(
    train_records, tokenizer_files, coarse, change
):
    before = codes_folder(train_records, tokenizer_files, coarse)
    change(tokenizer_files)
    assert codes_folder(train_records, tokenizer_files, coarse) != before


def test_other_pictures_have_another_folder(train_records, tokenizer_files, coarse):
    configs = (
        coarse,
        dataclasses.replace(coarse, image_size=16),
        dataclasses.replace(coarse, image_channels=3),
        dataclasses.replace(coarse, parts=("image=scan",)),
    )
    folders = [codes_folder(train_records, tokenizer_files, c) for c in configs]
    for split in ("test", "train[:10]", "train[:11]"):
        part = open_split(coarse, split)
        folders.append(codes_folder(part, tokenizer_files, coarse))
    assert len(set(folders)) == len(folders)
    assert folders[-1].name.startswith("train_11-")
