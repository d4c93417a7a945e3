"""Every kernel, in every real shape, compiled for every chip that it is for.

A chip's own compiler accepts each program, so its scratch memory suffices:
`test_chips.py` shows that the compilers refuse what needs more. Shapes keep all their
numbers, heads and rows too. Two reductions lose nothing: shapes of equal numbers
(Chameleon's and Transfusion's) are one program, and the output alone is compiled for
dense rows and decoding only, because training compiles the same kernel, with one more
output, in every shape.
"""

import pytest

from pallas_kernels.routed_attention.shapes import SHAPES, attention_shape
from tests.compile.chips import A100, H200, TPUS, compile_for
from tests.compile.programs import (
    arguments,
    array_sizes,
    backend,
    inference,
    kernel_calls,
    linear_bytes,
    training,
)

pytestmark = pytest.mark.compile

# The A100 cannot run Mosaic GPU's kernels, which need Hopper's instructions.
CHIPS_OF = {"mosaic_tpu": TPUS, "triton": (A100, H200), "mosaic_gpu": (H200,)}
KERNELS = [
    pytest.param(chip, name, id=f"{chip.name}-{name}")
    for name, chips in CHIPS_OF.items()
    for chip in chips
]
# Of shapes with equal numbers the first.
DISTINCT = list({shape[1:-1]: shape for shape in reversed(SHAPES)}.values())[::-1]
TRAINED = [shape for shape in DISTINCT if not shape.decodes]
INFERRED = [shape for shape in DISTINCT if "kept" not in shape.name]
SHOW_O = attention_shape("show_o.text_to_image.dense")

# Temporary memory in units of `linear_bytes`. Measured 2026-11-22: kernels up to 2.4
# (padded copies of q, k, v, the output and their gradients on a tpu7x), the reference
# with its T x S scores from 6.7 in Show-o's dense rows to 145 in Emu3's longest.
MOST_COPIES = 4


def shape_name(shape):
    return shape.name


def check(compiled, name, shape, calls):
    """The program makes that many calls of the backend's kernels, in linear memory."""
    assert kernel_calls(compiled.as_text(), name) == calls
    temporary = compiled.memory_analysis().temp_size_in_bytes
    assert temporary < MOST_COPIES * linear_bytes(shape)


@pytest.mark.parametrize("shape", TRAINED, ids=shape_name)
@pytest.mark.parametrize(("chip", "name"), KERNELS)
def test_training_is_three_kernels_in_linear_memory(chip, name, shape):
    program = training(backend(name))
    check(compile_for(chip, program, *arguments(shape)), name, shape, calls=3)


@pytest.mark.parametrize("shape", INFERRED, ids=shape_name)
@pytest.mark.parametrize(("chip", "name"), KERNELS)
def test_inference_is_one_kernel_in_linear_memory(chip, name, shape):
    program = inference(backend(name))
    check(compile_for(chip, program, *arguments(shape)), name, shape, calls=1)


# Each backend on the chip with the least scratch memory that it is for.
TIGHTEST = [(chips[0], name) for name, chips in CHIPS_OF.items()]


@pytest.mark.parametrize("head_dim", [80, 96])
@pytest.mark.parametrize(("chip", "name"), TIGHTEST)
def test_head_dims_that_are_no_power_of_two_compile(chip, name, head_dim):
    shape = SHOW_O._replace(head_dim=head_dim)
    program = training(backend(name))
    check(compile_for(chip, program, *arguments(shape)), name, shape, calls=3)


# Mosaic GPU's kernels multiply 16-bit numbers only.
@pytest.mark.parametrize("model", ["show_o.text_to_image", "chameleon_7b"])
@pytest.mark.parametrize(("chip", "name"), TIGHTEST[:2])
def test_float32_compiles(chip, name, model):
    shape = attention_shape(f"{model}.dense")
    program = training(backend(name))
    compiled = compile_for(chip, program, *arguments(shape, "float32"))
    check(compiled, name, shape, calls=3)


# With two heads in one row, nothing linear has as many numbers as a matrix of scores or
# a mask: in whole shapes the arrays of all heads do.
FEW_HEADS = SHOW_O._replace(rows=1, heads=2, kv_heads=2)


@pytest.mark.parametrize(("chip", "name"), TIGHTEST)
def test_no_array_has_a_number_for_each_query_and_key(chip, name):
    program = training(backend(name))
    text = compile_for(chip, program, *arguments(FEW_HEADS)).as_text()
    assert max(array_sizes(text)) < FEW_HEADS.queries * FEW_HEADS.keys


def test_these_checks_find_the_scores_of_the_reference():
    program = training("reference")
    text = compile_for(A100, program, *arguments(FEW_HEADS)).as_text()
    assert max(array_sizes(text)) >= FEW_HEADS.queries * FEW_HEADS.keys

    compiled = compile_for(A100, program, *arguments(SHOW_O))
    temporary = compiled.memory_analysis().temp_size_in_bytes
    assert temporary > MOST_COPIES * linear_bytes(SHOW_O)
