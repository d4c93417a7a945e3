"""Token-by-token decoding of one segment: captions, and Chameleon-style image codes.

What stands before the segment is run once; then every step runs one token and reads the
logits of the next. Routed layers cache only the tokens they keep.
"""

import jax
import jax.numpy as jnp
import numpy as np

from unimod_jax.generation.bound_model import BoundModel
from unimod_jax.generation.guidance import GuidedRows
from unimod_jax.generation.row_slices import slots_before, slots_of, without_patches
from unimod_jax.generation.token_sampler import Seen, TokenSampler, with_seen
from unimod_jax.layout import with_segments


def decode_segment(
    model: BoundModel,
    guided: GuidedRows,
    segment: str,
    allowed_V: np.ndarray,
    sampler: TokenSampler,
    key: jax.Array,
) -> jax.Array:
    """Fills a segment from left to right; line ends stand where they must.

    Args:
      model: the model.
      guided: rows whose segment's slots all hold a (padding) token; what is before it
        may have another length in every row.
      segment: name of the segment to fill.
      allowed_V: boolean, the ids that may be generated.
      sampler: how they are drawn.
      key: random key, unused when greedy.

    Returns:
      int32 [B, slots], the generated ids.

    Raises:
      ValueError: for a model that cannot decode token by token.
    """
    rows = guided.rows
    layout = with_segments(rows.layout)
    stream, start, num_slots = layout.slot_range(segment)
    line_length = layout.segment(segment).line_length
    allowed_1V = jnp.asarray(allowed_V)[None, :]
    before = {name: (0, n) for name, n in slots_before(layout, segment).items()}

    def draw(
        logits_BV: jax.Array, seen_BV: Seen, offset: jax.Array, key: jax.Array
    ) -> jax.Array:
        id_B = sampler(guided.combine(logits_BV), allowed_1V, key, seen_BV)
        if line_length:
            ends_line = offset % (line_length + 1) == line_length
            id_B = jnp.where(ends_line, layout.special.end_of_line, id_B)
        return id_B

    def step(carry, offset):
        logits_BV, seen_BV, caches, key = carry
        key, step_key = jax.random.split(key)
        id_B = draw(logits_BV, seen_BV, offset, step_key)
        seen_BV = with_seen(seen_BV, id_B, jnp.ones_like(id_B, bool))
        one = slots_of(without_patches(rows), {stream: (start + offset, 1)})
        one = one.with_stream(stream, token_id_BT=guided.mirror(id_B)[:, None])
        logits_BV, caches = model.extend_to_last(one, caches)
        return (logits_BV, seen_BV, caches, key), id_B

    caches = model.empty_caches(layout, rows.num_rows)
    prompts = slots_of(rows, before)
    logits_BV, caches = model.extend_to_last(prompts, caches)
    seen_BV = sampler.seen_in(guided.complete(prompts), logits_BV.shape[-1])
    offset_T = jnp.arange(num_slots, dtype=jnp.int32)
    carry = (logits_BV, seen_BV, caches, key)
    (logits_BV, seen_BV, _, key), id_TB = jax.lax.scan(step, carry, offset_T[:-1])
    last_1B = draw(logits_BV, seen_BV, offset_T[-1], key)[None]
    return jnp.concatenate([id_TB, last_1B]).T


def without_line_ends(id_BT: jax.Array, line_length: int) -> jax.Array:
    """The codes of images [B, T] whose every `line_length` codes a token ends."""
    if not line_length:
        return id_BT
    lines = id_BT.reshape(len(id_BT), -1, line_length + 1)[:, :, :line_length]
    return lines.reshape(len(id_BT), -1)
