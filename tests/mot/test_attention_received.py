"""Attention received is the mean column of the attention matrix that the block uses."""

import numpy as np
import pytest

from tests.mot.numpy_block import NumpyBlock
from tests.mot.tiny_block import (
    HEAD_DIM,
    POSITION,
    WINDOW_END,
    causal_geometry,
    one_row_geometry,
    random_params,
    random_streams,
    tiny_block,
)

GEOMETRY = one_row_geometry()


def received(block, params, streams, geometry):
    return block.apply(
        {"params": params}, streams, geometry, method="attention_received"
    )


@pytest.mark.parametrize("norm_order", ["pre", "swin", "parallel"])
def test_it_is_the_mean_over_heads_and_over_the_queries_that_may_see(norm_order):
    block, streams = tiny_block(norm_order=norm_order), random_streams(GEOMETRY)
    params = random_params(block, streams, GEOMETRY)
    oracle = NumpyBlock(block.config, params, POSITION, WINDOW_END, HEAD_DIM)
    x = {name: np.asarray(rows[0], np.float64) for name, rows in streams.items()}
    read = x if norm_order == "swin" else oracle.normed("attention_norm", x)
    _, weights = oracle.attended(read)
    weight_THS = np.concatenate([*weights.values()])
    ends = [end for name in POSITION for end in WINDOW_END[name]]
    expected, slot = {}, 0
    for name in POSITION:
        expected[name] = np.zeros(len(POSITION[name]))
        for index, position in enumerate(POSITION[name]):
            seen_by = [t for t, end in enumerate(ends) if 0 <= position < end]
            if seen_by:
                expected[name][index] = weight_THS[seen_by, :, slot].mean()
            slot += 1
    actual = received(block, params, streams, GEOMETRY)
    for name, column in expected.items():
        assert actual[name].dtype == np.float32
        np.testing.assert_allclose(actual[name][0], column, rtol=1e-4, atol=1e-6)
    assert expected["text"][2] == actual["text"][0, 2] == 0.0


def test_rows_are_apart():
    position = np.array([[0, 1, 2], [0, 1, -1]])
    geometry = {"text": causal_geometry(position)}
    block, streams = tiny_block(), random_streams(geometry)
    params = random_params(block, streams, geometry)
    both = received(block, params, streams, geometry)["text"]
    for row in range(2):
        alone = received(
            block,
            params,
            {"text": streams["text"][row : row + 1]},
            {"text": causal_geometry(position[row : row + 1])},
        )
        np.testing.assert_allclose(alone["text"][0], both[row], rtol=1e-5)
    # Nobody but the last token sees it, and only among its row.
    assert 0 < both[0, 2] < 1
    assert both[1, 2] == 0
