"""Where each array goes: logical axes, rules, and a mesh of eight devices."""

import jax
import numpy as np
import optax
import pytest
from flax import linen as nn
from jax.sharding import NamedSharding, PartitionSpec

from tests.models.tiny_model import (
    abstract_variables,
    flat,
    random_batch,
    routed_in,
    tiny_spec,
)
from unimod_jax.objectives import ImageDiffusion
from unimod_jax.parallel import (
    MeshConfig,
    ShardingRules,
    batch_sharding,
    make_mesh,
    tree_sharding,
)

RULES = ShardingRules()
# What each parameter's axes are cut over; towers of a component are cut alike.
BLOCK_CUTS = (
    ("attention_norm", "scale", (None, None)),
    ("query", "kernel", (None, "fsdp", "tensor")),
    ("key", "kernel", (None, "fsdp", "tensor")),
    ("value", "kernel", (None, "fsdp", "tensor")),
    ("query_norm", "scale", (None, None)),
    ("key_norm", "scale", (None, None)),
    ("output", "kernel", (None, "tensor", "fsdp")),
    ("feed_forward_norm", "scale", (None, None)),
    ("feed_forward", "gate/kernel", (None, "fsdp", "tensor")),
    ("feed_forward", "up/kernel", (None, "fsdp", "tensor")),
    ("feed_forward", "down/kernel", (None, "tensor", "fsdp")),
)
OUTSIDE_CUTS = {
    "embedding/table": ("tensor", "fsdp"),
    "embedding/image_position": (None, "fsdp"),
    "embedding/patch": (None, "fsdp"),
    "embedding/time": (None, "fsdp"),
    "vocabulary_head/kernel": ("fsdp", "tensor"),
    "patch_head/kernel": ("fsdp", None),
    "final_norm/text/scale": (None,),
    "final_norm/image/scale": (None,),
}


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))


@pytest.fixture(scope="module")
def boxed():
    routing = routed_in((0, 1), ("text_to_image",), keep_ratio=0.5)
    spec = tiny_spec(routing=routing, patch_size=3)
    return abstract_variables(spec, random_batch(ImageDiffusion(), spec))


def expected_cuts():
    cuts = dict(OUTSIDE_CUTS)
    for tower in ("text", "image"):
        for component, rest, cut in BLOCK_CUTS:
            cuts[f"transformer/run_0/block/{component}/{tower}/{rest}"] = cut
        router = f"transformer/run_0/routers_text_to_image/{tower}"
        cuts[router] = (None, "fsdp")
    return cuts


def test_parameters_are_cut_as_their_axes_say(boxed, mesh):
    shardings = flat(tree_sharding(boxed["params"], mesh, RULES))
    assert {name: s.spec for name, s in shardings.items()} == {
        name: PartitionSpec(*cut) for name, cut in expected_cuts().items()
    }
    shapes = flat(nn.unbox(boxed["params"]))
    query = "transformer/run_0/block/query/image/kernel"
    assert shapes[query].shape == (2, 16, 16)
    assert shardings[query].shard_shape((2, 16, 16)) == (2, 8, 8)


@pytest.mark.standard_promotion("optax: Adam's bias correction")
def test_optimizer_slots_are_cut_like_their_parameters(boxed, mesh):
    optimizer = optax.adamw(1e-3)
    abstract = jax.eval_shape(optimizer.init, boxed["params"])
    adam = tree_sharding(abstract, mesh, RULES)[0]
    cuts = {name: PartitionSpec(*cut) for name, cut in expected_cuts().items()}
    for slots in (adam.mu, adam.nu):
        assert {name: s.spec for name, s in flat(slots).items()} == cuts
    assert adam.count.spec == PartitionSpec()


def test_slots_that_an_optimizer_masks_out_stay_empty(boxed, mesh):
    def is_kernel(params):
        return jax.tree.map(lambda leaf: leaf.ndim > 2, params)

    optimizer = optax.masked(optax.trace(0.9), is_kernel)
    abstract = jax.eval_shape(optimizer.init, boxed["params"])
    shardings = tree_sharding(abstract, mesh, RULES)
    expected = nn.unbox(abstract)
    assert jax.tree.structure(shardings) == jax.tree.structure(expected)


def test_router_state_is_on_every_device(boxed, mesh):
    state = tree_sharding(boxed["router_state"], mesh, RULES)
    leaves = jax.tree.leaves(state)
    assert leaves
    assert all(leaf.is_fully_replicated for leaf in leaves)


def test_a_batch_is_cut_over_its_rows(mesh):
    sharding = batch_sharding(mesh, RULES)
    assert sharding == NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    array = jax.device_put(np.zeros((8, 3)), sharding)
    assert array.addressable_shards[0].data.shape == (2, 3)


def test_rules_turn_axes_into_cuts():
    assert RULES.spec(("layers", "embed", "heads")) == PartitionSpec(
        None, "fsdp", "tensor"
    )
    assert RULES.spec(("batch", None)) == PartitionSpec(("data", "fsdp"), None)
    whole = ShardingRules(embed=None, mlp=None)
    assert whole.spec(("embed", "mlp")) == PartitionSpec(None, None)


@pytest.mark.parametrize(
    ("rules", "sentence"),
    [
        (
            {"embed": "tensor"},
            "sharding.embed and sharding.heads would both cut query and output "
            r"projections .* over mesh axis 'tensor'; change one",
        ),
        ({"token": "fsdp"}, "sharding.batch and sharding.token would both cut hidden"),
        ({"batch": ("data", "data")}, "sharding.batch and sharding.batch would both"),
        ({"vocab": "sequence"}, "sharding.token and sharding.vocab .* logits"),
        ({"layers": "fsdp"}, "sharding.layers and sharding.embed would both cut"),
        (
            {"mlp": "model"},
            r"sharding.mlp names the mesh axes \['model'\], which do not exist",
        ),
    ],
    ids=str,
)
def test_rules_that_collide_are_refused_when_they_are_made(rules, sentence):
    with pytest.raises(ValueError, match=sentence):
        ShardingRules(**rules)


def test_two_axes_of_an_array_over_one_mesh_axis_are_refused():
    with pytest.raises(ValueError, match=r"\('batch', 'embed'\) over mesh axis 'fsdp'"):
        RULES.spec(("batch", "embed"))


def test_an_axis_without_a_rule_is_refused():
    with pytest.raises(ValueError, match=r"'width' has no sharding rule; known: \["):
        RULES.spec(("width",))


def test_a_parameter_that_does_not_divide_is_named_with_the_rule_to_change(boxed):
    five = make_mesh(MeshConfig(tensor=5))
    with pytest.raises(
        ValueError,
        match=r"head/kernel of shape \(16, 24\) has 24 entries along its axis 'vocab', "
        r"which the 5 devices of mesh axis tensor do not divide; choose another "
        r"--mesh.tensor, or keep the axis whole with --sharding.vocab None",
    ):
        tree_sharding({"head": boxed["params"]["vocabulary_head"]}, five, RULES)
    shared = ShardingRules(vocab=None)
    tree_sharding({"head": boxed["params"]["vocabulary_head"]}, five, shared)
