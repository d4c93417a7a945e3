"""What the layers of a model send, as the compilers of TPUs and GPUs have it.

Left to itself XLA adds up what each tower says on its own: on a TPU v5e it merged the
sums of two towers afterwards, on an A100 it merged the sum of one sublayer's text with
that of the next one's image, and so sent three times a layer (both 2026-11-22).
"""

import pytest

from tests.parallel.compiled_layers import (
    STREAM,
    WIDTH,
    compiled,
    sent_by_layers,
    token_sums,
    two_layers,
)
from unimod_jax.parallel import MeshConfig
from unimod_jax.parallel.topology import describe

pytestmark = pytest.mark.compile

ALL_TOKENS = 2 * STREAM
CHIPS = ("v5e:2x2", "a100:4")


def on_four(chips: str, mesh: MeshConfig, *, gradient: bool = False) -> str:
    topology = describe(chips)
    options = topology.compiler_options()
    return compiled(two_layers(), mesh, topology.devices, options, gradient=gradient)


@pytest.mark.parametrize("chips", CHIPS)
def test_a_layer_adds_up_twice_with_all_towers_at_once(chips):
    text = on_four(chips, MeshConfig(tensor=4))
    assert sent_by_layers(text) == [("all-reduce", ALL_TOKENS)] * 2


@pytest.mark.parametrize("chips", CHIPS)
def test_the_pass_back_adds_up_twice_more(chips):
    text = on_four(chips, MeshConfig(tensor=4), gradient=True)
    assert token_sums(text) == [ALL_TOKENS] * 4


@pytest.mark.parametrize("chips", CHIPS)
def test_devices_that_share_tokens_gather_keys_and_values_and_nothing_else(chips):
    text = on_four(chips, MeshConfig(sequence=4))
    # A small array more: the positions of the keys, which are the same in all layers.
    large = [sent for sent in sent_by_layers(text) if sent[1] > STREAM // WIDTH * 2]
    assert {kind for kind, _ in large} == {"all-gather"}
    assert {size for _, size in large} == {ALL_TOKENS}


def test_devices_that_share_parameters_never_send_tokens():
    text = on_four("v5e:2x2", MeshConfig(fsdp=4), gradient=True)
    sent = sent_by_layers(text)
    assert "all-gather" in {kind for kind, _ in sent}
    assert max(size for _, size in sent) <= 2 * WIDTH * WIDTH < STREAM
