"""A run's records get codes from disk; the network is called once for each image."""

import dataclasses
import threading

import numpy as np
import pytest

from unimod_jax.data import DataConfig, open_split, stored_codes
from unimod_jax.training import RunDirectory
from unimod_jax.training.endings import Preempted
from unimod_jax.training.learned_codec import coded, coded_split
from unimod_jax.training.processes import Processes


class Sums:
    """One code per image, the sum of its pixels; counts the images it sees."""

    def __init__(self):
        self.images = 0

    def encode(self, images):
        self.images += len(images)
        return images.sum(axis=(1, 2, 3), dtype=np.int32)[:, None]


class OneOfTwo:
    """A process's attendance, where the other process is another thread."""

    hosts = ("here", "here")
    lock = threading.Barrier(2)

    def __init__(self, index, said):
        self.index, self._said = index, said

    def gather(self, name, value=None):
        self._said.setdefault(name, [None, None])[self.index] = value
        self.lock.wait(60)
        return self._said[name]


@pytest.fixture
def run(tmp_path):
    run = RunDirectory(tmp_path / "run")
    run.image_tokenizer.mkdir(parents=True)
    (run.image_tokenizer / "model.safetensors").write_bytes(b"weights")
    return run


@pytest.fixture
def data(data_directory, tmp_path, monkeypatch):
    monkeypatch.setattr(stored_codes, "PART_IMAGES", 100)
    return DataConfig(
        directory=str(data_directory), codes_directory=str(tmp_path), code_size=8
    )


def test_a_second_start_reads_what_the_first_has_made(data, run):
    records = open_split(data, "test")
    first, second = Sums(), Sums()
    made = coded_split(records, first, data, run)
    read = coded_split(records, second, data, run)
    assert (first.images, second.images) == (3 * 104 + 64, 0)
    in_memory = coded(records, Sums(), data)
    for place in (0, 100, 359):
        total = int(records[place].images[0].pixels.sum())
        for codes in (made, read, in_memory):
            (image,) = codes[place].images
            np.testing.assert_array_equal(image.codes, [total])
            assert codes[place].key == records[place].key


def test_a_run_told_to_stop_goes_on_with_the_next_part(data, run):
    records, codec = open_split(data, "test"), Sums()
    with pytest.raises(Preempted, match="with 1 of 4 parts of its image codes"):
        coded_split(records, codec, data, run, told_to_stop=lambda: True)
    assert codec.images == 104
    coded_split(records, codec, data, run)
    assert codec.images == 3 * 104 + 64


def test_two_processes_make_half_of_the_parts_each(data, run):
    records, said, codecs = open_split(data, "test"), {}, (Sums(), Sums())
    coded = [None, None]

    def work(index):
        processes = Processes(OneOfTwo(index, said))
        coded[index] = coded_split(
            records, codecs[index], data, run, processes=processes
        )

    threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [codec.images for codec in codecs] == [208, 104 + 64]
    for place in (50, 150, 250, 359):
        total = int(records[place].images[0].pixels.sum())
        made = [each[place].images[0].codes.tolist() for each in coded]
        assert made == [[total], [total]]


def test_grey_levels_need_no_store(data, run, tmp_path):
    grey = dataclasses.replace(data, code_size=0)
    records = open_split(grey, "test")
    assert coded_split(records, Sums(), grey, run) is records
    assert coded(records, Sums(), grey) is records
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
