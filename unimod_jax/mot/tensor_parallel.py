"""Tensor parallelism: one sum per sublayer and direction, however many towers it has.

Projections into heads and hidden widths are cut by their outputs, projections back by
their inputs (Megatron-LM, 1909.08053, section 3), so what each device says about a
token is one part of a sum. XLA would add up the parts of every tower on its own, as
soon as they are there. So parts get an axis of their own, A, cut over the devices that
share a projection: `apart` copies tokens along it on the way in, `together` joins the
parts of all streams and adds them up on the way out, in one all-reduce. The gradient of
each is the other.

Where no mesh cuts a projection there is no axis A, and neither function does anything.
"""

import functools

import jax
import jax.numpy as jnp

from unimod_jax.mot.attention import join, split_like, token_shares
from unimod_jax.mot.towers import Streams
from unimod_jax.parallel import constrain, num_parts


def apart(streams: Streams, axis: str, length: int) -> Streams:
    """A copy of the tokens for each part of a projection's outputs.

    Args:
      streams: stream -> [B, T, D].
      axis: logical axis of the outputs, such as "mlp".
      length: of the outputs.

    Returns:
      stream -> [A, B, T, D], or the streams as they are where nothing cuts the axis.
    """
    parts = num_parts(axis, length)
    return streams if parts == 1 else _copied(streams, axis, parts)


def together(streams: Streams, axis: str) -> Streams:
    """Adds up the parts of what all towers say.

    Args:
      streams: stream -> [A, B, T, D], from projections whose inputs are cut; or
        [B, T, D], which is returned as it is.
      axis: logical axis of those inputs.

    Returns:
      stream -> [B, T, D].
    """
    parts = {x.shape[0] for x in streams.values() if x.ndim == 4}
    return _added(streams, axis, parts.pop()) if parts else streams


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _copied(streams: Streams, axis: str, parts: int) -> Streams:
    def copied(x_BTD: jax.Array) -> jax.Array:
        x_ABTD = jnp.broadcast_to(x_BTD[None], (parts, *x_BTD.shape))
        return constrain(x_ABTD, axis, "batch", "token", None)

    return jax.tree.map(copied, streams)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _added(streams: Streams, axis: str, parts: int) -> Streams:
    del parts
    one_part = {name: x_ABTD[0] for name, x_ABTD in streams.items()}
    shares = token_shares(one_part)
    joined_ABTD = jax.vmap(functools.partial(join, shares=shares))(streams)
    joined_ABTD = constrain(joined_ABTD, axis, "batch", "token", None)
    # Unlike jnp.sum this adds, and sends, 16-bit parts as they are.
    sum_BTD = jax.lax.reduce_sum(joined_ABTD, axes=(0,))
    sum_BTD = constrain(sum_BTD, "batch", "token", None)
    return split_like(sum_BTD, one_part, shares)


_copied.defvjp(
    lambda streams, axis, parts: (_copied(streams, axis, parts), None),
    lambda axis, parts, _, gradient: (_added(gradient, axis, parts),),
)
_added.defvjp(
    lambda streams, axis, parts: (_added(streams, axis, parts), None),
    lambda axis, parts, _, gradient: (_copied(gradient, axis, parts),),
)
