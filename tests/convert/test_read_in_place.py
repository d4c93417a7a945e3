"""Weights arrive where they stay, whole or in parts, and never pile up on the host."""

import re
import tracemalloc

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from tests.convert.golden_models import (
    dense,
    files,
    logits_of,
    read,
    row_layout,
    rows,
    spec,
    table,
)
from tests.models.tiny_model import flat, routed_in
from unimod_jax.convert import (
    KERNEL_2D,
    TRANSPOSED,
    ConversionError,
    FileTensor,
    Rearrangement,
    check_tensors,
    layout_of,
    new_manifest,
    open_tensor_files,
    parameter_values,
    read_parameters,
    read_weights,
    tensor_files,
    write_files,
)
from unimod_jax.mod.causal_gate import STATE
from unimod_jax.models import MixtureOfTransformers
from unimod_jax.parallel import MeshConfig, ShardingRules, make_mesh

WITHOUT_NORMS = tuple(
    ("feed_forward", "query", "key", "value", "output", "attention_norm")
)
KEEP_ALL = routed_in((1, 2), ("interleaved",), keep_ratio=1.0, num_layers=3)
TOWERS = {
    "all untied": MixtureOfTransformers(),
    "outer layers untied": MixtureOfTransformers(untied_layers=(0, 2)),
    "some components untied": MixtureOfTransformers(WITHOUT_NORMS),
}
MODELS = ("chameleon", "emu3", "show_o")
elsewhere = layout_of("chameleon").elsewhere


def same_logits(name, of):
    expected = logits_of(spec(name), dense(name), rows(name, spec(name)))
    found = logits_of(of, read(name, of), rows(name, of))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("towers", TOWERS)
def test_towers_that_start_from_files_compute_what_the_dense_model_does(towers):
    same_logits("chameleon", spec("chameleon", TOWERS[towers]))


@pytest.mark.parametrize("name", MODELS)
def test_towers_and_routes_that_keep_everything_change_nothing(name):
    same_logits(name, spec(name, MixtureOfTransformers(), KEEP_ALL))


def test_routed_layers_that_keep_everything_change_no_bit():
    of = spec("emu3", routing=KEEP_ALL)
    expected = logits_of(spec("emu3"), dense("emu3"), rows("emu3", spec("emu3")))
    np.testing.assert_array_equal(
        logits_of(of, read("emu3", of), rows("emu3", of)), expected
    )


def test_routers_are_fresh_and_have_their_state():
    half = routed_in((1, 2), ("interleaved",), keep_ratio=0.5, num_layers=3)
    variables = read("emu3", spec("emu3", routing=half))
    router = variables["params"]["transformer"]["run_1"]["routers_interleaved"]
    assert all(not leaf.any() for leaf in jax.tree.leaves(router))
    assert {leaf.shape[0] for leaf in jax.tree.leaves(variables[STATE])} == {2}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    "axes", [{"fsdp": 2, "tensor": 2}, {"data": 2, "fsdp": 4}], ids=str
)
def test_each_device_gets_its_own_part(name, axes):
    of = spec(name, MixtureOfTransformers(("feed_forward",)))
    mesh = make_mesh(MeshConfig(**axes))
    placed = flat(read(name, of, mesh=mesh, rules=ShardingRules())["params"])
    for path, expected in flat(read(name, of)["params"]).items():
        np.testing.assert_array_equal(placed[path], expected)
    down = placed["transformer/run_0/block/feed_forward/text/down/kernel"]
    parts = axes["fsdp"] * axes.get("tensor", 1)
    assert down.addressable_shards[0].data.size * parts == down.size


def test_parameters_are_float32_unless_asked_otherwise():
    of = spec("emu3")
    wide = {leaf.dtype for leaf in jax.tree.leaves(dense("emu3"))}
    assert wide == {np.dtype(np.float32)}
    narrow = read("emu3", of, dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(narrow)} == {jnp.dtype("bfloat16")}
    np.testing.assert_array_equal(
        narrow["params"]["embedding"]["table"],
        files("emu3").read("model.embed_tokens.weight"),
    )


def test_the_host_holds_a_piece_of_a_tensor_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(tensor_files, "_PIECE_BYTES", 1 << 18)
    shape, dtype = (2048, 2048), np.dtype(ml_dtypes.bfloat16)
    values = np.random.default_rng(0).normal(size=shape).astype(dtype)
    write_files(
        new_manifest({"large": (shape, dtype)}),
        tmp_path / "m",
        {"large": lambda: values},
    )
    opened = open_tensor_files(tmp_path / "m")
    tracemalloc.start()
    kernel = read_parameters(opened, {("k",): FileTensor("large", shape, TRANSPOSED)})
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    np.testing.assert_array_equal(kernel["k"], values.T.astype(np.float32))
    # The parameter itself, and far from a whole tensor beside it.
    assert peak - kernel["k"].nbytes < 0.3 * values.nbytes


def test_small_trees_are_read_and_written_as_their_table_has_them(tmp_path):
    count = Rearrangement(lambda x: x.astype(np.int32), lambda x: x.astype(np.int64))
    tensors = {
        "conv.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2),
        "conv.bias": np.ones(2, ml_dtypes.bfloat16),
        "norm.num_batches_tracked": np.asarray(2**30 + 1, np.int64),
    }
    tree = {
        ("conv", "kernel"): FileTensor("conv.weight", (2, 3, 2, 2), KERNEL_2D),
        ("conv", "bias"): FileTensor("conv.bias", (2,)),
        ("norm", "seen"): FileTensor("norm.num_batches_tracked", (), count),
    }
    shapes = {name: (value.shape, value.dtype) for name, value in tensors.items()}
    values = {name: lambda value=value: value for name, value in tensors.items()}
    write_files(new_manifest(shapes), tmp_path / "in", values)
    opened = open_tensor_files(tmp_path / "in")
    params = read_parameters(opened, tree)
    kernel = tensors["conv.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(params["conv"]["kernel"], kernel)
    assert params["norm"]["seen"] == 2**30 + 1
    out = tmp_path / "out"
    write_files(opened.manifest, out, parameter_values(params, tree))
    (path,) = (tmp_path / "in").iterdir()
    assert (out / path.name).read_bytes() == path.read_bytes()


# --- Files that are not what was asked for --------------------------------------------


def rewritten(name, tmp_path, *, drop=(), add=(), reshape=()):
    """The golden files of a model with some tensors changed."""
    held = files(name)
    tensors = {
        each: (held.shape(each), held.dtype(each))
        for each in held.names
        if each not in drop
    }
    tensors |= {each: ((2, 2), np.dtype(np.float32)) for each in add}
    tensors |= {each: (shape, np.dtype(np.float32)) for each, shape in reshape}
    values = {
        each: lambda shape=shape, dtype=dtype: np.zeros(shape, dtype)
        for each, (shape, dtype) in tensors.items()
    }
    write_files(new_manifest(tensors), tmp_path / "changed", values)
    return open_tensor_files(tmp_path / "changed")


Q = "model.layers.1.self_attn.q_proj.weight"
CHANGES = {
    "missing": ({"drop": (Q,)}, f"changed has no tensor {Q}; download it again, or"),
    "more missing": ({"drop": (Q, "lm_head.weight")}, r"and 1 more; download"),
    "extra": (
        {"add": ("model.layers.9.bias",)},
        r"holds model\.layers\.9\.bias, for which the model has no parameter; choose",
    ),
    "mis-shaped": (
        {"reshape": ((Q, (48, 47)),)},
        rf"holds {Q} of shape \(48, 47\), but the model's is \(48, 48\)",
    ),
    "vocabulary": (
        {"reshape": (("model.embed_tokens.weight", (90, 48)),)},
        r"has 90 vocabulary rows in model\.embed_tokens\.weight, but .* has 96; set",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_other_tensors_than_the_table_s_are_named(change, tmp_path):
    changes, words = CHANGES[change]
    with pytest.raises(ConversionError, match=words):
        check_tensors(
            rewritten("chameleon", tmp_path, **changes), [table("chameleon")], elsewhere
        )


def test_rotary_wavelengths_in_a_file_are_passed_over(tmp_path):
    more = {"add": ("model.layers.0.self_attn.rotary_emb.inv_freq",)}
    check_tensors(rewritten("emu3", tmp_path, **more), [table("emu3")])


def test_an_image_tokenizer_in_the_file_must_be_spoken_for():
    with pytest.raises(ConversionError, match=r"holds model\.vqmodel\.quantize"):
        check_tensors(files("chameleon"), [table("chameleon")])
    image_table = {
        ("codes",): FileTensor("model.vqmodel.quantize.embedding.weight", (16, 8))
    }
    check_tensors(files("chameleon"), [table("chameleon"), image_table])
    codes = read_parameters(files("chameleon"), image_table)["codes"]
    assert codes.shape == (16, 8)


@pytest.mark.parametrize(
    ("held", "asked", "words"),
    [
        (
            "chameleon",
            "emu3",
            "looks like Chameleon for transformers, not Emu3",
        ),
        (
            "emu3",
            "chameleon",
            "looks like Emu3, not Chameleon for transformers",
        ),
        ("show_o", "emu3", "looks like Show-o, not Emu3: choose the layout 'show_o'"),
    ],
)
def test_another_model_is_recognised(held, asked, words):
    with pytest.raises(ConversionError, match=re.escape(words)):
        check_tensors(files(held), [table(asked)], elsewhere)


def test_a_file_of_no_language_model_is_said_to_be_none(tmp_path):
    names = files("emu3").names
    other = rewritten("emu3", tmp_path, drop=names, add=("encoder.conv_in.weight",))
    with pytest.raises(ConversionError, match="are of no known language model"):
        check_tensors(other, [table("emu3")])


def test_a_layout_that_does_not_exist_is_refused():
    with pytest.raises(ConversionError, match="no layout 'llama'; choose one of"):
        layout_of("llama")


def test_a_spec_of_another_architecture_is_refused():
    of = spec("chameleon")
    layouts = {"interleaved": row_layout(of)}
    with pytest.raises(ValueError, match="the given model has no parameter for"):
        read_weights(files("emu3"), table("emu3"), of, layouts)
