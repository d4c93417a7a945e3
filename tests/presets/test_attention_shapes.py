"""The shapes that kernels are compiled and timed in are those of the presets."""

import pytest

from pallas_kernels.routed_attention.shapes import SHAPES, attention_shape
from unimod_jax.mod import capacity
from unimod_jax.presets import model_spec, preset

ROWS = [
    # beginning of the shapes' names, preset, task, tokens of a row, rows on one device
    ("show_o.text_to_image", "show_o_512_long", "text_to_image", 1408, 5),
    ("show_o.image_to_text", "show_o_512_long", "image_to_text", 1408, 5),
    ("emu3_512", "emu3", "text_to_image", 4300, 2),
    ("emu3_512", "emu3", "image_to_text", 4300, 2),
    ("emu3_longest", "emu3", "image_to_text", 9216, 2),
    ("chameleon_7b", "chameleon_7b", "interleaved", 4096, 2),
    ("transfusion_7b", "transfusion_7b", "interleaved", 4096, 2),
]


def shapes_of(row):
    return [shape for shape in SHAPES if shape.name.startswith(row + ".")]


def test_every_shape_belongs_to_a_row_of_a_preset():
    rows = {row for row, *_ in ROWS}
    assert {shape.name.rpartition(".")[0] for shape in SHAPES} == rows
    assert len({shape.name for shape in SHAPES}) == len(SHAPES)


@pytest.mark.parametrize(("row", "name", "task", "tokens", "rows"), ROWS)
def test_lengths_are_what_the_layers_of_the_plan_keep(row, name, task, tokens, rows):
    spec = model_spec(preset(name), "unimod")
    (stream,) = (stream.name for stream in spec.streams)
    routes = [design.route_of(task) for design in spec.designs]
    ratios = [route.keep_ratio_of(stream) if route else 1.0 for route in routes]
    kept = {capacity(ratio, tokens) for ratio in ratios}
    wanted = ["dense", *(f"kept_{length}" for length in sorted(kept)[-2::-1])]

    shapes = [shape for shape in shapes_of(row) if not shape.decodes]
    assert [shape.name.rpartition(".")[2] for shape in shapes] == wanted
    assert [shape.keys for shape in shapes] == sorted(kept, reverse=True)
    assert [shape.queries for shape in shapes] == sorted(kept, reverse=True)
    assert {shape.rows for shape in shapes} == {rows}


@pytest.mark.parametrize(("row", "name"), sorted({each[:2] for each in ROWS}))
def test_heads_are_those_of_the_model(row, name):
    model = preset(name).model
    wanted = (model.num_heads, model.num_kv_heads, model.head_dim)
    for shape in shapes_of(row):
        assert (shape.heads, shape.kv_heads, shape.head_dim) == wanted


@pytest.mark.parametrize(
    ("row", "name", "task"),
    [each[:3] for each in ROWS if each[0] != "emu3_longest"],
)
def test_rows_are_as_long_as_the_presets(row, name, task):
    layout = preset(name).layouts(model_spec(preset(name), "unimod"))[task]
    # Emu3's are rounded: 4,291 for generation and 4,292 for understanding.
    slack = 10 if row == "emu3_512" else 0
    assert 0 <= attention_shape(f"{row}.dense").keys - layout.row_length < slack + 1


def test_decoding_attends_from_one_token_to_a_whole_row():
    decoding = [shape for shape in SHAPES if shape.decodes]
    assert len(decoding) == 3
    for shape in decoding:
        row = shape.name.removesuffix(".decoding")
        assert shape.keys == attention_shape(f"{row}.dense").keys


def test_an_unknown_shape_is_refused_with_the_known_ones():
    with pytest.raises(
        ValueError, match=r"no attention shape 'show_o'; .*chameleon_7b\.dense"
    ):
        attention_shape("show_o")
