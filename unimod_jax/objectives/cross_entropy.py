"""Cross-entropy over a large vocabulary, without ever storing its logits.

Going forward, some thousand ids at a time, each token keeps its largest logit, the sum
of exponentials relative to it, and the logit of its target. Going backward, each
chunk's logits are computed again and their softmax is known at once, from the
normaliser. That is four products where three would do, and the memory of one chunk.

Chunks are of ids and not of tokens, so that each column of the kernel's gradient, which
takes gigabytes as well, is written once and never added to; what adds up is the hidden
states' gradient, in float32. Where all logits fit into one chunk they are stored, and
nothing is computed twice.

Letters of this file: N tokens of all rows, M parts that a mesh cuts the vocabulary
into, V ids of a part, U ids of a chunk, of all parts.
"""

import dataclasses
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from unimod_jax.models import VocabularyMap
from unimod_jax.parallel import constrain, num_parts

_STORED_BYTES = 64 * 2**20
"""Up to here a device stores the float32 logits of a task group: to compute them again
is a third more products, for memory that large vocabularies do not feel."""

_CHUNK_IDS = 8192
"""At most so many ids are a chunk. Each chunk reads and writes the gradient of the
hidden states, 8 N D bytes beside its 6 N D U FLOPs: at 8,192 ids 3% of the time on an
H200 and 4% on a TPU v5e by their data sheets. Emu3's row of 4,300 tokens has 141 MB of
such logits. On CPU all sizes from 3,712 to 14,720 ids took the same time."""

_LANES = 128
"""Chunks are whole vectors of a TPU, and whole tiles of any chip's matrix units."""

_TOKENS = ("batch", "token")
"""What tokens of all rows, N, are cut over."""

_LOWEST = float(jnp.finfo(jnp.float32).min)
"""Beside any logit its exponential is 0."""


@dataclasses.dataclass(frozen=True)
class VocabularyChunks:
    """How a vocabulary is gone through; static.

    Attributes:
      parts: M.
      part_size: V, ids of a part.
      size: ids of each part in a chunk, at most V. The last chunk ends with its part,
        and may begin among the ids of the one before: nothing is padded.
    """

    parts: int
    part_size: int
    size: int

    @property
    def count(self) -> int:
        """Chunks of a part."""
        return -(-self.part_size // self.size)

    def start(self, index: jax.Array) -> jax.Array:
        """Where a chunk begins in its part."""
        return jnp.minimum(index * self.size, self.part_size - self.size)

    def take(self, array: jax.Array, index: jax.Array) -> jax.Array:
        """A chunk of all parts of [..., M, V]; [..., U]."""
        chunk = jax.lax.dynamic_slice_in_dim(array, self.start(index), self.size, -1)
        return chunk.reshape(*array.shape[:-2], self.parts * self.size)

    def put(self, array: jax.Array, chunk: jax.Array, index: jax.Array) -> jax.Array:
        """[..., M, V] with a chunk of all parts replaced by [..., U]."""
        chunk = chunk.reshape(*array.shape[:-1], self.size)
        return jax.lax.dynamic_update_slice_in_dim(array, chunk, self.start(index), -1)

    def new_ids(self, index: jax.Array) -> jax.Array:
        """The ids of a chunk, int32 [U]; -1 for those that the one before has."""
        shape = (self.parts, self.size)
        first = jax.lax.broadcasted_iota(jnp.int32, shape, 0) * self.part_size
        place = jax.lax.broadcasted_iota(jnp.int32, shape, 1) + self.start(index)
        ids = jnp.where(place >= index * self.size, first + place, -1)
        return ids.reshape(self.parts * self.size)


def vocabulary_chunks(num_tokens: int, vocabulary_size: int) -> VocabularyChunks:
    """One chunk where its logits may be stored, else chunks of about equal sizes.

    Under a mesh (`jax.set_mesh`) each device has the logits of its own tokens, wherever
    they stand in their rows, and of its own part of the vocabulary. A chunk is taken
    from all parts at once, so that the kernel is sliced along an axis that is not cut,
    and need not be gathered for it.

    Args:
      num_tokens: tokens of all rows.
      vocabulary_size: ids.
    """
    parts = num_parts("vocab", vocabulary_size)
    devices = parts * num_parts(_TOKENS, num_tokens)
    if 4 * num_tokens * vocabulary_size <= devices * _STORED_BYTES:
        return VocabularyChunks(1, vocabulary_size, vocabulary_size)
    part_size = vocabulary_size // parts
    count = math.ceil(part_size / _CHUNK_IDS)
    size = math.ceil(part_size / (count * _LANES)) * _LANES
    return VocabularyChunks(parts, part_size, min(size, part_size))


def cross_entropy(
    hidden_BTD: jax.Array,
    head: VocabularyMap,
    target_BT: jax.Array,
    chunks: VocabularyChunks,
) -> tuple[jax.Array, jax.Array]:
    """Cross-entropy of each token's target, and the softmax's normaliser.

    Both have gradients. Products are in the dtype of the hidden states with sums in
    float32, and everything else is in float32.

    Args:
      hidden_BTD: after the final norm.
      head: kernel and bias.
      target_BT: int32 ids.
      chunks: of the head's vocabulary.

    Returns:
      (-log p(target), logsumexp of the logits), float32 [B, T].
    """
    if chunks.count == 1:
        logits_BTV = head.logits(hidden_BTD)
        log_z_BT = jax.nn.logsumexp(logits_BTV, axis=-1)
        of_target_BT1 = jnp.take_along_axis(logits_BTV, target_BT[..., None], axis=-1)
        return log_z_BT - of_target_BT1[..., 0], log_z_BT
    B, T, D = hidden_BTD.shape
    shape = (chunks.parts, chunks.part_size)
    loss_N, log_z_N = _cross_entropy(
        chunks,
        constrain(hidden_BTD.reshape(B * T, D), _TOKENS, None),
        head.kernel_DV.reshape(D, *shape),
        None if head.bias_V is None else head.bias_V.reshape(shape),
        target_BT.reshape(B * T),
    )
    return loss_N.reshape(B, T), log_z_N.reshape(B, T)


class _Seen(NamedTuple):
    """What a token keeps of the chunks it has met; float32 [N] each.

    Attributes:
      largest_N: of the logits.
      sum_N: of exp(logit - largest).
      target_N: the target's logit; 0 before its chunk.
    """

    largest_N: jax.Array
    sum_N: jax.Array
    target_N: jax.Array


class _Inputs(NamedTuple):
    """What is differentiated, and the targets."""

    hidden_ND: jax.Array
    kernel_DMV: jax.Array
    bias_MV: jax.Array | None
    target_N: jax.Array


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _cross_entropy(
    chunks: VocabularyChunks,
    hidden_ND: jax.Array,
    kernel_DMV: jax.Array,
    bias_MV: jax.Array | None,
    target_N: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    return _forward(chunks, hidden_ND, kernel_DMV, bias_MV, target_N)[0]


def _forward(
    chunks: VocabularyChunks,
    hidden_ND: jax.Array,
    kernel_DMV: jax.Array,
    bias_MV: jax.Array | None,
    target_N: jax.Array,
) -> tuple[tuple[jax.Array, jax.Array], tuple[_Inputs, jax.Array]]:
    """((loss, normaliser), (inputs, normaliser))."""
    inputs = _Inputs(hidden_ND, kernel_DMV, bias_MV, target_N)

    def step(index: jax.Array, seen: _Seen) -> _Seen:
        id_1U = chunks.new_ids(index)[None]
        logits_NU = _chunk_logits(chunks, inputs, index)
        logits_NU = jnp.where(id_1U >= 0, logits_NU, _LOWEST)
        largest_N = jnp.maximum(seen.largest_N, jnp.max(logits_NU, axis=1))
        is_target_NU = id_1U == target_N[:, None]
        return _Seen(
            largest_N,
            seen.sum_N * jnp.exp(seen.largest_N - largest_N)
            + jnp.sum(jnp.exp(logits_NU - largest_N[:, None]), axis=1),
            seen.target_N + jnp.sum(jnp.where(is_target_NU, logits_NU, 0.0), axis=1),
        )

    zeros_N = jnp.zeros(target_N.shape, jnp.float32)
    nothing = _Seen(jnp.full_like(zeros_N, _LOWEST), zeros_N, zeros_N)
    seen = jax.lax.fori_loop(0, chunks.count, step, nothing)
    log_z_N = seen.largest_N + jnp.log(seen.sum_N)
    return (log_z_N - seen.target_N, log_z_N), (inputs, log_z_N)


def _backward(
    chunks: VocabularyChunks,
    kept: tuple[_Inputs, jax.Array],
    cotangents: tuple[jax.Array, jax.Array],
) -> tuple[jax.Array, jax.Array, jax.Array | None, None]:
    """Gradients by hidden states, kernel and bias; targets have none."""
    inputs, log_z_N = kept
    by_loss_N, by_log_z_N = cotangents
    dtype = inputs.hidden_ND.dtype

    def step(count: jax.Array, gradients):
        # The last chunk comes first: where it begins among the ids of the one before it
        # writes zeros, which that one then writes over.
        index = chunks.count - 1 - count
        id_1U = chunks.new_ids(index)[None]
        share_NU = jnp.exp(_chunk_logits(chunks, inputs, index) - log_z_N[:, None])
        is_target_NU = id_1U == inputs.target_N[:, None]
        by_logits_NU = share_NU * (by_loss_N + by_log_z_N)[:, None]
        by_logits_NU -= jnp.where(is_target_NU, by_loss_N[:, None], 0.0)
        by_logits_NU = jnp.where(id_1U >= 0, by_logits_NU, 0.0)
        by_hidden_ND, by_kernel_DMV, by_bias_MV = gradients
        if by_bias_MV is not None:
            by_bias_MV = chunks.put(by_bias_MV, jnp.sum(by_logits_NU, axis=0), index)
        by_logits_NU = by_logits_NU.astype(dtype)
        kernel_DU = chunks.take(inputs.kernel_DMV, index).astype(dtype)
        by_hidden_ND += _product(by_logits_NU, kernel_DU.T)
        by_kernel_DU = _product(inputs.hidden_ND.T, by_logits_NU)
        by_kernel_DU = by_kernel_DU.astype(by_kernel_DMV.dtype)
        return by_hidden_ND, chunks.put(by_kernel_DMV, by_kernel_DU, index), by_bias_MV

    zeros_ND = jnp.zeros(inputs.hidden_ND.shape, jnp.float32)
    zeros = jax.tree.map(jnp.zeros_like, (inputs.kernel_DMV, inputs.bias_MV))
    by_hidden_ND, by_kernel_DMV, by_bias_MV = jax.lax.fori_loop(
        0, chunks.count, step, (zeros_ND, *zeros)
    )
    return by_hidden_ND.astype(dtype), by_kernel_DMV, by_bias_MV, None


_cross_entropy.defvjp(_forward, _backward)


def _chunk_logits(
    chunks: VocabularyChunks, inputs: _Inputs, index: jax.Array
) -> jax.Array:
    kernel_DU = chunks.take(inputs.kernel_DMV, index).astype(inputs.hidden_ND.dtype)
    logits_NU = _product(inputs.hidden_ND, kernel_DU)
    if inputs.bias_MV is None:
        return logits_NU
    return logits_NU + chunks.take(inputs.bias_MV, index)[None]


def _product(left: jax.Array, right: jax.Array) -> jax.Array:
    return jnp.matmul(left, right, preferred_element_type=jnp.float32)
