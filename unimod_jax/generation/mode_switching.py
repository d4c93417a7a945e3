"""Switching between writing text and denoising images: Transfusion (2408.11039).

Text is decoded token by token; a row that opens an image waits. When every row waits or
has ended, the waiting rows' patches are denoised together: each step overwrites them in
place, seeing themselves and the cached text, and only the finished patches enter the
cache. Then the image is closed and text goes on.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from unimod_jax.generation.diffusion_sampler import (
    ancestral_sampling,
    noised,
    patches_of,
)
from unimod_jax.generation.document_writer import NO_TOKEN, DocumentWriter, Writing
from unimod_jax.generation.new_tokens import one_image_each


def denoise_waiting(
    writer: DocumentWriter,
    writing: Writing,
    num_steps: int,
    key: jax.Array,
    largest_value: float = 1.0,
) -> tuple[jax.Array, Writing]:
    """Denoises one image in every row that waits for one, and closes it.

    Args:
      writer: what is written; its grammar has no image codes.
      writing: where it is; rows that do not wait stay as they are.
      num_steps: denoising steps, static; 250 in both papers.
      key: random key.
      largest_value: of clean patches, static; 0 if they have no bound.

    Returns:
      (float32 [B, N, P] patches, of use in the rows that waited; where it is then).
    """
    guided, waiting_B = writer.guided, writer.waiting(writing)
    every_waits_B = guided.mirror(waiting_B)
    rows = one_image_each(guided.rows, writing.position_B, every_waits_B)
    num_patches, patch_size = rows.patch_BNP.shape[1:]

    def predict_noise(patch_BNP: jax.Array, time: jax.Array) -> jax.Array:
        group = noised(rows, guided.mirror(patch_BNP), time)
        output, _ = writer.model.extend(group, writing.caches)
        return guided.combine(patches_of(output, group))

    shape = (guided.num_images, num_patches, patch_size)
    patch_BNP = ancestral_sampling(predict_noise, shape, num_steps, key, largest_value)
    finished = noised(rows, guided.mirror(patch_BNP), jnp.float32(0))
    _, caches = writer.model.extend(finished, writing.caches)
    progress = jax.tree.map(
        lambda old, new: jnp.where(waiting_B, new, old),
        writing.progress,
        writing.progress.with_image(writer.grammar),
    )
    drawn = dataclasses.replace(
        writing,
        progress=progress,
        caches=caches,
        position_B=writing.position_B + num_patches * every_waits_B.astype(jnp.int32),
    )
    close_B = jnp.full_like(progress.image_left, writer.grammar.special.end_image)
    return patch_BNP, writer.append(drawn, close_B, waiting_B)


_start = jax.jit(DocumentWriter.start)
_write_tokens = jax.jit(DocumentWriter.write_tokens, static_argnames="num_tokens")
_waiting = jax.jit(DocumentWriter.waiting)
_denoise_waiting = jax.jit(
    denoise_waiting, static_argnames=("num_steps", "largest_value")
)


def write_and_draw(
    writer: DocumentWriter,
    num_tokens: int,
    num_images: int,
    num_steps: int,
    key: jax.Array,
    largest_value: float = 1.0,
) -> list[list[np.ndarray]]:
    """Writes and draws by turns until all documents have ended; not for use in jit.

    Args:
      writer: what is written; its grammar has no image codes.
      num_tokens: most tokens of a row per turn.
      num_images: most images of a row.
      num_steps: denoising steps per image.
      key: random key.
      largest_value: of clean patches; 0 if they have no bound.

    Returns:
      Row -> what was added to it, in order: int32 [T] ids, and float32 [N, P] patches.
      Ids before an image end with the token that opens it; the one that closes it
      goes without saying.
    """
    writing = _start(writer)
    added: list[list[np.ndarray]] = [[] for _ in range(writer.guided.num_images)]
    for turn in range(num_images + 1):
        write_key, draw_key = jax.random.split(jax.random.fold_in(key, turn))
        id_BT, writing = _write_tokens(writer, writing, num_tokens, write_key)
        for row, id_T in zip(added, np.asarray(id_BT), strict=True):
            if (id_T != NO_TOKEN).any():
                row.append(id_T[id_T != NO_TOKEN])
        waiting_B = np.asarray(_waiting(writer, writing))
        if turn == num_images or not waiting_B.any():
            break
        patch_BNP, writing = _denoise_waiting(
            writer, writing, num_steps, draw_key, largest_value
        )
        for row, patch_NP, waited in zip(
            added, np.asarray(patch_BNP), waiting_B, strict=True
        ):
            if waited:
                row.append(patch_NP)
    return added
