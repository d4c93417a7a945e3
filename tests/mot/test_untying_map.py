"""Which tower serves which modality, and what that does to storage and parameters."""

import jax
import pytest

from tests.models.tiny_model import abstract_variables, flat, random_batch, tiny_spec
from unimod_jax.layout import IMAGE, TEXT, Stream
from unimod_jax.models import count_parameters
from unimod_jax.mot import COMPONENTS, UntyingMap
from unimod_jax.objectives import NextToken

# The modules that hold a component's towers.
MODULES = {
    "query": {"query"},
    "key": {"key"},
    "value": {"value"},
    "output": {"output"},
    "qk_norm": {"query_norm", "key_norm"},
    "attention_norm": {"attention_norm"},
    "feed_forward": {"feed_forward/gate", "feed_forward/up", "feed_forward/down"},
    "feed_forward_norm": {"feed_forward_norm"},
    "final_norm": {"final_norm"},
}


def parameters(untied):
    spec = tiny_spec(untied)
    boxed = abstract_variables(spec, random_batch(NextToken(), spec))["params"]
    return flat(jax.tree.map(lambda leaf: leaf, boxed, is_leaf=_is_box))


def _is_box(leaf):
    return hasattr(leaf, "names")


@pytest.fixture(scope="module")
def dense_parameters():
    return parameters(())


def test_modalities_that_nothing_tells_apart_share_a_stream():
    assert UntyingMap.tied((TEXT, IMAGE)).streams() == (Stream.of(TEXT, IMAGE),)
    one = UntyingMap.untied((TEXT, IMAGE), ("final_norm",))
    assert one.streams() == (Stream.of(TEXT), Stream.of(IMAGE))


def test_two_of_three_modalities_may_share_their_towers():
    # Leave-one-out: speech uses the text towers everywhere.
    rows = tuple((TEXT, IMAGE, TEXT) for _ in COMPONENTS)
    untying = UntyingMap((TEXT, IMAGE, "speech"), rows)
    assert untying.streams() == (Stream.of(TEXT, "speech"), Stream.of(IMAGE))
    assert untying.towers_of("query") == {"text+speech": TEXT, IMAGE: IMAGE}


def test_a_stream_uses_the_shared_tower_of_a_tied_component():
    untying = UntyingMap.untied((TEXT, IMAGE), ("query",))
    assert untying.towers_of("query") == {TEXT: TEXT, IMAGE: IMAGE}
    assert untying.towers_of("key") == {TEXT: "shared", IMAGE: "shared"}


def test_an_unknown_component_is_refused_with_the_choices():
    with pytest.raises(ValueError, match=r"\['querry'\]; choose from \['query'"):
        UntyingMap.untied((TEXT, IMAGE), ("querry",))


def test_a_table_of_the_wrong_shape_is_refused():
    with pytest.raises(ValueError, match=r"9 rows .* 2 names"):
        UntyingMap((TEXT, IMAGE), (("shared",),) * 9)


@pytest.mark.parametrize("component", COMPONENTS)
def test_untying_a_component_changes_its_own_parameters_only(
    component, dense_parameters
):
    untied = parameters((component,))
    removed = set(dense_parameters) - set(untied)
    added = set(untied) - set(dense_parameters)

    def modules(names):
        return {
            name.rpartition("/")[0].removeprefix("transformer/run_0/block/")
            for name in names
        }

    assert modules(removed) == modules(added) == MODULES[component]
    assert {name.rpartition("/")[2] for name in removed} == {"shared"}
    assert {name.rpartition("/")[2] for name in added} == {TEXT, IMAGE}
    for name in removed:
        module = name.removesuffix("shared")
        for tower in (TEXT, IMAGE):
            assert untied[module + tower] == dense_parameters[name]


def test_two_towers_double_the_parameters_that_are_no_embedding(dense_parameters):
    embeddings = {
        name: leaf
        for name, leaf in dense_parameters.items()
        if name.startswith(("embedding/", "vocabulary_head/"))
    }
    outside = count_parameters(embeddings)
    dense = count_parameters(dense_parameters) - outside
    two_towers = count_parameters(parameters(COMPONENTS)) - outside
    assert two_towers == 2 * dense
    # Width 16, hidden 24, two query heads and one key head of 8, two layers.
    per_layer = 2 * 16 * 16 + 2 * 16 * 8 + 3 * 16 * 24 + 2 * 16 + 2 * 8
    assert dense == 2 * per_layer + 16
