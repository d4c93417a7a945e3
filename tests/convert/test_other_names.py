"""The same weights under the other names that they were published with."""

import functools
import re

import jax
import numpy as np
import pytest

from tests.convert.golden_models import (
    GOLDEN,
    config,
    dense,
    files,
    row_layout,
    spec,
)
from unimod_jax.convert import (
    LAYOUTS,
    TensorFiles,
    new_manifest,
    open_tensor_files,
    read_weights,
    recognised,
    write_files,
)
from unimod_jax.convert.image_tokenizer_files import read_image_tokenizer

RENAMED = {
    "emu3_hf_old": (
        "emu3_hf",
        {
            r"^model\.text_model\.": "text_model.model.",
            r"^lm_head\.": "text_model.lm_head.",
            r"^model\.vqmodel\.": "vqmodel.",
        },
    ),
    "phi": ("show_o", {r"^showo\.": ""}),
}
"""Layout -> golden model, and how its tensors are called there. With Emu3 it is what
transformers renames when it reads its first files, the other way; Phi's own files have
norms of queries and keys where its config says `qk_layernorm`."""


def renamed(layout: str, directory) -> TensorFiles:
    """The golden files with the names of another layout."""
    name, changes = RENAMED[layout]
    held, tensors, values = files(name), {}, {}
    for old in held.names:
        new = old
        for pattern, to in changes.items():
            new = re.sub(pattern, to, new)
        assert new != old
        tensors[new] = (held.shape(old), held.dtype(old))
        values[new] = functools.partial(held.read, old)
    write_files(new_manifest(tensors), directory / layout, values)
    return open_tensor_files(directory / layout)


def assert_same(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize("name", RENAMED)
def test_other_names_give_the_same_parameters(name, tmp_path):
    held, layout, (model, _) = renamed(name, tmp_path), LAYOUTS[name], RENAMED[name]
    assert recognised(held.names) is layout
    of, table = spec(model), layout.weights(config(model), 1)
    rows = {"interleaved": row_layout(of)}
    found = read_weights(held, table, of, rows, elsewhere=layout.elsewhere)
    assert_same(found, dense(model))


def test_an_image_tokenizer_behind_the_older_prefix_is_the_same(tmp_path):
    held = renamed("emu3_hf_old", tmp_path)
    found, params = read_image_tokenizer(held.path)
    same, expected = read_image_tokenizer(GOLDEN / "emu3_hf")
    assert found.tokenizer == same.tokenizer and found.can_draw
    assert all(tensor.name.startswith("vqmodel.") for tensor in found.table.values())
    assert_same(params, expected)
