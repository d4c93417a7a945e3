"""Routed models with thresholds that mean something, and rows run token by token."""

import dataclasses
import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from tests.models.tiny_model import QUICK_TO_COMPILE, random_variables, routed_in
from unimod_jax.generation import BoundModel
from unimod_jax.layout import TokenGroup
from unimod_jax.models import (
    Caches,
    GroupOutput,
    ModelSpec,
    UnifiedModel,
)

ROUTED_TASKS = ("text_to_image", "image_to_text", "interleaved")


def routing(rule="following_threshold", layers=(0, 1), keep_ratio=0.5, **choices):
    """Both layers of a tiny model keep half of their tokens."""
    return routed_in(
        layers, ROUTED_TASKS, keep_ratio=keep_ratio, causal_rule=rule, **choices
    )


def bound_model(spec: ModelSpec, group: TokenGroup, seed: int = 0) -> BoundModel:
    """A random model; its thresholds' initial values keep about half of random scores.

    Args:
      spec: the model.
      group: rows of the task it is to run.
      seed: of its variables.
    """
    variables = random_variables(spec, {group.layout.task: group}, seed)
    return BoundModel(UnifiedModel(spec), variables)


def with_thresholds(bound: BoundModel, value: float) -> BoundModel:
    """The same model with another threshold everywhere."""

    def replaced(path, leaf):
        if "key" in jax.tree_util.keystr(path):
            return leaf
        return jnp.broadcast_to(jnp.asarray([value, 1.0], leaf.dtype), leaf.shape)

    state = jax.tree_util.tree_map_with_path(replaced, bound.variables["router_state"])
    return dataclasses.replace(
        bound, variables={**bound.variables, "router_state": state}
    )


def first_positions(group: TokenGroup, count: int) -> TokenGroup:
    """The group with empty slots from a position on."""
    streams = {}
    for name, stream in group.streams.items():
        held_BT = (stream.position_BT >= 0) & (stream.position_BT < count)
        streams[name] = dataclasses.replace(
            stream,
            position_BT=jnp.where(held_BT, stream.position_BT, -1),
            window_end_BT=jnp.where(held_BT, stream.window_end_BT, 0),
        )
    return dataclasses.replace(group, streams=streams)


def one_position(group: TokenGroup, position: jax.Array) -> TokenGroup:
    """One slot per stream: the token at a position, or nothing."""
    streams = {}
    for name, stream in group.streams.items():
        slot_B1 = jnp.argmax(stream.position_BT == position, axis=1)[:, None]
        one = jax.tree.map(
            lambda x, slot_B1=slot_B1: jnp.take_along_axis(x, slot_B1, axis=1), stream
        )
        held_B1 = one.position_BT == position
        streams[name] = dataclasses.replace(
            one,
            position_BT=jnp.where(held_B1, one.position_BT, -1),
            window_end_BT=jnp.where(held_B1, one.window_end_BT, 0),
        )
    return dataclasses.replace(group, streams=streams)


def logits_at(group: TokenGroup, output: GroupOutput, position: jax.Array) -> jax.Array:
    """Logits of the tokens at a position, zeros where none is read; [B, V]."""
    total = 0.0
    for name, logits_BTV in output.logits.items():
        here_BT1 = (group.streams[name].position_BT == position)[..., None]
        total += jnp.sum(logits_BTV * here_BT1.astype(jnp.float32), axis=1)
    return total


@functools.partial(jax.jit, compiler_options=QUICK_TO_COMPILE)
def run_whole(bound: BoundModel, group: TokenGroup):
    """(logits of every position [T, B, V], reports) of the pass over whole rows."""
    task = group.layout.task
    outputs, reports = bound.model.apply(bound.variables, {task: group})
    positions = jnp.arange(group.layout.row_length, dtype=jnp.int32)
    read = jax.vmap(lambda position: logits_at(group, outputs[task], position))
    return read(positions), reports


@functools.partial(jax.jit, static_argnames="prefix", compiler_options=QUICK_TO_COMPILE)
def run_token_by_token(
    bound: BoundModel, group: TokenGroup, prefix: int = 0
) -> tuple[jax.Array, Caches]:
    """(logits of every position [T, B, V], caches); a prefix is run at once."""
    caches = bound.empty_caches(group.layout, group.num_rows)
    positions = jnp.arange(group.layout.row_length, dtype=jnp.int32)
    parts = []
    if prefix:
        start = first_positions(group, prefix)
        output, caches = bound.extend(start, caches)
        read = jax.vmap(lambda position: logits_at(start, output, position))
        parts.append(read(positions[:prefix]))

    def step(caches, position):
        one = one_position(group, position)
        output, caches = bound.extend(one, caches)
        return caches, logits_at(one, output, position)

    caches, logits_TBV = jax.lax.scan(step, caches, positions[prefix:])
    return jnp.concatenate([*parts, logits_TBV]), caches


def next_logits(bound: BoundModel, group: TokenGroup) -> np.ndarray:
    """Logits after each row's last token, by a pass over whole rows; [B, V]."""
    logits_TBV = np.asarray(run_whole(bound, group)[0])
    ends = [np.max(s.position_BT, axis=1) for s in group.streams.values()]
    return logits_TBV[np.max(ends, axis=0), np.arange(group.num_rows)]


def with_head_bias(bound: BoundModel, bias: Mapping[int, float]) -> BoundModel:
    """The same model, which likes some ids better; its config must have biases."""
    params = dict(bound.variables["params"])
    head = dict(params["vocabulary_head"])
    for token_id, value in bias.items():
        head["bias"] = head["bias"].at[token_id].set(value)
    params["vocabulary_head"] = head
    return dataclasses.replace(bound, variables={**bound.variables, "params": params})
