"""Rows with other tokens after some position, and who may notice."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from tests.models.tiny_model import VOCABULARY_SIZE, by_position
from unimod_jax.layout import TokenGroup


def repeated(group: TokenGroup, num_rows: int) -> TokenGroup:
    """The first row of a group, several times."""
    return jax.tree.map(lambda x: jnp.repeat(x[:1], num_rows, axis=0), group)


def perturbed_after(group: TokenGroup, last_B: np.ndarray, seed: int = 0) -> TokenGroup:
    """The group with other ids, and other patches, at all positions after `last_B`."""
    rng = np.random.default_rng(seed)
    patch_BNP = np.array(group.patch_BNP)
    for name, stream in group.streams.items():
        later_BT = np.asarray(stream.position_BT) > last_B[:, None]
        old_BT = np.asarray(stream.token_id_BT)
        # A shift by 1 to V - 1 never gives the same id again.
        shift_BT = rng.integers(1, VOCABULARY_SIZE, old_BT.shape)
        new_BT = np.where(later_BT, (old_BT + shift_BT) % VOCABULARY_SIZE, old_BT)
        group = group.with_stream(name, token_id_BT=jnp.asarray(new_BT, jnp.int32))
        if group.layout.holds_patches(name):
            row, slot = np.nonzero(later_BT & (np.asarray(stream.patch_index_BT) >= 0))
            patch = np.asarray(stream.patch_index_BT)[row, slot]
            patch_BNP[row, patch] += rng.normal(size=(len(row), patch_BNP.shape[2]))
    return dataclasses.replace(group, patch_BNP=jnp.asarray(patch_BNP))


def unaware(group: TokenGroup, last_B: np.ndarray) -> np.ndarray:
    """Who must not notice, boolean [B, row length] in sequence order.

    The tokens up to `last_B`, but for those whose window reaches further: the members
    of a bidirectional span, or of a visible prefix, that the change is in.
    """
    may_see = {
        name: (stream.window_end_BT <= last_B[:, None] + 1)
        & (stream.window_end_BT > 0)
        & (stream.position_BT <= last_B[:, None])
        for name, stream in group.streams.items()
    }
    return by_position(group, may_see) > 0
