"""Which tower serves which modality, and what that does to storage and parameters."""

import jax
import numpy as np
import pytest

from tests.mot.tiny_block import (
    abstract_params,
    causal_geometry,
    flat,
    random_streams,
    tiny_block,
)
from unimod_jax.layout import IMAGE, TEXT, Stream
from unimod_jax.mot import COMPONENTS, UntyingMap, common_streams

SPEECH = "speech"
THREE = (TEXT, IMAGE, SPEECH)
# The modules of a block that hold a component's towers.
MODULES = {
    "query": {"query"},
    "key": {"key"},
    "value": {"value"},
    "output": {"output"},
    "qk_norm": {"query_norm", "key_norm"},
    "attention_norm": {"attention_norm"},
    "feed_forward": {"feed_forward"},
    "feed_forward_norm": {"feed_forward_norm"},
    "final_norm": set(),  # the model's, not the block's
}


def towers_in_block(untying):
    """(module, tower) -> shapes of its parameters."""
    block = tiny_block(untying)
    geometry = {block.streams[0].name: causal_geometry([[0]])}
    streams = random_streams(geometry)
    shapes = {}
    for path, leaf in flat(abstract_params(block, streams, geometry)).items():
        module, tower, rest = path.split("/", 2)
        shapes.setdefault((module, tower), {})[rest] = leaf.value.shape
    return shapes


def test_modalities_that_nothing_tells_apart_share_a_stream():
    assert common_streams([UntyingMap.tied((TEXT, IMAGE))]) == (Stream.of(TEXT, IMAGE),)
    one = UntyingMap.untied((TEXT, IMAGE), ("final_norm",))
    assert common_streams([one]) == (Stream.of(TEXT), Stream.of(IMAGE))


def test_streams_serve_all_layers_together():
    # The first layer tells text apart, the second speech; neither tells all three.
    text = UntyingMap.grouped(THREE, [[TEXT], [IMAGE, SPEECH]])
    speech = UntyingMap.grouped(THREE, [[TEXT, IMAGE], [SPEECH]])
    assert common_streams([text]) == (Stream.of(TEXT), Stream.of(IMAGE, SPEECH))
    assert common_streams([speech]) == (Stream.of(TEXT, IMAGE), Stream.of(SPEECH))
    streams = common_streams([text, speech])
    assert streams == (Stream.of(TEXT), Stream.of(IMAGE), Stream.of(SPEECH))
    assert text.towers_of("key", streams) == {
        TEXT: TEXT,
        IMAGE: "image+speech",
        SPEECH: "image+speech",
    }
    assert speech.towers_of("key", streams) == {
        TEXT: "text+image",
        IMAGE: "text+image",
        SPEECH: SPEECH,
    }


def test_streams_stand_in_the_order_of_their_first_members():
    untying = UntyingMap.grouped(THREE, [[SPEECH, TEXT]])
    assert common_streams([untying]) == (Stream.of(TEXT, SPEECH), Stream.of(IMAGE))
    assert untying.towers_of("value", common_streams([untying])) == {
        "text+speech": "speech+text",
        IMAGE: IMAGE,
    }


def test_a_stream_uses_the_shared_tower_of_a_tied_component():
    untying = UntyingMap.untied((TEXT, IMAGE), ("query",))
    streams = common_streams([untying])
    assert untying.towers_of("query", streams) == {TEXT: TEXT, IMAGE: IMAGE}
    assert untying.towers_of("key", streams) == {TEXT: "shared", IMAGE: "shared"}


def test_untied_means_every_modality_a_group_of_its_own():
    groups = [[modality] for modality in THREE]
    for components in (COMPONENTS, ("query", "feed_forward"), ()):
        assert UntyingMap.untied(THREE, components) == UntyingMap.grouped(
            THREE, groups, components
        )


def test_a_stream_of_two_towers_is_refused():
    untying = UntyingMap.untied((TEXT, IMAGE), ("query",))
    coarse = (Stream.of(TEXT, IMAGE),)
    assert untying.towers_of("key", coarse) == {"text+image": "shared"}
    with pytest.raises(ValueError, match=r"'text\+image' mixes .* \['text', 'image'\]"):
        untying.towers_of("query", coarse)


def test_maps_over_different_modalities_have_no_common_streams():
    maps = [UntyingMap.tied((TEXT, IMAGE)), UntyingMap.tied((IMAGE, TEXT))]
    with pytest.raises(ValueError, match="over 2 lists of modalities"):
        common_streams(maps)
    with pytest.raises(ValueError, match="over 0 lists of modalities"):
        common_streams([])


def test_an_unknown_component_is_refused_with_the_choices():
    with pytest.raises(ValueError, match=r"\['querry'\]; choose from \['query'"):
        UntyingMap.untied((TEXT, IMAGE), ("querry",))


@pytest.mark.parametrize(
    "groups", [[["sound"]], [[TEXT, IMAGE], [IMAGE]], [[TEXT, TEXT]]]
)
def test_a_group_of_unknown_or_repeated_modalities_is_refused(groups):
    with pytest.raises(ValueError, match=r"\['text', 'image'\] at most once"):
        UntyingMap.grouped((TEXT, IMAGE), groups)


def test_a_table_of_the_wrong_shape_is_refused():
    with pytest.raises(ValueError, match=r"9 rows .* 2 names"):
        UntyingMap((TEXT, IMAGE), (("shared",),) * 9)


@pytest.mark.parametrize("component", COMPONENTS)
def test_untying_a_component_changes_its_own_parameters_only(component):
    dense = towers_in_block(UntyingMap.tied((TEXT, IMAGE)))
    untied = towers_in_block(UntyingMap.untied((TEXT, IMAGE), (component,)))
    expected = {
        (module, tower): shapes
        for (module, _), shapes in dense.items()
        for tower in ((TEXT, IMAGE) if module in MODULES[component] else ("shared",))
    }
    assert untied == expected


def test_leaving_one_modality_out_makes_two_towers_of_three():
    untying = UntyingMap.grouped(THREE, [[TEXT], [IMAGE, SPEECH]])
    towers = {tower for _, tower in towers_in_block(untying)}
    assert towers == {TEXT, "image+speech"}


def test_two_towers_double_the_parameters_of_a_block():
    def count(untying):
        shapes = jax.tree.leaves(
            towers_in_block(untying), is_leaf=lambda leaf: isinstance(leaf, tuple)
        )
        return sum(int(np.prod(shape)) for shape in shapes)

    # Width 16, hidden 24, four query heads and two key heads of 8.
    dense = 2 * 16 * 32 + 2 * 16 * 16 + 3 * 16 * 24 + 2 * 16 + 2 * 8
    assert count(UntyingMap.tied((TEXT, IMAGE))) == dense
    assert count(UntyingMap.untied((TEXT, IMAGE))) == 2 * dense
