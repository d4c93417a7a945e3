"""The benchmark's transformer as one would write it in PyTorch for speed.

Pre-norm blocks of fused projections, `scaled_dot_product_attention` with its causal
flag, and tokens of all rows flattened to [N, D] wherever a row does not matter. What
the two papers add is written in the way of their public code: towers read their tokens
by index (Mixture-of-Transformers, 2411.04996, Algorithm 1), and a routed layer reads
the best of each row and adds what it made of them (Mixture-of-Depths, 2404.02258).

Legend: N = B * T tokens of all rows, M tokens of one modality; the rest is that of
`unimod_jax.layout`. Parameters are float32; matrix products have the dtype of the
tokens, by explicit casts.
"""

import dataclasses
from collections.abc import Mapping

import torch  # pyright: ignore[reportMissingImports]
from torch import Tensor, nn  # pyright: ignore[reportMissingImports]
from torch.nn import functional as F  # pyright: ignore[reportMissingImports]

HEAD_NORM_EPSILON = 1e-5
ROUTER_NORM_EPSILON = 1e-6

JITTER = 1e-3
GOLDEN = 2654435769
"""The tie-break of `unimod_jax.mod.task_router`: routers start with equal scores."""

NO_TARGET = -100
"""What `cross_entropy` ignores."""


@dataclasses.dataclass(frozen=True)
class PeerConfig:
    """Sizes of the model; read from JSON.

    Attributes:
      width: D.
      num_layers: blocks.
      num_heads, head_dim: H and E.
      hidden: F.
      vocabulary_size: V.
      norm_epsilon: of the block's norms and the final one.
      rotary_theta: base of the rotary wavelengths.
      towers: names of the towers, one per modality index; one name for all is dense.
      routed_layers: layers that keep `num_kept` tokens of each row.
      num_kept: C.
      compute_dtype: "float32" or "bfloat16".
    """

    width: int
    num_layers: int
    num_heads: int
    head_dim: int
    hidden: int
    vocabulary_size: int
    norm_epsilon: float
    rotary_theta: float
    towers: tuple[str, ...]
    routed_layers: tuple[int, ...]
    num_kept: int
    compute_dtype: str


@dataclasses.dataclass(frozen=True)
class Batch:
    """Full causal rows.

    Attributes:
      token_BT: int64 ids.
      target_N: int64 ids of what each token predicts, or NO_TARGET.
      members: tower -> the tokens it reads: booleans [N], or int64 indices [M] into N.
      phase_BT2R: float32 cosines and sines of the rotary angles.
      jitter_BT: float32 tie-break of equal scores.
    """

    token_BT: Tensor
    target_N: Tensor
    members: dict[str, Tensor]
    phase_BT2R: Tensor
    jitter_BT: Tensor

    @property
    def where(self) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """What a layer reads besides its tokens."""
        return self.phase_BT2R, self.jitter_BT, self.members


def make_batch(
    arrays: Mapping[str, Tensor], config: PeerConfig, *, as_indices: bool
) -> Batch:
    """What every step reads, made once.

    Args:
      arrays: "token_BT", "target_BT" and "modality_BT", int64.
      config: of the model.
      as_indices: whether modalities are lists of indices instead of boolean masks.
    """
    token_BT, modality_N = arrays["token_BT"], arrays["modality_BT"].flatten()
    masks = {name: modality_N == m for m, name in enumerate(config.towers)}
    position_T = torch.arange(token_BT.shape[1], device=token_BT.device)
    pairs_R = torch.arange(config.head_dim // 2, device=token_BT.device)
    frequency_R = config.rotary_theta ** (-2.0 * pairs_R.float() / config.head_dim)
    angle_TR = position_T.float()[:, None] * frequency_R
    phase_T2R = torch.stack([angle_TR.cos(), angle_TR.sin()], dim=1)
    turned_T = (position_T * GOLDEN) % 2**32 >> 8
    return Batch(
        token_BT=token_BT,
        target_N=arrays["target_BT"].flatten(),
        members={n: m.nonzero()[:, 0] for n, m in masks.items()}
        if as_indices
        else masks,
        phase_BT2R=phase_T2R.expand(token_BT.shape[0], -1, -1, -1),
        jitter_BT=(turned_T.float() * (JITTER / 2**24)).expand(token_BT.shape),
    )


class Linear(nn.Module):
    """A projection without bias, its weight cast to the dtype of the tokens."""

    def __init__(self, width: int, result: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(result, width))

    def forward(self, x: Tensor) -> Tensor:
        """Maps [..., D] to [..., F]."""
        return F.linear(x, self.weight.to(x.dtype))


class RMSNorm(nn.Module):
    """Torch's own root-mean-square norm, its weight cast to the dtype of the tokens."""

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.weight, self.epsilon = nn.Parameter(torch.empty(width)), epsilon

    def forward(self, x: Tensor) -> Tensor:
        """Normalises [..., D]."""
        return F.rms_norm(x, x.shape[-1:], self.weight.to(x.dtype), self.epsilon)


class HeadNorm(nn.Module):
    """Layer norm of each head, with weights of its own (Chameleon's query-key norm)."""

    def __init__(self, heads: int, head_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(heads, head_dim))
        self.bias = nn.Parameter(torch.empty(heads, head_dim))

    def forward(self, x_NHE: Tensor) -> Tensor:
        """Normalises [N, H, E]."""
        normed = F.layer_norm(x_NHE.float(), x_NHE.shape[-1:], eps=HEAD_NORM_EPSILON)
        return (normed * self.weight + self.bias).to(x_NHE.dtype)


class Tower(nn.Module):
    """Everything of a block that happens to one token alone."""

    def __init__(self, config: PeerConfig) -> None:
        super().__init__()
        c, inner = config, config.num_heads * config.head_dim
        self.heads = (c.num_heads, c.head_dim)
        self.attention_norm = RMSNorm(c.width, c.norm_epsilon)
        self.query_key_value = Linear(c.width, 3 * inner)
        self.query_norm = HeadNorm(*self.heads)
        self.key_norm = HeadNorm(*self.heads)
        self.output = Linear(inner, c.width)
        self.feed_forward_norm = RMSNorm(c.width, c.norm_epsilon)
        self.gate_up = Linear(c.width, 2 * c.hidden)
        self.down = Linear(c.hidden, c.width)

    def before_attention(self, x_ND: Tensor) -> Tensor:
        """Queries, keys and values, normalised but not turned: [N, 3, H, E]."""
        projected = self.query_key_value(self.attention_norm(x_ND))
        query, key, value = projected.unflatten(-1, (3, *self.heads)).unbind(1)
        return torch.stack([self.query_norm(query), self.key_norm(key), value], dim=1)

    def after_attention(self, x_ND: Tensor, attended: Tensor) -> Tensor:
        """What the block adds: attention's branch and the feed-forward network's."""
        mixed = self.output(attended)
        gate, up = self.gate_up(self.feed_forward_norm(x_ND + mixed)).chunk(2, dim=-1)
        return mixed + self.down(F.silu(gate) * up)


class Block(nn.Module):
    """One block; returns what it adds to its tokens."""

    def __init__(self, config: PeerConfig) -> None:
        super().__init__()
        names = dict.fromkeys(config.towers)
        self.towers = nn.ModuleDict({name: Tower(config) for name in names})

    def forward(
        self, x_BTD: Tensor, phase_BT2R: Tensor, members: dict[str, Tensor]
    ) -> Tensor:
        """Maps [B, T, D] to [B, T, D]; every token sees itself and those before it."""
        x_ND = x_BTD.flatten(0, 1)
        if len(self.towers) == 1:
            (tower,) = self.towers.values()
            packed = tower.before_attention(x_ND)
            attended = _attend(packed, phase_BT2R)
            return tower.after_attention(x_ND, attended).view_as(x_BTD)
        parts = {name: x_ND[members[name]] for name in self.towers}
        packed = _merged(
            {n: self.towers[n].before_attention(x) for n, x in parts.items()}, members
        )
        attended = _attend(packed, phase_BT2R)
        deltas = {
            name: self.towers[name].after_attention(x, attended[members[name]])
            for name, x in parts.items()
        }
        return _merged(deltas, members).view_as(x_BTD)


def _merged(parts: dict[str, Tensor], members: dict[str, Tensor]) -> Tensor:
    """Puts the modalities' results back where their tokens stand."""
    any_part = next(iter(parts.values()))
    num_tokens = sum(part.shape[0] for part in parts.values())
    merged = any_part.new_empty(num_tokens, *any_part.shape[1:])
    for name, part in parts.items():
        merged[members[name]] = part
    return merged


def _attend(packed_N3HE: Tensor, phase_BT2R: Tensor) -> Tensor:
    """Causal attention; [N, H * E]."""
    rows, length = phase_BT2R.shape[:2]
    query, key, value = packed_N3HE.unflatten(0, (rows, length)).unbind(2)
    cosine, sine = phase_BT2R.to(packed_N3HE.dtype).unsqueeze(3).unbind(2)
    out_BHTE = F.scaled_dot_product_attention(
        _turned(query, cosine, sine).transpose(1, 2),
        _turned(key, cosine, sine).transpose(1, 2),
        value.transpose(1, 2),
        is_causal=True,
    )
    return out_BHTE.transpose(1, 2).reshape(rows * length, -1)


def _turned(x_BTHE: Tensor, cosine_BT1R: Tensor, sine_BT1R: Tensor) -> Tensor:
    """Rotary positions in the half-split form."""
    first, second = x_BTHE.chunk(2, dim=-1)
    turned = (
        first * cosine_BT1R - second * sine_BT1R,
        second * cosine_BT1R + first * sine_BT1R,
    )
    return torch.cat(turned, dim=-1)


class Layer(nn.Module):
    """A block on all tokens, or on the best of each row by a linear router."""

    def __init__(self, config: PeerConfig, routed: bool) -> None:
        super().__init__()
        self.block, self.num_kept = Block(config), config.num_kept
        self.router = nn.Parameter(torch.empty(config.width)) if routed else None

    def forward(
        self,
        x_BTD: Tensor,
        phase_BT2R: Tensor,
        jitter_BT: Tensor,
        members: dict[str, Tensor],
    ) -> Tensor:
        """Maps [B, T, D] to [B, T, D]."""
        if self.router is None:
            return x_BTD + self.block(x_BTD, phase_BT2R, members)
        rows, length, width = x_BTD.shape
        normed = F.rms_norm(x_BTD.float(), (width,), eps=ROUTER_NORM_EPSILON)
        score_BT = normed @ self.router
        ranked_BT = score_BT.detach() + jitter_BT
        index_BC = ranked_BT.topk(self.num_kept, sorted=False).indices.sort().values
        row_B1 = torch.arange(rows, device=x_BTD.device)[:, None]
        index_K = (index_BC + row_B1 * length).flatten()
        x_ND = x_BTD.flatten(0, 1)
        kept_BCD = x_ND.index_select(0, index_K).view(rows, -1, width)
        delta_BCD = self.block(kept_BCD, phase_BT2R[row_B1, index_BC], {})
        weight_BC = 1.0 + 0.2 * score_BT.gather(1, index_BC).tanh()
        weighted_BCD = delta_BCD * weight_BC[..., None].to(delta_BCD.dtype)
        return x_ND.index_add(0, index_K, weighted_BCD.flatten(0, 1)).view_as(x_BTD)


class Transformer(nn.Module):
    """The whole model, to its loss."""

    def __init__(self, config: PeerConfig) -> None:
        super().__init__()
        c = self.config = config
        self.embedding = nn.Embedding(c.vocabulary_size, c.width)
        self.layers = nn.ModuleList(
            Layer(c, number in c.routed_layers) for number in range(c.num_layers)
        )
        self.final_norm = nn.ModuleDict(
            {name: RMSNorm(c.width, c.norm_epsilon) for name in dict.fromkeys(c.towers)}
        )
        self.head = Linear(c.width, c.vocabulary_size)

    def forward(self, batch: Batch) -> Tensor:
        """The mean cross-entropy of the batch's targets."""
        x_BTD = self.enter(batch)
        for layer in self.layers:
            x_BTD = layer(x_BTD, *batch.where)
        return self.loss(x_BTD, batch)

    def enter(self, batch: Batch) -> Tensor:
        """Embeds the tokens; [B, T, D]."""
        dtype = getattr(torch, self.config.compute_dtype)
        return self.embedding(batch.token_BT).to(dtype)

    def loss(self, x_BTD: Tensor, batch: Batch) -> Tensor:
        """The mean cross-entropy of what the last layer said."""
        logits_NV = self.head(self._normed(x_BTD.flatten(0, 1), batch.members))
        return F.cross_entropy(
            logits_NV.float(), batch.target_N, ignore_index=NO_TARGET
        )

    def _normed(self, x_ND: Tensor, members: dict[str, Tensor]) -> Tensor:
        if len(self.final_norm) == 1:
            (norm,) = self.final_norm.values()
            return norm(x_ND)
        parts = {n: norm(x_ND[members[n]]) for n, norm in self.final_norm.items()}
        return _merged(parts, members)
