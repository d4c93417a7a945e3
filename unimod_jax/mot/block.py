"""The one transformer block: attention and feed-forward over towers, in three orders.

    pre       h = attend(norm(x));  f = feed(norm(x + h))
    swin      h = norm(attend(x));  f = norm(feed(x + h))
    parallel  n = norm(x);          h = attend(n);  f = feed(n)

It returns its *delta* h + f, what it adds to the residual stream, so that whoever calls
it decides what to do with it: a dense layer adds it, a routed layer weights and
scatters it.
"""

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from unimod_jax.layout import SequenceOrder, Stream
from unimod_jax.mot.attention import (
    Geometry,
    global_attention,
    join_keys,
    received_attention,
    token_shares,
    turned,
)
from unimod_jax.mot.block_config import NO_EXPERTS, BlockConfig, Experts
from unimod_jax.mot.dropout import dropped_out
from unimod_jax.mot.expert_choice import ExpertChoice
from unimod_jax.mot.feed_forward import FeedForward
from unimod_jax.mot.kv_cache import LayerCache
from unimod_jax.mot.tensor_parallel import apart, together
from unimod_jax.mot.towers import Linear, Norm, Streams, Towers
from unimod_jax.mot.untying_map import UntyingMap
from unimod_jax.parallel import num_parts

QK_NORM_EPSILON = 1e-5
"""Fixed in Hugging Face's Chameleon; Phi-1.5's `layer_norm_eps` is the same."""


class TransformerBlock(nn.Module):
    """Delta of attention and feed-forward, each component with its own towers.

    With an rng stream named "dropout" (and rates above zero) it drops; without, never.

    Attributes:
      config: sizes and kinds.
      untying: this layer's map.
      streams: how tokens are stored, from `common_streams` of all layers.
      experts: which feed-forward towers are experts.
    """

    config: BlockConfig
    untying: UntyingMap
    streams: tuple[Stream, ...]
    experts: Experts = NO_EXPERTS

    def setup(self) -> None:
        """Makes each component; what the order does not call has no parameters."""
        c = self.config
        query_width, kv_width = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
        linear = functools.partial(Linear, bias=c.biases)
        norm = functools.partial(Norm, c.norm, c.width, c.norm_epsilon)
        key_or_value = functools.partial(
            linear, (c.width, kv_width), ("embed", "kv_heads")
        )
        self.attention_norm = self._towers("attention_norm", norm)
        self.query = self._towers(
            "query",
            functools.partial(linear, (c.width, query_width), ("embed", "heads")),
        )
        self.key = self._towers("key", key_or_value)
        self.value = self._towers("value", key_or_value)
        self.query_norm = self._towers("qk_norm", _head_norm(c, c.num_heads))
        self.key_norm = self._towers("qk_norm", _head_norm(c, c.num_kv_heads))
        self.output = self._towers(
            "output",
            functools.partial(
                linear, (query_width, c.width), ("heads", "embed"), c.residual_scale
            ),
        )
        self.feed_forward_norm = self._towers("feed_forward_norm", norm)
        self.feed_forward = self._towers(
            "feed_forward", functools.partial(_feed_forward, c, self.experts)
        )

    def __call__(
        self,
        streams: Streams,
        geometry: Geometry,
        cache: LayerCache | None = None,
        order: SequenceOrder | None = None,
    ) -> tuple[Streams, LayerCache | None]:
        """What the block adds to each stream.

        Args:
          streams: stream -> [B, T, D]; any of the block's streams.
          geometry: stream -> positions, windows and phases of the same tokens.
          cache: keys and values of earlier tokens. The new tokens are appended, and
            see whatever their windows show them of it; None is a pass on its own.
          order: of these tokens, for attention to read them in; None reads them as they
            are stored, and so does a pass with a cache, whatever the order.

        Returns:
          stream -> [B, T, D], the delta; and the cache after these tokens, or None.
        """
        norms = _ORDERS[self.config.norm_order]
        read = norms.attention_input(self, streams)
        mixed, cache = self.attend(read, geometry, cache, order)
        valid = {name: geometry[name].position_BT >= 0 for name in streams}
        return norms.delta(self, streams, read, mixed, valid), cache

    def attend(
        self,
        streams: Streams,
        geometry: Geometry,
        cache: LayerCache | None,
        order: SequenceOrder | None,
    ) -> tuple[Streams, LayerCache | None]:
        """The attention branch: projections in, global attention, projection out."""
        streams = self._apart_by_heads(streams)
        query, key = self._query_and_key(streams, geometry)
        value = _split_heads(self.value(streams), self.config.num_kv_heads)
        shares = token_shares(key) if order is None and cache is None else 1
        if cache is None:
            keys = join_keys(key, value, geometry, shares)
        else:
            cache = cache.append(key, value, geometry)
            keys, order = cache.keys, None
        rate, seed = self.config.attention_dropout, None
        if self._drops(rate):
            seed = jax.random.bits(self.make_rng("dropout"), (), jnp.uint32)
        attended = global_attention(
            query,
            keys,
            geometry,
            order=order,
            shares=shares,
            dropout_rate=rate,
            dropout_seed=seed,
        )
        flat = {name: x.reshape(*x.shape[:2], -1) for name, x in attended.items()}
        return together(self.output(flat), "heads"), cache

    def feed(self, streams: Streams, valid: Streams) -> Streams:
        """The feed-forward branch; valid marks slots that are not empty, [B, T]."""
        copies = apart(streams, "mlp", self.config.hidden)
        return together(self.feed_forward(streams, valid, copies), "mlp")

    def attention_received(self, streams: Streams, geometry: Geometry) -> Streams:
        """Attention that each token receives here: stream -> float32 [B, T].

        The mean over heads and over the queries that may see a token (2502.06474,
        analysis A); see `received_attention`. Call it as
        `block.apply(variables, streams, geometry, method="attention_received")`.
        """
        norms = _ORDERS[self.config.norm_order]
        read = norms.attention_input(self, streams)
        query, key = self._query_and_key(read, geometry)
        return received_attention(query, key, geometry)

    def drop(self, branch: Streams) -> Streams:
        """Residual dropout of what a branch is about to add."""
        rate = self.config.residual_dropout
        if not self._drops(rate):
            return branch
        return {
            name: dropped_out(x, rate, self.make_rng("dropout"))
            for name, x in branch.items()
        }

    def _drops(self, rate: float) -> bool:
        return rate > 0.0 and self.has_rng("dropout")

    def _apart_by_heads(self, streams: Streams) -> Streams:
        """Copies of the tokens for queries, keys and values, if all are cut alike."""
        c = self.config
        width, kv_width = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
        if num_parts("heads", width) != num_parts("kv_heads", kv_width):
            return streams
        return apart(streams, "heads", width)

    def _query_and_key(
        self, streams: Streams, geometry: Geometry
    ) -> tuple[Streams, Streams]:
        """Split into heads, normalised, then rotated."""
        query = _split_heads(self.query(streams), self.config.num_heads)
        key = _split_heads(self.key(streams), self.config.num_kv_heads)
        return (
            turned(self.query_norm(query), geometry),
            turned(self.key_norm(key), geometry),
        )

    def _towers(self, component: str, build: Callable[..., nn.Module]) -> Towers:
        return Towers(self.untying.towers_of(component, self.streams), build)


class _Order(NamedTuple):
    """Where the norms stand.

    Attributes:
      attention_input: (block, x) -> what attention reads.
      delta: (block, x, what attention read, what it said, valid slots) -> what the
        block adds to x.
    """

    attention_input: Callable[[TransformerBlock, Streams], Streams]
    delta: Callable[[TransformerBlock, Streams, Streams, Streams, Streams], Streams]


def _normed(block: TransformerBlock, x: Streams) -> Streams:
    return block.attention_norm(x)


def _as_it_is(block: TransformerBlock, x: Streams) -> Streams:
    del block
    return x


def _pre(
    block: TransformerBlock, x: Streams, read: Streams, mixed: Streams, valid: Streams
) -> Streams:
    del read
    attended = block.drop(mixed)
    fed = block.feed(block.feed_forward_norm(_sum(x, attended)), valid)
    return _sum(attended, block.drop(fed))


def _swin(
    block: TransformerBlock, x: Streams, read: Streams, mixed: Streams, valid: Streams
) -> Streams:
    del read
    attended = block.drop(block.attention_norm(mixed))
    fed = block.feed(_sum(x, attended), valid)
    return _sum(attended, block.drop(block.feed_forward_norm(fed)))


def _parallel(
    block: TransformerBlock, x: Streams, read: Streams, mixed: Streams, valid: Streams
) -> Streams:
    del x
    return _sum(block.drop(mixed), block.drop(block.feed(read, valid)))


_ORDERS = {
    "pre": _Order(_normed, _pre),
    "swin": _Order(_as_it_is, _swin),
    "parallel": _Order(_normed, _parallel),
}


def _sum(first: Streams, second: Streams) -> Streams:
    return {name: x + second[name] for name, x in first.items()}


def _split_heads(streams: Streams, num_heads: int) -> Streams:
    return {name: x.reshape(*x.shape[:2], num_heads, -1) for name, x in streams.items()}


def _head_norm(config: BlockConfig, num_heads: int) -> Callable[..., Norm]:
    """The query or key norm of one tower."""
    kinds: Mapping[str, tuple] = {
        "none": ("none", None),
        "rms": ("rms", None),
        "layer": ("layer", None),
        "layer_per_head": ("layer", num_heads),
    }
    kind, heads = kinds[config.qk_norm]
    return functools.partial(Norm, kind, config.head_dim, QK_NORM_EPSILON, heads)


def _feed_forward(config: BlockConfig, experts: Experts, name: str) -> nn.Module:
    """The feed-forward network of one tower: experts where they are asked for."""
    c = config
    sizes = (c.feed_forward, c.width, c.hidden)
    more = {"output_scale": c.residual_scale, "biases": c.biases, "name": name}
    if name in experts.expert_towers:
        groups = (experts.num_experts, experts.rows_per_expert_group)
        return ExpertChoice(*sizes, *groups, **more)
    return FeedForward(*sizes, **more)
