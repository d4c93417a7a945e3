"""What was read unchanged is written unchanged, byte for byte."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.convert.golden_models import (
    GOLDEN,
    WEIGHTS_OF,
    dense,
    files,
    read,
    spec,
    table,
)
from tests.models.tiny_model import routed_in
from unimod_jax.convert import (
    ConversionError,
    new_manifest,
    open_tensor_files,
    write_weights,
)
from unimod_jax.models import MixtureOfTransformers
from unimod_jax.parallel import MeshConfig, ShardingRules, make_mesh

UNTIED, GROUPED = (
    MixtureOfTransformers(),
    MixtureOfTransformers(untied_layers=(1,), tower_groups=(("text", "image"),)),
)
ROUTED = routed_in((2,), ("interleaved",), keep_ratio=0.5, num_layers=3)
SKIPPED = routed_in((1,), ("interleaved",), keep_ratio=0.0, num_layers=3)


def assert_same_files(name, directory):
    written = sorted(path.name for path in directory.iterdir())
    original = [
        path.name
        for path in sorted((GOLDEN / WEIGHTS_OF[name]).iterdir())
        if "safetensors" in path.name
    ]
    assert written == original
    for path in written:
        expected = (GOLDEN / WEIGHTS_OF[name] / path).read_bytes()
        assert (directory / path).read_bytes() == expected


@pytest.mark.parametrize("name", ["chameleon_swin", "emu3", "emu3_hf", "phi", "show_o"])
@pytest.mark.parametrize("kind", ["dense", "towers", "routed towers"])
def test_an_unchanged_conversion_is_written_as_the_same_files(name, kind, tmp_path):
    of = {
        "dense": spec(name),
        "towers": spec(name, GROUPED),
        "routed towers": spec(name, UNTIED, ROUTED),
    }[kind]
    params = read(name, of)["params"]
    manifest, rest = files(name).manifest, files(name)
    write_weights(params, of, table(name), manifest, tmp_path / "out", rest=rest)
    assert_same_files(name, tmp_path / "out")


def test_parameters_on_many_devices_are_gathered(tmp_path):
    mesh = make_mesh(MeshConfig(fsdp=2, tensor=2))
    params = read("emu3", spec("emu3"), mesh=mesh, rules=ShardingRules())["params"]
    manifest = files("emu3").manifest
    write_weights(params, spec("emu3"), table("emu3"), manifest, tmp_path / "out")
    assert_same_files("emu3", tmp_path / "out")


def trained_towers():
    """Towers of which one has learned something."""
    params = jax.tree.map(jnp.copy, read("emu3", spec("emu3", UNTIED))["params"])
    image = params["transformer"]["run_0"]["block"]["value"]["image"]
    image["kernel"] = image["kernel"].at[1, 0, 0].add(1.0)
    return params


def test_towers_that_differ_ask_for_a_choice(tmp_path):
    arguments = (trained_towers(), spec("emu3", UNTIED), table("emu3"))
    manifest = files("emu3").manifest
    words = "the towers image, text of block/value/shared/kernel of layer 1 differ"
    with pytest.raises(ConversionError, match=words):
        write_weights(*arguments, manifest, tmp_path / "out")
    with pytest.raises(ConversionError, match="no tower 'speech'; choose one of image"):
        write_weights(*arguments, manifest, tmp_path / "out", tower="speech")
    assert not list(tmp_path.iterdir())
    write_weights(*arguments, manifest, tmp_path / "text", tower="text")
    assert_same_files("emu3", tmp_path / "text")
    write_weights(*arguments, manifest, tmp_path / "image", tower="image")
    name = "model.layers.1.self_attn.v_proj.weight"
    changed = open_tensor_files(tmp_path / "image").read(name)
    difference = changed.astype(np.float32) - files("emu3").read(name)
    assert abs(difference[0, 0] - 1) < 1e-2
    assert np.count_nonzero(difference) == 1


def test_a_layer_that_everyone_skips_comes_from_the_published_files(tmp_path):
    of = spec("emu3", routing=SKIPPED)
    params, manifest = read("emu3", of)["params"], files("emu3").manifest
    with pytest.raises(ConversionError, match=r"values of model\.layers\.1\.input"):
        write_weights(params, of, table("emu3"), manifest, tmp_path / "out")
    rest = files("emu3")
    write_weights(params, of, table("emu3"), manifest, tmp_path / "out", rest=rest)
    assert_same_files("emu3", tmp_path / "out")


def test_a_model_that_was_never_published_gets_files_of_its_own(tmp_path):
    tensors = {
        entry.name: (entry.shape, np.dtype(np.float32))
        for entry in table("emu3").values()
    }
    params = dense("emu3")["params"]
    manifest = new_manifest(tensors)
    write_weights(params, spec("emu3"), table("emu3"), manifest, tmp_path / "out")
    written = open_tensor_files(tmp_path / "out")
    for name in written.names:
        expected = files("emu3").read(name).astype(np.float32)
        np.testing.assert_array_equal(written.read(name), expected)
