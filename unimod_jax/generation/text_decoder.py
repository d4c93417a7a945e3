"""Token-by-token decoding of one segment: captions, and Chameleon-style image codes.

Every step runs the whole row and reads the logits of the token before the next slot.
Slots still to come hold padding ids, which no earlier token sees, and a causal router
never looks at, so this equals decoding with a cache.
"""

import jax
import jax.numpy as jnp
import numpy as np

from unimod_jax.generation.guidance import Forward, GuidedRows
from unimod_jax.layout import TaskLayout


def decode_segment(
    forward: Forward,
    guided: GuidedRows,
    segment: str,
    allowed_V: np.ndarray,
    temperature: float,
    key: jax.Array,
) -> jax.Array:
    """Fills a segment from left to right.

    Args:
      forward: the model on one task group.
      guided: rows whose segment's slots all hold a (padding) token.
      segment: name of the segment to fill.
      allowed_V: boolean, the ids that may be generated.
      temperature: divides the logits; 0 is greedy.
      key: random key, unused when greedy.

    Returns:
      int32 [B, slots], the generated ids.
    """
    layout = guided.rows.layout
    stream, start, num_slots = layout.slot_range(segment)
    first_stream, first_slot = _slot_before(layout, segment)
    floor = jnp.finfo(jnp.float32).min
    allowed_1V = jnp.asarray(allowed_V)[None, :]

    def step(offset, carry):
        token_id_BT, key = carry
        output = forward(guided.rows.with_stream(stream, token_id_BT=token_id_BT))
        before_B1V = jax.lax.dynamic_slice_in_dim(
            output.logits[stream], jnp.maximum(start + offset - 1, 0), 1, axis=1
        )
        logits_BV = jnp.where(
            offset == 0, output.logits[first_stream][:, first_slot], before_B1V[:, 0]
        )
        logits_BV = jnp.where(allowed_1V, guided.combine(logits_BV), floor)
        key, step_key = jax.random.split(key)
        if temperature == 0.0:
            id_B = jnp.argmax(logits_BV, axis=-1)
        else:
            id_B = jax.random.categorical(step_key, logits_BV / temperature)
        column_B1 = guided.mirror(id_B.astype(jnp.int32))[:, None]
        token_id_BT = jax.lax.dynamic_update_slice_in_dim(
            token_id_BT, column_B1, start + offset, axis=1
        )
        return token_id_BT, key

    token_id_BT = guided.rows.streams[stream].token_id_BT
    token_id_BT, _ = jax.lax.fori_loop(0, num_slots, step, (token_id_BT, key))
    return token_id_BT[: guided.num_images, start : start + num_slots]


def _slot_before(layout: TaskLayout, segment: str) -> tuple[str, int]:
    """Stream and slot of the token that predicts a segment's first token."""
    names = [spec.name for spec in layout.segments]
    before = layout.segments[names.index(segment) - 1]
    stream, start, num_slots = layout.slot_range(before.name)
    return stream, start + num_slots - 1
