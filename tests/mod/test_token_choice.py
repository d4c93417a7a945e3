"""Choosing tokens: scorers, weights, streams, and what tasks share."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from tests.mod.choosing import (
    ROWS,
    TOKENS,
    fresh,
    full_rows,
    inference,
    make_choice,
    preferring,
    random_route,
    tokens,
    training,
)
from tests.mod.toy_block import WIDTH, causal_geometry, random_params, toy_block
from unimod_jax.mod import (
    Chosen,
    Route,
    TaskRouter,
    TokenChoice,
    gentle_weight,
    routed_delta,
    weighted,
)
from unimod_jax.mod.causal_gate import STATE

NAMES = ("text", "image")


def two_streams():
    """(streams, geometry): five text tokens, an empty slot, and seven image tokens."""
    text = np.tile([0, 1, 2, 3, 4, -1], (2, 1))
    image = np.tile(np.arange(5, 12), (2, 1))
    streams = {"text": tokens(1, 2, 6), "image": tokens(2, 2, 7)}
    return streams, {"text": causal_geometry(text), "image": causal_geometry(image)}


def choose(choice, variables, received=None, **options):
    streams, geometry = two_streams()
    return choice.apply(
        variables,
        streams,
        geometry,
        causal={"text": True, "image": False},
        num_slots={"text": 6, "image": 7},
        received=received,
        **options,
    )


def initialised(choice):
    streams, geometry = two_streams()
    return nn.unbox(
        choice.init(
            jax.random.key(0),
            streams,
            geometry,
            causal={"text": True, "image": False},
            num_slots={"text": 6, "image": 7},
        )
    )


def test_a_keep_ratio_of_one_gathers_nothing_and_a_fresh_router_weighs_exactly_one():
    choice = make_choice(Route("task", 1.0), NAMES)
    chosen = choose(choice, initialised(choice))
    for name, geometry in two_streams()[1].items():
        assert chosen[name].selection is None
        np.testing.assert_array_equal(chosen[name].kept_BT, geometry.position_BT >= 0)
        np.testing.assert_array_equal(chosen[name].weight_BT, 1.0)
        assert chosen[name].weight_BT.dtype == jnp.float32


def test_converting_a_dense_layer_at_keep_ratio_one_leaves_it_as_it_was():
    choice = make_choice(Route("task", 1.0), NAMES)
    streams, geometry = two_streams()
    chosen = choose(choice, initialised(choice))
    params = random_params()
    delta, _ = routed_delta(
        lambda kept, where: (toy_block(params, kept, where), None),
        streams,
        geometry,
        chosen,
    )
    delta = weighted(delta, {name: c.weight_BT for name, c in chosen.items()})
    dense = toy_block(params, streams, geometry)
    for name in NAMES:
        np.testing.assert_array_equal(delta[name], dense[name])


def test_each_stream_has_its_own_rule_and_its_own_places():
    route = Route("task", 0.5, stream_keep_ratios=(("image", 0.3),))
    choice = make_choice(route, NAMES)
    variables = preferring(initialised(choice))
    chosen = choose(choice, variables)
    # Text: the causal gate, three places. Image: top-k of seven, ceil(0.3 * 7) = 3.
    assert chosen["text"].selection.index_BC.shape == (2, 3)
    assert chosen["image"].selection.index_BC.shape == (2, 3)
    np.testing.assert_array_equal(chosen["image"].kept_BT.sum(axis=1), 3)
    score = choice.router.apply(
        {"params": variables["params"]["router"]}, two_streams()[0]
    )
    for row in range(2):
        best = np.sort(np.argsort(score["image"][row])[-3:])
        np.testing.assert_array_equal(chosen["image"].selection.index_BC[row], best)
    for name in NAMES:
        np.testing.assert_array_equal(
            chosen[name].weight_BT, gentle_weight(score[name])
        )


def test_a_step_moves_thresholds_of_causal_streams_only():
    choice = make_choice(Route("task", 0.5), NAMES)
    _, changed = choose(choice, preferring(initialised(choice)), mutable=[STATE])
    gate = changed[STATE]["gate"]
    assert gate["text"][1] == 0.5
    assert gate["image"][1] == 0.0


def test_top_k_everywhere_holds_no_state():
    choice = make_choice(Route("task", 0.5, causal_rule="top_k"), NAMES)
    assert set(initialised(choice)) == {"params"}


class TwoTasks(nn.Module):
    """Two tasks that give the same router name share one router."""

    routes: tuple[Route, ...]

    def setup(self):
        self.routers = {
            route.router_name: TaskRouter(("text",), WIDTH) for route in self.routes
        }
        self.choices = {
            route.task: TokenChoice(
                route, ("text",), WIDTH, self.routers[route.router_name]
            )
            for route in self.routes
        }

    def __call__(self, x_BTD) -> dict[str, Chosen]:
        where = {"text": causal_geometry(full_rows(x_BTD.shape[0], x_BTD.shape[1]))}
        return {
            task: choice(
                {"text": x_BTD},
                where,
                causal={"text": True},
                num_slots={"text": x_BTD.shape[1]},
            )["text"]
            for task, choice in self.choices.items()
        }


@pytest.mark.parametrize(
    ("router", "names"),
    [("", {"routers_a", "routers_b"}), ("single", {"routers_single"})],
)
def test_tasks_share_a_router_by_its_name_and_keep_thresholds_of_their_own(
    router, names
):
    model = TwoTasks((Route("a", 0.5, router=router), Route("b", 0.25, router=router)))
    variables = nn.unbox(model.init(jax.random.key(0), tokens()))
    assert set(variables["params"]) == names
    assert set(variables[STATE]) == {"choices_a", "choices_b"}
    chosen = model.apply(preferring(variables), tokens())
    same = np.array_equal(chosen["a"].weight_BT, chosen["b"].weight_BT)
    assert same == (router == "single")


class ScannedLayer(nn.Module):
    """The body of a scanned run: two routed tasks."""

    routes: tuple[Route, ...]

    @nn.compact
    def __call__(self, x_BTD, _):
        chosen = TwoTasks(self.routes, name="tasks")(x_BTD)
        loss = sum(c.auxiliary_loss for c in chosen.values())
        x_BTD = sum(x_BTD * c.weight_BT[..., None] for c in chosen.values())
        return x_BTD, (chosen["a"].kept_BT, loss)


def test_state_lives_through_a_scan_over_rematerialised_layers():
    routes = (
        Route("a", 0.5, causal_rule="predictor"),
        Route("b", 0.5, causal_rule="trained_threshold"),
    )
    scanned = nn.scan(
        nn.remat(ScannedLayer, prevent_cse=False),
        variable_axes={"params": 0, STATE: 0},
        split_rngs={"params": True},
        length=2,
        metadata_params={nn.PARTITION_NAME: "layers"},
    )(routes)
    variables = nn.unbox(scanned.init(jax.random.key(0), tokens(), None))

    def loss(params):
        (x, (_, losses)), changed = scanned.apply(
            variables | {"params": params}, tokens(), None, mutable=[STATE]
        )
        return jnp.sum(losses) + jnp.sum(jnp.square(x)), changed

    gradient, changed = jax.jit(jax.grad(loss, has_aux=True))(variables["params"])
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    gate = changed[STATE]["tasks"]["choices_a"]["gate"]["text"]
    np.testing.assert_array_equal(gate[:, 1], [0.5, 0.5])


def test_random_scores_are_drawn_anew_in_training_and_stand_still_outside():
    choice = make_choice(random_route())
    variables = fresh(choice)
    first, after = training(choice)(variables, tokens(), full_rows())
    second, _ = training(choice)(after, tokens(), full_rows())
    assert not np.array_equal(first.kept_BT, second.kept_BT)
    once = inference(choice)(after, tokens(), full_rows())
    again = inference(choice)(after, tokens(9), full_rows())
    np.testing.assert_array_equal(once.kept_BT, again.kept_BT)
    np.testing.assert_array_equal(once.weight_BT, 1.0)
    # Rows are drawn apart from each other.
    assert not np.array_equal(once.kept_BT[0], once.kept_BT[1])


def test_a_random_half_keeps_about_half_before_and_after_training():
    choice = make_choice(random_route())
    variables = fresh(choice)
    shares = []
    for _ in range(20):
        chosen, variables = training(choice)(variables, tokens(), full_rows())
        shares.append(float(chosen.kept_BT.mean()))
    # Rows that draw more than their places hold lose some.
    assert 0.35 < np.mean(shares) < 0.5
    assert inference(choice)(fresh(choice), tokens(), full_rows()).kept_BT.any()


def test_layers_of_a_run_and_streams_of_a_layer_draw_apart():
    route = random_route("top_k")

    class Layer(nn.Module):
        @nn.compact
        def __call__(self, carry, _):
            x_BTD = tokens()
            where = causal_geometry(full_rows())
            chosen = TokenChoice(route, NAMES, WIDTH, name="choice")(
                dict.fromkeys(NAMES, x_BTD),
                dict.fromkeys(NAMES, where),
                causal=dict.fromkeys(NAMES, True),
                num_slots=dict.fromkeys(NAMES, TOKENS),
            )
            return carry, {name: chosen[name].kept_BT for name in NAMES}

    run = nn.scan(
        Layer, variable_axes={STATE: 0}, split_rngs={"params": True}, length=2
    )()
    variables = run.init(jax.random.key(0), jnp.zeros(()), None)
    _, kept = run.apply(variables, jnp.zeros(()), None)
    assert kept["text"].shape == (2, ROWS, TOKENS)
    np.testing.assert_array_equal(kept["text"].sum(axis=-1), TOKENS // 2)
    assert not np.array_equal(kept["text"][0], kept["text"][1])
    assert not np.array_equal(kept["text"][0], kept["image"][0])


def test_the_attention_scorer_keeps_what_receives_most():
    route = Route("task", 0.4, scorer="attention", score_weight="one")
    choice = make_choice(route, NAMES)
    # Differences far below the jitter of learned scores still decide.
    image = 1e-5 * np.asarray([[1, 7, 2, 6, 3, 5, 4], [7, 6, 5, 4, 3, 2, 1]])
    received = {"text": jnp.ones((2, 6)), "image": jnp.asarray(image, jnp.float32)}
    state = {STATE: {"gate": {name: jnp.asarray([1.0, 0.5]) for name in NAMES}}}
    chosen = choose(choice, state, received)
    np.testing.assert_array_equal(
        chosen["image"].selection.index_BC, [[1, 3, 5], [0, 1, 2]]
    )
    # Text stands below its threshold of two.
    assert not chosen["text"].kept_BT.any()
    for name in NAMES:
        np.testing.assert_array_equal(chosen[name].weight_BT, 1.0)
    with pytest.raises(ValueError, match="attention they receive, but none was given"):
        choose(choice, state)


def test_a_choice_without_its_router_or_with_nothing_to_keep_is_refused():
    with pytest.raises(ValueError, match="linear scorer but no router"):
        initialised(TokenChoice(Route("task", 0.5), NAMES, WIDTH))
    with pytest.raises(ValueError, match=r"keep_ratio 0, .* pass the layer by"):
        initialised(make_choice(Route("task", 0.0), NAMES))
