"""Show-o before its first step: Phi's weights, and what Phi has not as initialised."""

import dataclasses
import functools
import zlib

import jax
import numpy as np
import pytest
from flax import linen as nn

from tests.models.tiny_model import QUICK_TO_COMPILE, flat, routed_in
from unimod_jax.convert import (
    ConversionError,
    new_manifest,
    open_tensor_files,
    phi,
    read_weights,
    show_o,
    write_files,
    write_weights,
)
from unimod_jax.convert.growth import grown_manifest, growth
from unimod_jax.layout import InterleavedLayout
from unimod_jax.models import (
    MixtureOfTransformers,
    ModelSpec,
    UnifiedModel,
)
from unimod_jax.models.accounting import abstract_rows
from unimod_jax.models.config import DENSE
from unimod_jax.parallel import MeshConfig, make_mesh

HELD, ROWS, SEED = 12, 32, 7
PHI = dataclasses.replace(
    phi.phi_1_5(),
    **{"width": 16, "num_layers": 3, "num_heads": 2, "num_kv_heads": 2, "head_dim": 8},
    **{"feed_forward_hidden": 24, "vocabulary_size": HELD, "remat": "nothing"},
)
SHOW_O = show_o.begun_from(PHI, ROWS)
FLOAT16 = np.dtype(np.float16)
ROUTED = routed_in((1, 2), ("interleaved",), keep_ratio=0.5, num_layers=3)
MODELS = {
    "dense": DENSE,
    "towers": (MixtureOfTransformers(), DENSE[1]),
    "routed towers": (MixtureOfTransformers(), ROUTED),
}
MESHES = {"one device": None, "four devices": {"fsdp": 2, "tensor": 2}}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A Phi with random weights."""
    folder = tmp_path_factory.mktemp("phi") / "phi-1_5"
    entries = phi.weights(PHI).values()

    def drawn(entry):
        random = np.random.default_rng(zlib.crc32(entry.name.encode()))
        return random.normal(size=entry.shape)

    write_files(
        new_manifest({entry.name: (entry.shape, FLOAT16) for entry in entries}),
        folder,
        {entry.name: functools.partial(drawn, entry) for entry in entries},
    )
    return open_tensor_files(folder)


def spec(model="dense", config=SHOW_O):
    return ModelSpec(config, *MODELS[model], config.vocabulary_size, image_tokens=4)


def layouts(of):
    return {"interleaved": InterleavedLayout("interleaved", of.streams, (("text", 4),))}


def begun(files, of, seed=SEED, **more):
    table = phi.weights(PHI)
    more["grown"] = growth(table, show_o.weights(SHOW_O))
    return read_weights(files, table, of, layouts(of), seed=seed, **more)


@functools.cache
def initialised():
    """Path -> parameter of the dense model that starts from nothing."""
    of = spec()
    batch = jax.tree.map(
        lambda leaf: np.zeros(leaf.shape, leaf.dtype),
        {"interleaved": abstract_rows(of, layouts(of)["interleaved"])},
    )
    init = jax.jit(UnifiedModel(of).init, compiler_options=QUICK_TO_COMPILE)
    return flat(nn.unbox(init(jax.random.key(SEED), batch))["params"])


def of_phi(files, name):
    """A module's tensor as we have it: PyTorch's linear maps are [out, in]."""
    value = files.read(name).astype(np.float32)
    return value.T if value.ndim == 2 and "embed_tokens" not in name else value


PARTS = {
    **{"query": "self_attn.q_proj", "key": "self_attn.k_proj"},
    **{"value": "self_attn.v_proj", "output": "self_attn.dense"},
    **{"up": "mlp.fc1", "down": "mlp.fc2", "attention_norm": "input_layernorm"},
}


def expected(files, path, count):
    """A parameter from Phi's file, or from a dense model that starts from nothing.

    Args:
      files: Phi's.
      path: of a parameter that may be a tower's.
      count: of the layers that are stacked in it.
    """
    *where, leaf = path.split("/")
    suffix = "bias" if leaf == "bias" else "weight"
    if where[0] == "embedding":
        held = of_phi(files, "model.embed_tokens.weight")
        return np.concatenate([held, initialised()[path][HELD:]])
    if where[0] == "vocabulary_head":
        held = of_phi(files, f"lm_head.{suffix}")
        return np.concatenate([held, initialised()[path][..., HELD:]], axis=-1)
    if where[0] == "final_norm":
        return of_phi(files, f"model.final_layernorm.{suffix}")
    first = {"run_0": 0, "run_1": 1}[where[1]]
    layers = range(first, first + count)
    if norm := {"query_norm", "key_norm"} & set(where):
        dense = initialised()[f"transformer/run_0/block/{norm.pop()}/shared/{leaf}"]
        return dense[layers.start : layers.stop]
    (module,) = {PARTS[part] for part in where if part in PARTS}
    names = [f"model.layers.{layer}.{module}.{suffix}" for layer in layers]
    return np.stack([of_phi(files, name) for name in names])


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("model", MODELS)
def test_every_parameter_is_phi_s_or_that_of_a_fresh_dense_model(files, model, mesh):
    axes = MESHES[mesh]
    mesh_of = None if axes is None else make_mesh(MeshConfig(**axes))
    found = flat(begun(files, spec(model), mesh=mesh_of)["params"])
    for path, value in found.items():
        assert value.dtype == np.float32
        if "routers_" in path:
            assert not value.any()
            continue
        wanted = expected(files, path, len(value))
        np.testing.assert_allclose(value, wanted, rtol=1e-6, atol=0, err_msg=path)
    devices = {shard.device for shard in found["embedding/table"].addressable_shards}
    assert len(devices) == (1 if axes is None else 4)


def test_the_fresh_share_is_what_phi_has_not():
    grown = growth(phi.weights(PHI), show_o.weights(SHOW_O))
    norms = {
        ("layers", str(layer), "block", f"{name}_norm", "shared", leaf): (8,)
        for layer in range(3)
        for name in ("query", "key")
        for leaf in ("scale", "bias")
    }
    assert grown == norms | {
        ("embedding", "table"): (ROWS, 16),
        ("vocabulary_head", "kernel"): (16, ROWS),
        ("vocabulary_head", "bias"): (ROWS,),
    }


def test_another_seed_changes_new_rows_and_nothing_else(files):
    one, other = (flat(begun(files, spec(), seed=n)["params"]) for n in (1, 2))
    changed = {path for path in one if (one[path] != other[path]).any()}
    assert changed == {"embedding/table", "vocabulary_head/kernel"}
    for path, axis in (("embedding/table", 1), ("vocabulary_head/kernel", 0)):
        rows = (np.asarray(one[path]) != other[path]).any(axis)
        assert not rows[:HELD].any()
        assert rows[HELD:].all()


def test_half_floats_are_half_in_all_rows(files):
    params = flat(begun(files, spec(), dtype=FLOAT16)["params"])
    assert params["embedding/table"].dtype == FLOAT16
    wanted = expected(files, "embedding/table", 0).astype(FLOAT16)
    np.testing.assert_array_equal(params["embedding/table"], wanted)


def test_a_model_that_begins_from_phi_is_exported_as_show_o(files, tmp_path):
    """Phi's tensors come back bit for bit, and what is read again is written again."""
    ours, theirs = show_o.weights(SHOW_O), phi.weights(PHI)
    manifest = grown_manifest(files, theirs, ours, show_o.FILE_NAME)
    params = begun(files, spec())["params"]
    write_weights(params, spec(), ours, manifest, tmp_path / "out")
    written = open_tensor_files(tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == [show_o.FILE_NAME]
    assert set(written.names) == {entry.name for entry in ours.values()}
    for name in files.names:
        held = files.read(name)
        found = written.read(f"showo.{name}")
        assert found.dtype == held.dtype == FLOAT16
        assert found[: len(held)].tobytes() == held.tobytes()
    again = read_weights(written, ours, spec(), layouts(spec()))["params"]
    for path, value in flat(again).items():
        rounded = np.asarray(flat(params)[path]).astype(FLOAT16)
        np.testing.assert_array_equal(value, rounded.astype(np.float32))
    write_weights(again, spec(), ours, written.manifest, tmp_path / "again")
    one, other = (tmp_path / n / show_o.FILE_NAME for n in ("out", "again"))
    assert one.read_bytes() == other.read_bytes()


def test_phi_itself_is_read_and_written_unchanged(files, tmp_path):
    of, table = spec(config=PHI), phi.weights(PHI)
    params = read_weights(files, table, of, layouts(of))["params"]
    assert flat(params)["embedding/table"].shape == (HELD, 16)
    assert not any("query_norm" in path for path in flat(params))
    write_weights(params, of, table, files.manifest, tmp_path / "out")
    (written,) = (tmp_path / "out").iterdir()
    assert written.read_bytes() == (files.path / written.name).read_bytes()


# --- What cannot begin ----------------------------------------------------------------


def test_a_vocabulary_of_fewer_rows_than_phi_s_is_refused():
    with pytest.raises(ConversionError, match=r"Phi has 12 .* need only 11, and no"):
        show_o.begun_from(PHI, HELD - 1)
    assert show_o.begun_from(PHI, HELD).vocabulary_size == HELD


@pytest.mark.parametrize(
    ("grown", "words"),
    [
        (
            {("embedding", "table"): (HELD - 1, 16)},
            r"embedding/table has shape \(12, 16\) in the files and cannot grow into",
        ),
        (
            {("layers", "0", "block", "query", "shared", "kernel"): (16, 24)},
            "query/shared/kernel would start differently in each tower",
        ),
    ],
)
def test_other_growth_is_refused(files, grown, words):
    with pytest.raises(ConversionError, match=words):
        read_weights(files, phi.weights(PHI), spec(), {}, grown=grown)


def test_what_neither_the_files_nor_growth_give_is_named(files):
    grown = growth(phi.weights(PHI), show_o.weights(SHOW_O))
    del grown["layers", "1", "block", "key_norm", "shared", "bias"]
    with pytest.raises(ValueError, match="no parameter for block/key_norm/shared/bias"):
        read_weights(
            files, phi.weights(PHI), spec(), layouts(spec()), grown=grown, seed=SEED
        )
