"""Asked for no implementation, attention compiles to the kernel of the chip.

Also on several chips at once, where every chip runs it on its own rows and heads.
"""

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding

from pallas_kernels.routed_attention.shapes import attention_shape
from tests.compile.chips import A100, H200, TPUS, compile_for
from tests.compile.programs import arguments, kernel_calls, training
from unimod_jax.parallel.topology import describe

pytestmark = pytest.mark.compile

SHOW_O = attention_shape("show_o.text_to_image.dense")
CHOSEN = {
    **{(chip, "bfloat16"): "mosaic_tpu" for chip in TPUS},
    (A100, "bfloat16"): "triton",
    (H200, "bfloat16"): "mosaic_gpu",
    (H200, "float32"): "triton",
}


@pytest.mark.parametrize(
    ("chip", "dtype"), CHOSEN, ids=[f"{chip.name}-{dtype}" for chip, dtype in CHOSEN]
)
def test_the_fastest_kernel_of_the_chip_is_taken(chip, dtype):
    shape = SHOW_O._replace(rows=1, heads=2, kv_heads=2)
    text = compile_for(chip, training(None), *arguments(shape, dtype)).as_text()
    assert kernel_calls(text, CHOSEN[chip, dtype]) == 3


def test_four_chips_attend_to_their_own_rows_and_heads_without_a_word():
    devices = np.array(describe("v5e:2x2").devices).reshape(2, 2)
    mesh = Mesh(devices, ("data", "tensor"), axis_types=(AxisType.Auto,) * 2)
    heads = NamedSharding(mesh, jax.P("data", None, "tensor"))
    rows = NamedSharding(mesh, jax.P("data"))
    shardings = (heads,) * 3 + (rows,) * 3 + (heads,)
    shaped = arguments(SHOW_O._replace(rows=4, heads=4, kv_heads=4))
    sharded = [
        jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
        for x, sharding in zip(shaped, shardings, strict=True)
    ]
    with jax.set_mesh(mesh):
        text = jax.jit(training(None)).lower(*sharded).compile().as_text()
    assert kernel_calls(text, "mosaic_tpu") == 3
    # Each chip has a quarter of the four rows and heads.
    assert "bf16[2,2,1408,64]" in text
    for collective in ("all-gather", "all-reduce", "all-to-all", "collective-permute"):
        assert collective not in text, collective
