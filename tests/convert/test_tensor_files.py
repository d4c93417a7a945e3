"""Files are opened, read by rows and written again, or refused in one sentence."""

import json
import shutil
import struct

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.convert.golden_models import GOLDEN
from unimod_jax.convert import (
    ConversionError,
    Manifest,
    new_manifest,
    open_tensor_files,
    write_files,
)
from unimod_jax.convert.safetensors_format import DTYPES


def file_of(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype="F32", shape=(2,), start=0, end=8):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


def test_values_are_those_of_the_bytes(tmp_path):
    values = np.arange(6, dtype=np.float32).reshape(3, 2)
    narrow = values.astype(ml_dtypes.bfloat16)
    header = {
        "__metadata__": {"format": "pt"},
        "wide": entry("F32", (3, 2), 12, 36),
        "narrow": entry("BF16", (3, 2), 0, 12),
        "scalar": entry("I64", (), 36, 44),
    }
    path = tmp_path / "model.safetensors"
    data = narrow.tobytes() + values.tobytes() + struct.pack("<q", -5)
    path.write_bytes(file_of(header, data))
    files = open_tensor_files(path)
    assert files.names == ("narrow", "wide", "scalar")
    assert files.shape("wide") == (3, 2) and files.dtype("narrow") == ml_dtypes.bfloat16
    np.testing.assert_array_equal(files.read("wide", 1, 3), values[1:])
    np.testing.assert_array_equal(files.read("narrow"), narrow)
    np.testing.assert_array_equal(files.read("scalar"), np.int64(-5))


def test_shards_are_one_checkpoint():
    files = open_tensor_files(GOLDEN / "emu3")
    of_index = open_tensor_files(GOLDEN / "emu3" / "model.safetensors.index.json")
    assert files.names == of_index.names
    assert len(files.manifest.files) == 2
    assert files.shape("lm_head.weight") == (96, 48)


@pytest.mark.parametrize("name", ["emu3", "chameleon", "show_o"])
def test_what_is_read_and_written_has_the_same_bytes(name, tmp_path):
    files = open_tensor_files(GOLDEN / name)
    manifest = Manifest.from_json(files.manifest.to_json())
    values = {each: lambda each=each: files.read(each) for each in files.names}
    write_files(manifest, tmp_path / "out", values)
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert any(path.endswith(".safetensors") for path in written)
    for path in written:
        expected = (GOLDEN / name / path).read_bytes()
        assert (tmp_path / "out" / path).read_bytes() == expected


def test_a_new_file_is_laid_out_as_the_format_s_library_does():
    # show_o/model.safetensors was written by safetensors.torch.save_file.
    files = open_tensor_files(GOLDEN / "show_o")
    tensors = {name: (files.shape(name), files.dtype(name)) for name in files.names}
    assert new_manifest(tensors).files == files.manifest.files


def test_large_models_are_written_in_shards(tmp_path):
    tensors = {f"t{n}": ((4, 2), np.dtype(np.float32)) for n in range(5)}
    manifest = new_manifest(tensors, shard_bytes=64)
    assert [record.name for record in manifest.files] == [
        f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)
    ]
    values = {name: lambda: np.ones((4, 2), np.float64) for name in tensors}
    write_files(manifest, tmp_path / "out", values)
    files = open_tensor_files(tmp_path / "out")
    assert sorted(files.names) == sorted(tensors)
    np.testing.assert_array_equal(files.read("t4"), np.ones((4, 2), np.float32))


def test_parallel_shards_keep_their_numbers(tmp_path):
    for n in range(2):
        path = tmp_path / f"consolidated.{n:02}.safetensors"
        path.write_bytes(file_of({"norm.weight": entry()}, bytes(8)))
    files = open_tensor_files(tmp_path)
    assert files.names == ("00/norm.weight", "01/norm.weight")
    assert open_tensor_files(path).names == files.names
    values = {name: lambda: np.zeros(2, np.float32) for name in files.names}
    write_files(files.manifest, tmp_path / "out", values)
    assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()


BAD_FILES = {
    "empty": (b"", "too few for the header"),
    "half a length": (b"\x08\x00", "too few for the header"),
    "truncated header": (file_of({"a": entry()})[:20], "truncated"),
    "truncated data": (file_of({"a": entry()}, bytes(7)), "so it is truncated"),
    "bytes behind": (file_of({"a": entry()}, bytes(9)), "so it is corrupt"),
    "huge header": (struct.pack("<Q", 2**60) + bytes(99), "too few for the header"),
    "no text": (file_of(b"\xff\xfe"), "is no text"),
    "no JSON": (file_of(b"{"), "is no JSON object"),
    "a list": (file_of([1]), "is no JSON object"),
    "twice": (file_of(b'{"a": 1, "a": 1}'), "distinct names"),
    "no entry": (file_of({"a": 3}), "describes 'a' as 3"),
    "negative size": (file_of({"a": entry(shape=(-1,))}), "describes 'a'"),
    "unknown dtype": (file_of({"a": entry("F4")}, bytes(8)), "stores a as F4"),
    "wrong size": (file_of({"a": entry(end=4)}, bytes(4)), r"gives a 4 bytes, but F32"),
    "a gap": (file_of({"a": entry(start=4, end=12)}, bytes(12)), "at byte 4 and not 0"),
    "an overlap": (
        file_of({"a": entry(), "b": entry(start=4, end=12)}, bytes(12)),
        "lets b start at byte 4 and not 8",
    ),
    "a zip of pickles": (b"PK\x03\x04" + bytes(50), "is a pickle"),
    "a pickle": (b"\x80\x02" + bytes(50), "is a pickle"),
    "a pointer": (b"version https://git-lfs.github.com/spec/v1", "Git LFS pointer"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_bad_file_is_refused_in_a_sentence_that_names_it(kind, tmp_path):
    content, words = BAD_FILES[kind]
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(ConversionError, match=words) as caught:
        open_tensor_files(path)
    assert str(path) in str(caught.value)


@given(st.binary(max_size=60))
def test_no_bytes_are_opened_by_accident(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("random") / "model.safetensors"
    path.write_bytes(content)
    try:
        files = open_tensor_files(path)
    except ConversionError:
        return
    assert content[:10] == b"\x02\0\0\0\0\0\0\0{}" and not files.names


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pth", ".ckpt"])
def test_a_pickle_is_refused_unread(suffix, tmp_path):
    (tmp_path / f"consolidated.00{suffix}").write_bytes(b"anything")
    for path in (tmp_path, tmp_path / f"consolidated.00{suffix}"):
        with pytest.raises(ConversionError, match="is a pickle, which can run code"):
            open_tensor_files(path)


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(ConversionError, match="nothing does not exist; give"):
        open_tensor_files(tmp_path / "nothing")
    with pytest.raises(ConversionError, match=r"holds no \.safetensors file"):
        open_tensor_files(tmp_path)


def test_files_that_do_not_belong_together_are_refused(tmp_path):
    for name in ("a", "b"):
        content = file_of({"same": entry()}, bytes(8))
        (tmp_path / f"{name}.safetensors").write_bytes(content)
    with pytest.raises(ConversionError, match="holds 2 safetensors files and 0 ind"):
        open_tensor_files(tmp_path)
    index = tmp_path / "a.safetensors.index.json"
    index.write_text('{"weight_map": {"same": "a.safetensors", "t": "b.safetensors"}}')
    with pytest.raises(ConversionError, match=r"b\.safetensors and .* both hold same"):
        open_tensor_files(tmp_path)
    index.write_text('{"weight_map": {"other": "a.safetensors"}}')
    with pytest.raises(ConversionError, match=r"has no tensor other, though"):
        open_tensor_files(tmp_path)
    index.write_text("[]")
    with pytest.raises(ConversionError, match="has no weight_map"):
        open_tensor_files(tmp_path)


def test_a_missing_shard_is_named(tmp_path):
    shutil.copytree(GOLDEN / "emu3", tmp_path / "emu3")
    (tmp_path / "emu3" / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ConversionError, match=r"model-00002-of-00002\S* is missing"):
        open_tensor_files(tmp_path / "emu3")


def test_a_file_that_shrinks_is_noticed(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(file_of({"a": entry()}, bytes(8)))
    files = open_tensor_files(path)
    path.write_bytes(file_of({"a": entry()}, bytes(3)))
    with pytest.raises(ConversionError, match="ended while a was read"):
        files.read("a")


def test_nothing_is_left_of_an_export_that_fails(tmp_path):
    tensors = {name: ((2,), np.dtype(np.float32)) for name in ("a", "b")}

    def fail():
        raise RuntimeError("no more memory")

    values = {"a": lambda: np.zeros(2, np.float32), "b": fail}
    with pytest.raises(RuntimeError):
        write_files(new_manifest(tensors), tmp_path / "out", values)
    values["b"] = lambda: np.zeros(3, np.float32)
    with pytest.raises(ConversionError, match=r"stores b of shape \(2,\), but .* \(3,"):
        write_files(new_manifest(tensors), tmp_path / "out", values)
    with pytest.raises(ConversionError, match="nothing gives the values of b"):
        write_files(new_manifest(tensors), tmp_path / "out", {"a": values["a"]})
    with pytest.raises(ConversionError, match="have no tensor c"):
        more = values | {"c": values["a"]}
        write_files(new_manifest(tensors), tmp_path / "out", more)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ConversionError, match="exists already"):
        write_files(new_manifest(tensors), tmp_path, values)


def test_every_dtype_of_the_format_is_little_endian_or_one_byte():
    assert all(np.dtype(each).str[0] in "<|" for each in DTYPES.values())
