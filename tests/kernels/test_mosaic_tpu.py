"""The TPU kernels, on a simulated TPU.

The simulator keeps the memories of a TPU apart, gives NaN for what was never written,
and refuses races, reads outside an array, and results that are visited again.
"""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.pallas.mosaic.interpret import interpret_pallas_call as simulator
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels.device import Device
from pallas_kernels.routed_attention import mosaic_tpu as room
from pallas_kernels.routed_attention.block_bounds import BlockMap, block_map
from pallas_kernels.routed_attention.block_sizes import (
    Blocks,
    BlockSizes,
    block_sizes,
    shape_class,
)
from pallas_kernels.routed_attention.mosaic_tpu import mosaic_tpu
from pallas_kernels.routed_attention.mosaic_tpu_layout import fitted
from pallas_kernels.routed_attention.mosaic_tpu_work import (
    FIRST,
    LAST,
    PARTIAL,
    WHOLE,
    work_list,
)
from tests.kernels.attention_cases import (
    oracle,
    packed_documents,
    random_case,
    random_dropout,
    random_visibility,
    run,
)
from tests.kernels.routed_attention_suite import RoutedAttentionSuite

TPU = pltpu.InterpretParams(
    detect_races=True, uninitialized_memory="nan", out_of_bounds_reads="raise"
)
# As on a chip with two cores, which share out the heads.
TWO_CORES = dataclasses.replace(TPU, num_cores_or_threads=2)
SMALL = BlockSizes(*[Blocks(query=128, key=128)] * 3)

LARGE_FORWARD = SMALL._replace(forward=Blocks(query=1024, key=1024))

simulated = functools.partial(mosaic_tpu, blocks=SMALL, interpret=TPU)
on_two_cores = functools.partial(mosaic_tpu, blocks=SMALL, interpret=TWO_CORES)
interpreted = functools.partial(mosaic_tpu, blocks=SMALL, interpret=True)


def races_found() -> bool:
    """Whether the last simulated kernel had a race; newer versions of JAX raise."""
    return simulator.races is not None and simulator.races.races_found


@pytest.fixture(autouse=True)
def every_kernel_is_free_of_races():
    pltpu.reset_tpu_interpret_mode_state()
    yield
    found = races_found()
    pltpu.reset_tpu_interpret_mode_state()
    assert not found


class TestMosaicTpu(RoutedAttentionSuite):
    """The suite for the TPU kernels."""

    implementation = staticmethod(simulated)
    head_dim = 64

    def test_checkpoint_leaves_values_and_gradients_unchanged(self):
        # The simulator has side effects, which jax.checkpoint refuses.
        self.implementation = interpreted
        super().test_checkpoint_leaves_values_and_gradients_unchanged()

    def test_scanned_layers_equal_a_python_loop(self):
        # The simulator takes long to compile, and here there are four layers.
        self.implementation = interpreted
        super().test_scanned_layers_equal_a_python_loop()

    @pytest.mark.parametrize(
        ("head_dim", "dtype"), [(80, "float32"), (96, "bfloat16"), (128, "bfloat16")]
    )
    def test_wider_heads_are_served_with_shared_keys(self, head_dim, dtype):
        visibility = random_visibility(20, 1, 70, 150)
        options = {"heads": 2, "kv_heads": 1, "head_dim": head_dim, "dtype": dtype}
        self.check(self.case(21, visibility, **options))

    def test_one_decoded_token_shares_its_keys_among_heads(self):
        visibility = random_visibility(22, 2, 1, 300)
        visibility.window_start[1] = visibility.window_end[1] = 7
        self.check(self.case(23, visibility, heads=8, kv_heads=2))

    def test_two_cores_share_out_the_heads_without_a_race(self):
        self.implementation = on_two_cores
        visibility = packed_documents([150, 40], [(20, 120)])
        self.check(self.case(24, visibility, heads=6, kv_heads=3))


def test_blocks_from_the_table_are_taken_by_default():
    case = random_case(0, random_visibility(1, 1, 150, 140), head_dim=64)
    results = run(case, functools.partial(mosaic_tpu, interpret=True))
    for actual, wanted in zip(results, oracle(case), strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=0.0, atol=1e-5)


# --- What is not read, and not done ---------------------------------------------------

# In blocks of 128: the first document is one block of each, so of 9 pairs 4 are hidden
# behind the documents' edge, and 1 more because the last document is causal.
DOCUMENTS = packed_documents([128, 256], [(140, 256)])
DOCUMENT_PAIRS = [[1, 0, 0], [0, 1, 0], [0, 1, 1]]
DOCUMENT_WHOLE = [[0, 0, 0], [0, 0, 0], [0, 1, 0]]


def test_the_documents_have_pairs_of_all_three_kinds():
    pairs = block_map(*DOCUMENTS, query_block=128, key_block=128)
    np.testing.assert_array_equal(pairs.visible_BNM, [DOCUMENT_PAIRS])
    np.testing.assert_array_equal(pairs.whole_BNM, [DOCUMENT_WHOLE])


def test_tokens_of_hidden_blocks_are_not_read():
    case = random_case(2, DOCUMENTS, head_dim=64)
    clean = run(case, simulated)
    for array in (case.q_BTHE, case.k_BSGE, case.v_BSGE, case.dout_BTHE):
        array[:, :128] = np.nan
    for actual, wanted in zip(run(case, simulated), clean, strict=True):
        assert np.all(np.isnan(actual[:, :128]))
        np.testing.assert_array_equal(actual[:, 128:], wanted[:, 128:])


def test_a_kernel_takes_one_step_for_each_head_and_visible_pair():
    steps = []

    def record(token, grid_point, core):
        steps.append(tuple(int(x) for x in grid_point))
        return token

    counting = dataclasses.replace(TPU, grid_point_recorder=record)
    case = random_case(3, DOCUMENTS, heads=2, kv_heads=2, head_dim=64)
    jax.block_until_ready(
        run(case, functools.partial(mosaic_tpu, blocks=SMALL, interpret=counting))
    )
    num_pairs = np.sum(DOCUMENT_PAIRS)
    once = [(head, item) for head in range(2) for item in range(num_pairs)]
    assert sorted(steps) == sorted(3 * once)


def test_a_race_would_be_noticed():
    def kernel(out):
        out[...] = jnp.full_like(out, 1.0)

    racing = pl.pallas_call(
        kernel,
        out_shape=jax.ShapeDtypeStruct((8, 128), jnp.float32),
        grid=(2,),
        out_specs=pl.BlockSpec((8, 128), lambda n: (0, 0)),
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel",)),
        interpret=TWO_CORES,
    )
    noticed = False
    try:
        jax.block_until_ready(jax.jit(racing)())
    except jax.errors.JaxRuntimeError as error:
        noticed = "RACE DETECTED" in str(error)
    noticed = noticed or races_found()
    pltpu.reset_tpu_interpret_mode_state()
    assert noticed


# --- The list of work -----------------------------------------------------------------


def test_a_work_list_names_the_visible_pairs_and_one_for_who_sees_nothing():
    visible = np.array([[[0, 1, 1], [0, 0, 0]], [[1, 0, 0], [1, 0, 1]]], bool)
    whole = np.array([[[0, 0, 1], [0, 0, 0]], [[1, 0, 0], [0, 0, 0]]], bool)
    work = work_list(BlockMap(jnp.asarray(visible), jnp.asarray(whole)))
    words = np.asarray(work.words)[: int(work.length)]
    fields = work.fields
    decoded = [(fields.row(w), fields.outer(w), fields.inner(w), w & 15) for w in words]
    assert decoded == [
        (0, 0, 1, FIRST | PARTIAL),
        (0, 0, 2, LAST | WHOLE),
        (0, 1, 0, FIRST | LAST),
        (1, 0, 0, FIRST | LAST | WHOLE),
        (1, 1, 0, FIRST | PARTIAL),
        (1, 1, 2, LAST | PARTIAL),
    ]


def test_a_single_pair_needs_no_bits_for_its_place():
    one = jnp.ones((1, 1, 1), bool)
    work = work_list(BlockMap(one, one))
    np.testing.assert_array_equal(work.words, [FIRST | LAST | WHOLE])


@pytest.mark.parametrize(
    ("num_queries", "num_keys", "expected"),
    [
        (1, 1, (16, 128)),
        (512, 512, (512, 512)),
        (563, 563, (288, 384)),
        (1408, 1408, (480, 512)),
        (2049, 4096, (416, 512)),
    ],
)
def test_sequences_are_cut_evenly_into_the_fewest_blocks(
    num_queries, num_keys, expected
):
    blocks = fitted(Blocks(query=512, key=512), num_queries, num_keys)
    assert (blocks.query, blocks.key) == expected


# --- Refusals -------------------------------------------------------------------------


def trace(interpret=True, shape=(1, 8, 2, 64), dtype="float32", **options):
    """Trace the kernels without running them."""
    tokens = jax.ShapeDtypeStruct(shape, jnp.dtype(dtype))
    integers = jax.ShapeDtypeStruct(shape[:2], jnp.int32)
    attend = functools.partial(mosaic_tpu, scale=1.0, interpret=interpret, **options)
    return jax.eval_shape(attend, *[tokens] * 3, *[integers] * 3)


@pytest.mark.parametrize(
    ("refused", "named"),
    [
        ({"interpret": False}, "cpu"),
        ({"dropout": random_dropout(0, DOCUMENTS, rate=0.1)}, "0.1"),
        ({"dtype": "float16"}, "float16"),
        ({"shape": (1, 8, 2, 136)}, "136"),
        ({"shape": (1, 8, 2, 12)}, "12"),
        ({"blocks": SMALL._replace(key_gradient=Blocks(128, 192))}, "192"),
        ({"blocks": SMALL._replace(forward=Blocks(64, 128))}, "64"),
        ({"shape": (33, 8192, 1, 64), "blocks": SMALL}, "135168"),
        ({"shape": (33, 8192, 1, 64), "blocks": LARGE_FORWARD}, "135168"),
    ],
)
def test_what_is_not_served_is_refused_in_one_sentence(refused, named):
    with pytest.raises(NotImplementedError) as refusal:
        trace(**refused)
    sentence = str(refusal.value)
    assert named in sentence
    assert re.fullmatch(r"[^;]+, but [^;]+; [^;]+\.", sentence)


# --- What the compiler for TPUs sees --------------------------------------------------

CHIPS = ("TPU v4", "TPU v5 lite", "TPU v5", "TPU v6 lite", "TPU7x")


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("head_dim", [64, 80, 96, 128])
def test_the_table_serves_every_chip_and_length(chip, dtype, head_dim):
    for length in (1, 563, 9216):
        shapes = shape_class(length, length, head_dim, jnp.dtype(dtype).itemsize)
        for sizes in block_sizes("mosaic_tpu", Device("tpu", chip), shapes):
            cut = fitted(sizes, length, length)
            assert cut.query <= sizes.query and cut.key <= sizes.key


@pytest.mark.parametrize("heads", [(2, 2), (8, 2)])
@pytest.mark.parametrize("lengths", [(1, 300), (563, 563)])
def test_the_kernels_are_lowered_for_a_tpu_that_is_not_there(
    heads, lengths, monkeypatch
):
    monkeypatch.setattr(room, "current_device", lambda: Device("tpu", "TPU v5 lite"))
    (num_queries, num_keys), (num_heads, num_kv_heads) = lengths, heads
    case = random_case(
        4,
        random_visibility(5, 1, num_queries, num_keys),
        heads=num_heads,
        kv_heads=num_kv_heads,
        head_dim=80,
        dtype="bfloat16",
    )

    def loss(q, k, v):
        out = mosaic_tpu(q, k, v, *case.visibility, scale=1.0)
        return jnp.sum(out.astype(jnp.float32))

    gradients = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))
    arrays = (jnp.asarray(x) for x in case[:3])
    program = gradients.trace(*arrays).lower(lowering_platforms=("tpu",)).as_text()
    for name in ("forward", "query_gradient", "key_gradient"):
        assert f"routed_attention_{name}" in program
