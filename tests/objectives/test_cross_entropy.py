"""Cross-entropy in chunks of the vocabulary: log_softmax, without its memory."""

import functools
import math
import re

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec

from unimod_jax.models import VocabularyMap
from unimod_jax.objectives.cross_entropy import (
    VocabularyChunks,
    cross_entropy,
    vocabulary_chunks,
)
from unimod_jax.parallel import MeshConfig, ShardingRules, make_mesh

B, T, D = 2, 3, 4


def random_inputs(vocabulary_size, with_bias, seed=0, rows=B, scale=2.0):
    """(hidden states, head, targets, weights of loss and of squared normaliser)."""
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return jnp.asarray(scale * rng.normal(size=shape), jnp.float32)

    bias = normal(vocabulary_size) if with_bias else None
    target = jnp.asarray(rng.integers(0, vocabulary_size, (rows, T)), jnp.int32)
    weights = jnp.asarray(rng.normal(size=(2, rows, T)), jnp.float32)
    kernel = normal(D, vocabulary_size)
    return normal(rows, T, D), VocabularyMap(kernel, bias), target, weights


def plain(hidden_BTD, head, target_BT):
    """What JAX differentiates by itself."""
    logits_BTV = jnp.einsum("BTD,DV->BTV", hidden_BTD, head.kernel_DV)
    if head.bias_V is not None:
        logits_BTV += head.bias_V[None, None]
    log_share_BTV = jax.nn.log_softmax(logits_BTV)
    loss_BT1 = -jnp.take_along_axis(log_share_BTV, target_BT[..., None], axis=-1)
    return loss_BT1[..., 0], jax.nn.logsumexp(logits_BTV, axis=-1)


def trained(losses, weights):
    """A scalar of both results, each token with weights of its own."""
    loss_BT, log_z_BT = losses
    return jnp.sum(weights[0] * loss_BT + weights[1] * jnp.square(log_z_BT))


def value_and_gradients(loss_of, hidden_BTD, head, target_BT, weights):
    def scalar(hidden_BTD, head):
        return trained(loss_of(hidden_BTD, head, target_BT), weights)

    return jax.value_and_grad(scalar, argnums=(0, 1))(hidden_BTD, head)


def in_chunks(chunks):
    return lambda hidden, head, target: cross_entropy(hidden, head, target, chunks)


def assert_equal(found, expected, rtol=2e-5):
    def equal(a, b):
        size = float(jnp.max(jnp.abs(b)))
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * size)

    jax.tree.map(equal, found, expected)


@functools.cache
def jitted(chunks=None):
    """Value and gradients, in chunks or by `plain`; compiled once per chunks."""
    loss_of = plain if chunks is None else in_chunks(chunks)
    return jax.jit(functools.partial(value_and_gradients, loss_of))


@pytest.mark.parametrize("with_bias", [False, True], ids=["no bias", "bias"])
@pytest.mark.parametrize(
    "chunks",
    [
        VocabularyChunks(1, 13, 13),
        VocabularyChunks(1, 12, 4),
        VocabularyChunks(1, 13, 4),
        VocabularyChunks(1, 13, 1),
        VocabularyChunks(3, 5, 5),
        VocabularyChunks(3, 5, 3),
    ],
    ids=lambda chunks: f"{chunks.parts} x {chunks.part_size} by {chunks.size}",
)
@hypothesis.given(st.integers(0, 1000), st.sampled_from([0.0, 1e-5, 1.0]))
def test_losses_and_gradients_are_those_of_log_softmax(
    chunks, with_bias, seed, normaliser_weight
):
    vocabulary_size = chunks.parts * chunks.part_size
    *inputs, weights = random_inputs(vocabulary_size, with_bias, seed)
    weights = weights.at[1].multiply(normaliser_weight)
    assert_equal(jitted(chunks)(*inputs, weights), jitted()(*inputs, weights))


@pytest.mark.parametrize("size", [13, 4], ids=["stored", "in chunks"])
def test_both_results_are_numpys(size):
    hidden, head, target, _ = random_inputs(13, with_bias=True)
    found = cross_entropy(hidden, head, target, VocabularyChunks(1, 13, size))
    logits = np.asarray(hidden, np.float64) @ np.asarray(head.kernel_DV, np.float64)
    logits += np.asarray(head.bias_V, np.float64)
    log_z = np.log(np.exp(logits).sum(axis=-1))
    row, slot = np.indices(target.shape)
    loss = log_z - logits[row, slot, np.asarray(target)]
    assert_equal(found, (loss, log_z), rtol=1e-6)


def test_large_logits_do_not_overflow():
    hidden, head, target, weights = random_inputs(13, with_bias=True, scale=40.0)
    inputs = (hidden, head, target, weights)
    found = value_and_gradients(in_chunks(VocabularyChunks(1, 13, 4)), *inputs)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
    assert_equal(found, value_and_gradients(plain, *inputs))


@pytest.mark.parametrize("size", [64, 48], ids=["stored", "in chunks"])
def test_bfloat16_products_are_summed_in_float32(size):
    hidden, head, target, weights = random_inputs(64, with_bias=False)
    rounded = hidden.astype(jnp.bfloat16)
    exact = VocabularyMap(head.kernel_DV.astype(jnp.bfloat16).astype(jnp.float32))
    found = in_chunks(VocabularyChunks(1, 64, size))(rounded, exact, target)
    expected = plain(rounded.astype(jnp.float32), exact, target)
    # Logits rounded to bfloat16 would be off by 1e-2.
    assert_equal(found, expected, rtol=1e-5)
    gradients = value_and_gradients(
        in_chunks(VocabularyChunks(1, 64, size)), rounded, head, target, weights
    )[1]
    assert gradients[0].dtype == jnp.bfloat16
    assert gradients[1].kernel_DV.dtype == jnp.float32
    exact = value_and_gradients(plain, hidden, head, target, weights)[1]
    assert_equal(
        jax.tree.map(lambda x: x.astype(jnp.float32), gradients), exact, rtol=0.05
    )


# --- The choice of chunks -------------------------------------------------------------


def test_what_fits_is_stored_and_gone_through_at_once():
    assert vocabulary_chunks(4_000, 160) == VocabularyChunks(1, 160, 160)
    fitting = 64 * 2**20 // 4 // 58_498
    assert vocabulary_chunks(fitting, 58_498).count == 1
    assert vocabulary_chunks(fitting + 1, 58_498).count > 1


@pytest.mark.parametrize("vocabulary_size", [58_498, 65_536, 184_622])
def test_chunks_are_whole_vectors_of_few_thousand_ids_with_little_twice(
    vocabulary_size,
):
    chunks = vocabulary_chunks(4_300, vocabulary_size)
    assert chunks.parts == 1 and chunks.part_size == vocabulary_size
    assert chunks.size % 128 == 0 and 4096 <= chunks.size <= 8192
    assert chunks.count == math.ceil(vocabulary_size / 8192)
    assert chunks.count * chunks.size < 1.02 * vocabulary_size


def test_every_device_has_chunks_of_its_own_part():
    with jax.set_mesh(make_mesh(MeshConfig(fsdp=2, tensor=4))):
        assert vocabulary_chunks(4_300, 65_536) == VocabularyChunks(4, 16_384, 8192)
        # Eight devices store eight times as many logits, each its own tokens'.
        fitting = 8 * 64 * 2**20 // 4 // 65_536
        assert vocabulary_chunks(fitting, 65_536).count == 1
        # Four devices cannot share 184,622 ids, and XLA keeps such a kernel whole.
        assert vocabulary_chunks(4_300, 184_622).parts == 1


# --- Meshes ---------------------------------------------------------------------------

MESHES = [{"data": 8}, {"fsdp": 4}, {"tensor": 4}, {"data": 2, "fsdp": 2, "tensor": 2}]


def shardings(mesh):
    """Of hidden states, head and targets, as training cuts them."""

    def cut(*axes):
        return NamedSharding(mesh, ShardingRules().spec(axes))

    return (
        cut("batch"),
        VocabularyMap(cut("embed", "vocab"), cut("vocab")),
        cut("batch"),
    )


@pytest.mark.parametrize("axes", MESHES, ids=str)
def test_losses_and_gradients_do_not_depend_on_the_mesh(axes):
    mesh = make_mesh(MeshConfig(**axes))
    hidden, head, target, weights = random_inputs(24, with_bias=True, rows=8)
    expected = value_and_gradients(plain, hidden, head, target, weights)
    parts = axes.get("tensor", 1)
    chunks = VocabularyChunks(parts, 24 // parts, 4)
    hidden, head, target = jax.device_put((hidden, head, target), shardings(mesh))

    @jax.jit
    def run(hidden, head, target, weights):
        return value_and_gradients(in_chunks(chunks), hidden, head, target, weights)

    with jax.set_mesh(mesh):
        found = run(hidden, head, target, weights)
    assert found[1][1].kernel_DV.sharding.shard_shape((D, 24))[1] == 24 // parts
    assert_equal(found, expected)


def gathered_ids(vocabulary_size, num_rows, chunks):
    """The most ids of the kernel that XLA brings together on a device."""
    mesh = make_mesh(MeshConfig(fsdp=2, tensor=4))

    def shape(*sizes, dtype=jnp.float32):
        return jax.ShapeDtypeStruct(sizes, dtype)

    head = VocabularyMap(shape(D, vocabulary_size), shape(vocabulary_size))
    inputs = shape(num_rows, T, D), head, shape(num_rows, T, dtype=jnp.int32)
    weights = shape(2, num_rows, T)
    where = shardings(mesh)

    def run(hidden, head, target, weights):
        return value_and_gradients(in_chunks(chunks), hidden, head, target, weights)

    whole = NamedSharding(mesh, PartitionSpec())
    jitted = jax.jit(run, in_shardings=(*where, whole))
    with jax.set_mesh(mesh):
        program = jitted.lower(*inputs, weights).compile().as_text()
    gathered = re.findall(r"= f32\[([\d,]+)\]\S* all-gather\(", program)
    return max(max(map(int, sizes.split(","))) for sizes in gathered)


def test_no_device_gathers_more_of_the_kernel_than_a_chunk():
    vocabulary_size, num_rows = 65_536, 1024
    with jax.set_mesh(make_mesh(MeshConfig(fsdp=2, tensor=4))):
        chunks = vocabulary_chunks(num_rows * T, vocabulary_size)
    assert (chunks.parts, chunks.count) == (4, 2)
    assert gathered_ids(vocabulary_size, num_rows, chunks) == chunks.size
    # Chunks of neighbouring ids would lie on one device each, and XLA gathers them all.
    neighbours = VocabularyChunks(1, vocabulary_size, chunks.size)
    assert gathered_ids(vocabulary_size, num_rows, neighbours) == vocabulary_size
