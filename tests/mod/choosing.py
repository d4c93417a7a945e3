"""A choice over one causal stream, with parameters that prefer some tokens."""

import functools

import jax
import numpy as np
from flax import linen as nn

from tests.mod.toy_block import WIDTH, causal_geometry
from unimod_jax.mod import Route, TaskRouter, TokenChoice
from unimod_jax.mod.causal_gate import STATE

ROWS, TOKENS = 3, 12
WITHOUT_LOOKING_AHEAD = ("following_threshold", "trained_threshold", "predictor")


def random_route(rule: str = "following_threshold", keep_ratio: float = 0.5) -> Route:
    """A route with the random scorer."""
    return Route(
        "task", keep_ratio, scorer="random", score_weight="one", causal_rule=rule
    )


def make_choice(route: Route, streams: tuple[str, ...] = ("text",)) -> TokenChoice:
    """A choice with a router of its own where the route has one."""
    router = TaskRouter(streams, WIDTH) if route.scorer == "linear" else None
    return TokenChoice(route, streams, WIDTH, router)


def tokens(seed: int = 0, rows: int = ROWS, count: int = TOKENS) -> jax.Array:
    """Random hidden states [B, T, D]."""
    return jax.random.normal(jax.random.key(seed), (rows, count, WIDTH))


def full_rows(rows: int = ROWS, count: int = TOKENS) -> np.ndarray:
    """Positions of rows without empty slots."""
    return np.tile(np.arange(count), (rows, 1))


def fresh(choice: TokenChoice) -> dict:
    """Initial variables: a router of zeros, empty gates."""
    return nn.unbox(
        jax.jit(_run(choice, TOKENS, "init"))(jax.random.key(0), tokens(), full_rows())
    )


def preferring(variables: dict, seed: int = 3) -> dict:
    """The same variables with random parameters."""
    leaves, tree = jax.tree.flatten(variables.get("params", {}))
    keys = jax.random.split(jax.random.key(seed), max(len(leaves), 1))
    drawn = [
        jax.random.normal(key, leaf.shape)
        for key, leaf in zip(keys, leaves, strict=False)
    ]
    return variables | {"params": jax.tree.unflatten(tree, drawn)}


@functools.cache
def inference(choice: TokenChoice, num_slots: int = TOKENS):
    """Jitted (variables, x, position[, room]) -> Chosen, with nothing mutable."""
    return jax.jit(_run(choice, num_slots, "apply"))


@functools.cache
def training(choice: TokenChoice, num_slots: int = TOKENS):
    """Jitted (variables, x, position) -> (Chosen, variables after the step)."""

    def step(variables, x_BTD, position_BT):
        run = _run(choice, num_slots, "apply", mutable=[STATE])
        chosen, changed = run(variables, x_BTD, position_BT)
        return chosen, variables | changed

    return jax.jit(step)


def calibrated(choice: TokenChoice, num_batches: int = 8) -> dict:
    """Random parameters, and thresholds that fit them."""
    variables = preferring(fresh(choice))
    for seed in range(num_batches):
        variables = training(choice)(variables, tokens(seed), full_rows())[1]
    return variables


def _run(choice: TokenChoice, num_slots: int, method: str, **options):
    def run(first, x_BTD, position_BT, room_B=None):
        result = getattr(choice, method)(
            first,
            {"text": x_BTD},
            {"text": causal_geometry(position_BT)},
            causal={"text": True},
            num_slots={"text": num_slots},
            room=None if room_B is None else {"text": room_B},
            **options,
        )
        if method == "init":
            return result
        return (result[0]["text"], result[1]) if options else result["text"]

    return run
