"""The original shards hold what the files for transformers hold, in another order.

The oracle is written from transformers' description of its own conversion: it makes
tensors for transformers from original ones, with reshapes of its own.
"""

import dataclasses
import json
import struct

import jax.numpy as jnp
import numpy as np
import pytest

from tests.convert.golden_models import config, dense, row_layout, spec
from tests.models.tiny_model import flat
from unimod_jax.convert import (
    LAYOUTS,
    ConversionError,
    new_manifest,
    open_tensor_files,
    read_weights,
    recognised,
    write_files,
    write_weights,
)
from unimod_jax.layout import apply_rotary, rotary_phase

CONFIG = config("chameleon_swin")
NUM_SHARDS = 2
ORIGINAL = LAYOUTS["chameleon_original"]


def original_shards():
    """Random shards: name -> one array per shard."""
    c, random = CONFIG, np.random.default_rng(0)
    width, hidden, rows = c.width, c.hidden // NUM_SHARDS, c.vocabulary_size
    query = c.num_heads * c.head_dim // NUM_SHARDS
    kv = c.num_kv_heads * c.head_dim // NUM_SHARDS
    shapes = {
        "tok_embeddings.weight": (rows, width // NUM_SHARDS),
        "output.weight": (rows // NUM_SHARDS, width),
        "norm.weight": (width,),
        "rope.freqs": (c.head_dim // 2,),
    }
    for n in range(c.num_layers):
        attention, feed = f"layers.{n}.attention", f"layers.{n}.feed_forward"
        shapes |= {
            f"{attention}.wq.weight": (query, width),
            f"{attention}.wk.weight": (kv, width),
            f"{attention}.wv.weight": (kv, width),
            f"{attention}.wo.weight": (width, query),
            f"{attention}.q_normalization.weight": (c.head_dim,),
            f"{attention}.q_normalization.bias": (c.head_dim,),
            f"{attention}.k_normalization.weight": (c.head_dim,),
            f"{attention}.k_normalization.bias": (c.head_dim,),
            f"{feed}.w1.weight": (hidden, width),
            f"{feed}.w2.weight": (width, hidden),
            f"{feed}.w3.weight": (hidden, width),
            f"layers.{n}.attention_norm.weight": (width,),
            f"layers.{n}.ffn_norm.weight": (width,),
        }
    shards = {
        name: [random.normal(size=shape).astype(np.float32) for _ in range(NUM_SHARDS)]
        for name, shape in shapes.items()
    }
    # All devices have the same norms of the width: they follow the same gradients.
    same = ("attention_norm.weight", "ffn_norm.weight", "norm.weight", "rope.freqs")
    return {
        name: [parts[0]] * NUM_SHARDS if name.endswith(same) else parts
        for name, parts in shards.items()
    }


SHARDS = original_shards()


def halves(rows, num_heads):
    """Neighbouring rows of each head, even ones first: an index, head by head."""
    size = len(rows) // num_heads
    order = [
        head * size + place
        for head in range(num_heads)
        for place in (*range(0, size, 2), *range(1, size, 2))
    ]
    return rows[order]


def for_transformers():
    """The tensors that transformers has of these shards."""
    c, s = CONFIG, SHARDS
    heads, kv_heads = c.num_heads, c.num_kv_heads
    tensors = {
        "model.embed_tokens.weight": np.concatenate(s["tok_embeddings.weight"], 1),
        "lm_head.weight": np.concatenate(s["output.weight"], 0),
        "model.norm.weight": s["norm.weight"][0],
    }
    for n in range(c.num_layers):
        a, f, to = f"layers.{n}.attention", f"layers.{n}.feed_forward", f"layers.{n}"
        before, behind = s[f"{to}.attention_norm.weight"], s[f"{to}.ffn_norm.weight"]
        own, mlp = f"model.{to}.self_attn", f"model.{to}.mlp"
        query = np.concatenate(s[f"{a}.wq.weight"], 0)
        key = np.concatenate(s[f"{a}.wk.weight"], 0)
        tensors |= {
            f"{own}.q_proj.weight": halves(query, heads),
            f"{own}.k_proj.weight": halves(key, kv_heads),
            f"{own}.v_proj.weight": np.concatenate(s[f"{a}.wv.weight"], 0),
            f"{own}.o_proj.weight": np.concatenate(s[f"{a}.wo.weight"], 1),
            f"{mlp}.gate_proj.weight": np.concatenate(s[f"{f}.w1.weight"], 0),
            f"{mlp}.down_proj.weight": np.concatenate(s[f"{f}.w2.weight"], 1),
            f"{mlp}.up_proj.weight": np.concatenate(s[f"{f}.w3.weight"], 0),
            f"model.{to}.input_layernorm.weight": before[0],
            f"model.{to}.post_attention_layernorm.weight": behind[0],
        }
        for letter, count in (("q", heads), ("k", kv_heads)):
            for kind in ("weight", "bias"):
                parts = s[f"{a}.{letter}_normalization.{kind}"]
                per_head = [halves(p, 1) for p in parts for _ in range(count // 2)]
                tensors[f"{own}.{letter}_norm.{kind}"] = np.stack(per_head)
    return tensors


def write_original(directory, shards=SHARDS):
    """Files as safetensors' own writer makes them of each device's tensors."""
    directory.mkdir()
    for n in range(NUM_SHARDS):
        header, data = {}, b""
        for name, parts in shards.items():
            start, data = len(data), data + parts[n].tobytes()
            header[name] = {
                **{"dtype": "F32", "shape": list(parts[n].shape)},
                "data_offsets": [start, len(data)],
            }
        text = json.dumps(header).encode()
        path = directory / f"consolidated.{n:02}.safetensors"
        path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return open_tensor_files(directory)


def read(files, table):
    of = spec("chameleon_swin")
    return read_weights(files, table, of, {"interleaved": row_layout(of)})["params"]


def test_both_layouts_give_the_same_parameters(tmp_path):
    files = write_original(tmp_path / "original")
    assert recognised(files.names) is ORIGINAL
    found = flat(read(files, ORIGINAL.weights(CONFIG, len(files.manifest.files))))
    tensors = for_transformers()
    values = {name: lambda value=value: value for name, value in tensors.items()}
    shapes = {name: (value.shape, value.dtype) for name, value in tensors.items()}
    write_files(new_manifest(shapes), tmp_path / "hf", values)
    table = LAYOUTS["chameleon"].weights(CONFIG, 1)
    expected = flat(read(open_tensor_files(tmp_path / "hf"), table))
    assert found.keys() == expected.keys()
    for path, value in expected.items():
        np.testing.assert_array_equal(found[path], value, err_msg=path)


def test_original_shards_are_written_back_byte_for_byte(tmp_path):
    files = write_original(tmp_path / "original")
    table = ORIGINAL.weights(CONFIG, NUM_SHARDS)
    arguments = (read(files, table), spec("chameleon_swin"), table, files.manifest)
    write_weights(*arguments, tmp_path / "out", rest=files)
    for path in (tmp_path / "original").iterdir():
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()


def test_norms_that_devices_disagree_on_are_averaged(tmp_path):
    first = SHARDS["norm.weight"][0]
    shards = SHARDS | {"norm.weight": [first, first + 1]}
    files = write_original(tmp_path / "original", shards)
    params = read(files, ORIGINAL.weights(CONFIG, NUM_SHARDS))
    scale = params["final_norm"]["shared"]["scale"]
    np.testing.assert_allclose(scale, first + 0.5, rtol=1e-6)


def test_norms_that_training_told_apart_do_not_fit_the_original_shards(tmp_path):
    files = write_original(tmp_path / "original")
    table = ORIGINAL.weights(CONFIG, NUM_SHARDS)
    params = dense("chameleon_swin")["params"]
    with pytest.raises(ConversionError, match="norms of the heads of one shard differ"):
        write_weights(
            params,
            *(spec("chameleon_swin"), table, files.manifest, tmp_path / "out"),
            rest=files,
        )
    assert not (tmp_path / "out").exists()


def test_neighbouring_pairs_turned_as_neighbours_score_as_our_halves_do():
    c, random = CONFIG, np.random.default_rng(1)
    shape = (1, 6, 1, c.head_dim)
    query, key = random.normal(size=shape), random.normal(size=shape)
    position = np.arange(6)

    def neighbours(x):
        angle = position[:, None] * c.rotary_theta ** -(
            np.arange(0, c.head_dim, 2) / c.head_dim
        )
        pairs = (x[0, :, 0, 0::2] + 1j * x[0, :, 0, 1::2]) * np.exp(1j * angle)
        return np.stack([pairs.real, pairs.imag], axis=-1).reshape(6, -1)

    phase = rotary_phase(jnp.asarray(position)[None], c.head_dim, c.rotary_theta)

    def ours(x):
        moved = np.concatenate([x[..., 0::2], x[..., 1::2]], axis=-1)
        return np.asarray(apply_rotary(jnp.asarray(moved, jnp.float32), phase))[0, :, 0]

    expected = neighbours(query) @ neighbours(key).T
    np.testing.assert_allclose(ours(query) @ ours(key).T, expected, atol=1e-4)


def test_devices_that_cannot_share_the_model_are_refused():
    with pytest.raises(ConversionError, match="4 shards cannot share num_kv_heads 2"):
        ORIGINAL.weights(CONFIG, 4)
    shared = dataclasses.replace(CONFIG, qk_norm="layer")
    with pytest.raises(ConversionError, match="qk_norm is 'layer'"):
        ORIGINAL.weights(shared, 2)
