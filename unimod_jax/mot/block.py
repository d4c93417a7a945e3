"""The one transformer block: pre-norm attention and feed-forward over towers.

It returns its *delta*, what it adds to the residual stream, so that whoever calls it
decides what to do with it: a dense layer adds it, a routed layer weights and scatters
it.
"""

import dataclasses

import jax
from flax import linen as nn

from unimod_jax.layout import AttentionGeometry
from unimod_jax.mot.attention import global_attention
from unimod_jax.mot.feed_forward import FeedForward
from unimod_jax.mot.towers import Streams, TowerLinear, TowerNorm
from unimod_jax.mot.untying_map import UntyingMap


@dataclasses.dataclass(frozen=True)
class BlockConfig:
    """Sizes of one block.

    Attributes:
      width: D.
      num_heads: H.
      num_kv_heads: G, dividing H.
      head_dim: E, even.
      feed_forward_hidden: F.
      norm_epsilon: of every RMS norm.
      residual_scale: variance scale of the two projections that write to the residual
        stream; 1 / (2 * layers) keeps its variance independent of depth (GPT-2).
    """

    width: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    feed_forward_hidden: int
    norm_epsilon: float = 1e-5
    residual_scale: float = 1.0


class TransformerBlock(nn.Module):
    """h = attention(norm(x)); delta = h + feed_forward(norm(x + h))."""

    config: BlockConfig
    untying: UntyingMap

    def setup(self) -> None:
        """Makes one linear or norm per component, each with its own tower map."""
        c, towers_of = self.config, self.untying.towers_of
        query_width, kv_width = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
        kv_shape, kv_axes = (c.width, kv_width), ("embed", "kv_heads")
        self.attention_norm = TowerNorm(
            towers_of("attention_norm"), c.width, epsilon=c.norm_epsilon
        )
        self.query = TowerLinear(
            towers_of("query"), (c.width, query_width), ("embed", "heads")
        )
        self.key = TowerLinear(towers_of("key"), kv_shape, kv_axes)
        self.value = TowerLinear(towers_of("value"), kv_shape, kv_axes)
        qk_towers = towers_of("qk_norm")
        self.query_norm = TowerNorm(qk_towers, c.head_dim, epsilon=c.norm_epsilon)
        self.key_norm = TowerNorm(qk_towers, c.head_dim, epsilon=c.norm_epsilon)
        self.output = TowerLinear(
            towers_of("output"),
            (query_width, c.width),
            ("heads", "embed"),
            c.residual_scale,
        )
        self.feed_forward_norm = TowerNorm(
            towers_of("feed_forward_norm"), c.width, epsilon=c.norm_epsilon
        )
        self.feed_forward = FeedForward(
            towers_of("feed_forward"), c.width, c.feed_forward_hidden, c.residual_scale
        )

    def __call__(
        self, streams: Streams, geometry: dict[str, AttentionGeometry]
    ) -> Streams:
        """What the block adds to each stream.

        Args:
          streams: stream -> [B, T, D].
          geometry: stream -> positions, windows and phases of the same tokens.

        Returns:
          stream -> [B, T, D], the delta.
        """
        attended = self._attention(self.attention_norm(streams), geometry)
        middle = {name: x + attended[name] for name, x in streams.items()}
        fed = self.feed_forward(self.feed_forward_norm(middle))
        return {name: attended[name] + fed[name] for name in streams}

    def _attention(
        self, streams: Streams, geometry: dict[str, AttentionGeometry]
    ) -> Streams:
        c = self.config
        query = _split_heads(self.query(streams), c.num_heads)
        key = _split_heads(self.key(streams), c.num_kv_heads)
        value = _split_heads(self.value(streams), c.num_kv_heads)
        attended = global_attention(
            self.query_norm(query), self.key_norm(key), value, geometry
        )
        return self.output(
            {name: x.reshape(*x.shape[:2], -1) for name, x in attended.items()}
        )


def _split_heads(streams: Streams, num_heads: int) -> dict[str, jax.Array]:
    return {name: x.reshape(*x.shape[:2], num_heads, -1) for name, x in streams.items()}
