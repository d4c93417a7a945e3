"""`routed_attention` refuses in one sentence and chooses by size."""

import dataclasses
import functools
import importlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pallas_kernels import AttentionDropout, routed_attention
from pallas_kernels.device import Device
from pallas_kernels.routed_attention.reference import reference
from tests.kernels.attention_cases import (
    packed_documents,
    random_case,
    random_visibility,
)

IMPLEMENTATIONS = ["reference", "xla_chunked"]
# The package attribute `routed_attention` is the function, so the module is imported
# by name.
api = importlib.import_module("pallas_kernels.routed_attention.api")

ARGUMENTS = {
    "q": jnp.zeros((2, 5, 4, 8)),
    "k": jnp.zeros((2, 6, 2, 8)),
    "v": jnp.zeros((2, 6, 2, 8)),
    "window_start": jnp.zeros((2, 5), jnp.int32),
    "window_end": jnp.zeros((2, 5), jnp.int32),
    "key_position": jnp.zeros((2, 6), jnp.int32),
    "scale": 0.5,
}
DROPOUT = AttentionDropout(jnp.uint32(0), jnp.zeros((2, 5), jnp.int32), 0.1)


def dropout_with(**changes):
    """Return the arguments' dropout, spoiled."""
    return {"dropout": dataclasses.replace(DROPOUT, **changes)}


@functools.partial(jax.jit, static_argnames=("scale", "implementation"))
def attend_compiled(*arrays, scale, implementation):
    """Compile once for every case of equal shape."""
    return routed_attention(*arrays, scale=scale, implementation=implementation)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"q": jnp.zeros((2, 5, 8))},
            r"q has shape \(2, 5, 8\).*pass q as \[B, T, H, E",
        ),
        (
            {"k": jnp.zeros((2, 0, 2, 8))},
            r"k \(2, 0, 2, 8\).*empty axis; skip the call",
        ),
        ({"k": jnp.zeros((2, 6, 3, 8))}, r"4 heads and k has 3.*make G divide H"),
        ({"k": jnp.zeros((2, 6, 2, 9))}, r"k has shape \(2, 6, 2, 9\).*\(2, 6, 2, 8\)"),
        ({"v": jnp.zeros((2, 7, 2, 8))}, r"v has shape \(2, 7, 2, 8\).*reshape v or"),
        (
            {"q": jnp.zeros((2, 5, 4, 8), jnp.int32)},
            r"q has dtype int32.*cast q, k and",
        ),
        (
            {"v": jnp.zeros((2, 6, 2, 8), jnp.bfloat16)},
            r"v has dtype bfloat16.*float32",
        ),
        ({"window_start": jnp.zeros((2, 6), jnp.int32)}, r"window_start has shape"),
        ({"window_end": jnp.zeros((2, 5))}, r"window_end has dtype float32.*to int32"),
        ({"key_position": jnp.zeros((1, 6), jnp.int32)}, r"key_position has shape"),
        ({"scale": float("nan")}, r"scale is nan.*finite Python number"),
        ({"scale": jnp.ones(())}, r"scale is Array.*finite Python number"),
        ({"dropout": 0.1}, r"dropout is 0.1.*pass an AttentionDropout or None"),
        (dropout_with(rate=1.0), r"dropout.rate is 1.0.*Python number in \[0, 1\)"),
        (dropout_with(rate=-0.1), r"dropout.rate is -0.1.*in \[0, 1\)"),
        (dropout_with(rate=float("nan")), r"dropout.rate is nan"),
        (dropout_with(rate=jnp.ones(())), r"dropout.rate is Array"),
        (dropout_with(seed=7), r"dropout.seed has.*dtype int, .*pass a uint32"),
        (
            dropout_with(seed=jnp.int32(7)),
            r"dropout.seed has.*dtype int32.*pass a uint32",
        ),
        (
            dropout_with(seed=jnp.zeros(2, jnp.uint32)),
            r"dropout.seed has shape \(2,\).*scalar",
        ),
        (
            dropout_with(seed=jax.random.key(0)),
            r"dropout.seed has.*key<fry>.*random.bits",
        ),
        (
            dropout_with(query_position=jnp.zeros((2, 6), jnp.int32)),
            r"dropout.query_position has shape \(2, 6\).*\(2, 5\)",
        ),
        (
            dropout_with(query_position=jnp.zeros((2, 5))),
            r"dropout.query_position has dtype float32.*to int32",
        ),
        (
            dropout_with(rate=0.0, seed=jnp.int32(7)),
            r"dropout.seed has.*int32.*pass a uint32",
        ),
        (
            {"implementation": "fast"},
            r"'fast'.*None or one of reference, xla_chunked, mosaic_tpu",
        ),
    ],
)
def test_a_wrong_argument_is_named_in_one_sentence(changes, sentence):
    with pytest.raises(ValueError, match=sentence) as error:
        routed_attention(**ARGUMENTS | changes)
    assert str(error.value).count(". ") == 0 and str(error.value).endswith(".")


def record_calls(monkeypatch, refusing=()):
    """Replace the implementations by ones that note their name, and may refuse."""
    calls = []

    def attend(name, q, *arrays, scale, dropout):
        calls.append(name)
        if name in refusing:
            raise NotImplementedError(f"{name} is on strike.")
        return q

    monkeypatch.setattr(api, "load", lambda name: functools.partial(attend, name))
    return calls


@pytest.mark.parametrize(
    ("num_tokens", "chosen"), [(128, "reference"), (129, "xla_chunked")]
)
def test_small_problems_use_the_reference_and_larger_ones_chunks(
    monkeypatch, num_tokens, chosen
):
    calls = record_calls(monkeypatch)
    case = random_case(0, random_visibility(0, 1, num_tokens, num_tokens))
    routed_attention(*case[:3], *case.visibility, scale=1.0)
    assert calls == [chosen]


@pytest.mark.parametrize(
    ("device", "wanted"),
    [
        (Device("cpu", "cpu"), ["xla_chunked", "reference"]),
        (Device("tpu", "TPU v5"), ["mosaic_tpu", "xla_chunked", "reference"]),
        (
            Device("gpu", "NVIDIA H200"),
            ["mosaic_gpu", "triton", "xla_chunked", "reference"],
        ),
    ],
)
def test_kernels_of_the_chip_come_first_and_their_refusals_are_listed(
    monkeypatch, device, wanted
):
    monkeypatch.setattr(api, "current_device", lambda: device)
    case = random_case(0, random_visibility(0, 1, 129, 129))
    arrays = (*case[:3], *case.visibility)
    for number, name in enumerate(wanted):
        calls = record_calls(monkeypatch, refusing=wanted[:number])
        routed_attention(*arrays, scale=1.0)
        assert calls[-1] == name
    calls = record_calls(monkeypatch, refusing=wanted)
    with pytest.raises(NotImplementedError) as error:
        routed_attention(*arrays, scale=1.0)
    assert calls == wanted
    assert all(f"{name}: {name} is on strike." in str(error.value) for name in wanted)


def test_a_function_serves_as_an_implementation():
    def doubled(*arrays, **options):
        return 2 * reference(*arrays, **options)

    case = random_case(1, random_visibility(1, 1, 5, 7))
    arrays = (*case[:3], *case.visibility)
    once, twice = (
        routed_attention(*arrays, scale=1.0, implementation=function)
        for function in ("reference", doubled)
    )
    np.testing.assert_array_equal(2 * once, twice)


def test_a_kernel_whose_compiler_is_missing_is_refused_in_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "pallas_kernels.routed_attention.triton", None)
    with pytest.raises(NotImplementedError, match=r"triton cannot be imported .*use"):
        routed_attention(**ARGUMENTS, implementation="triton")


def test_a_named_implementation_is_never_replaced(monkeypatch):
    calls = record_calls(monkeypatch, refusing=["reference"])
    with pytest.raises(NotImplementedError, match=r"^reference is on strike\.$"):
        routed_attention(**ARGUMENTS, implementation="reference")
    assert calls == ["reference"]


@pytest.mark.parametrize("implementation", [None, *IMPLEMENTATIONS])
def test_zero_queries_average_exactly_the_keys_drawn_by_hand(implementation):
    # With q = 0 and one-hot values, each output row is the visibility matrix over its
    # row sum. Two text tokens, an image of two, one text token, then another document.
    visibility = packed_documents([5, 2], [(2, 4)])
    drawn = """
        x . . . . . .
        x x . . . . .
        x x x x . . .
        x x x x . . .
        x x x x x . .
        . . . . . x .
        . . . . . x x
    """
    visible = np.array(
        [[mark == "x" for mark in row.split()] for row in drawn.split("\n")[1:-1]]
    )
    one_hot = jnp.eye(7)[None, :, None, :]
    out = attend_compiled(
        jnp.zeros((1, 7, 1, 7)),
        one_hot,
        one_hot,
        *visibility,
        scale=1.0,
        implementation=implementation,
    )
    wanted = visible / visible.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(out[0, :, 0], wanted, rtol=1e-6)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@given(seed=st.integers(0, 2**32 - 1), order=st.permutations(range(9)))
def test_permuting_the_keys_leaves_the_output_unchanged(implementation, seed, order):
    case = random_case(seed, random_visibility(seed, 1, 5, 9))
    start, end, position = case.visibility
    before, after = (
        attend_compiled(
            case.q_BTHE,
            case.k_BSGE[:, keys],
            case.v_BSGE[:, keys],
            start,
            end,
            position[:, keys],
            scale=case.scale,
            implementation=implementation,
        )
        for keys in (list(range(9)), list(order))
    )
    np.testing.assert_allclose(before, after, rtol=0.0, atol=1e-5)
