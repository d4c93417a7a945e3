"""Writing documents of several modalities: the model decides what comes next.

Every step draws one token per row, of whatever modality each row is in, and adds it to
the caches. A row rests once it has ended, or while an image of continuous patches is to
be denoised (`mode_switching`); the loop ends when all rows rest.

As in Chameleon's published code, repetitions count in text, and guidance is for images:
rows with less of the prompt see nothing of the text that is written either. They do see
the images, so from the second one on guidance leads away from those before.
"""

import dataclasses

import jax
import jax.numpy as jnp

from unimod_jax.generation.bound_model import BoundModel
from unimod_jax.generation.document_grammar import Grammar, Progress
from unimod_jax.generation.guidance import GuidedRows
from unimod_jax.generation.new_tokens import last_tokens, one_token_each, room_left
from unimod_jax.generation.token_sampler import Seen, TokenSampler, with_seen
from unimod_jax.models import Caches

NO_TOKEN = -1


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Writing:
    """Where writing is.

    Attributes:
      progress: of the B documents.
      seen_BV: the ids of the B documents so far, where repetitions count.
      position_B: int32, of the next token of all rows, with and without prompt.
      logits_BV: float32, of the next token of all rows.
      caches: of everything so far, of all rows.
    """

    progress: Progress
    seen_BV: Seen
    position_B: jax.Array
    logits_BV: jax.Array
    caches: Caches


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DocumentWriter:
    """Continues documents; a pytree, so its methods can be jitted.

    Attributes:
      model: the model.
      guided: rows of an `InterleavedLayout` that hold the beginning of one document
        each, of any length; their slots bound what can be written. `without_text`
        makes the prompts of rows that keep their images.
      grammar: which ids mean what.
      sampler: how tokens are drawn.
    """

    model: BoundModel
    guided: GuidedRows
    grammar: Grammar = dataclasses.field(metadata={"static": True})
    sampler: TokenSampler = dataclasses.field(metadata={"static": True})

    def start(self) -> Writing:
        """Runs the prompts.

        Raises:
          ValueError: for rows of fixed segments, or a model that cannot decode token by
            token.
        """
        guided, rows = self.guided, self.guided.rows
        # Rows with less of the prompt get no tokens that those with all of it do not.
        room = {
            modality: jnp.min(left_B.reshape(-1, guided.num_images), axis=0)
            for modality, left_B in room_left(rows).items()
        }
        last_id_B, last_B = last_tokens(rows)
        caches = self.model.empty_caches(rows.layout, rows.num_rows)
        logits_BV, caches = self.model.extend_to_last(rows, caches)
        progress = Progress.after_prompt(guided.complete(last_id_B), room, self.grammar)
        seen_BV = self.sampler.seen_in(guided.complete(rows), logits_BV.shape[-1])
        return Writing(progress, seen_BV, last_B + 1, logits_BV, caches)

    def waiting(self, writing: Writing) -> jax.Array:
        """Which rows have opened an image that is to be denoised, boolean [B]."""
        if self.grammar.writes_images:
            return jnp.zeros_like(writing.progress.ended)
        return writing.progress.in_image

    def write_tokens(
        self, writing: Writing, num_tokens: int, key: jax.Array
    ) -> tuple[jax.Array, Writing]:
        """Writes until every row rests, or has that many more tokens.

        Args:
          writing: where it is.
          num_tokens: most tokens to add to a row; static.
          key: random key.

        Returns:
          (int32 [B, num_tokens] ids, `NO_TOKEN` where a row rests; where it is then).
        """

        def rests(writing: Writing) -> jax.Array:
            return writing.progress.ended | self.waiting(writing)

        def goes_on(carry) -> jax.Array:
            index, writing, _ = carry
            return (index < num_tokens) & ~jnp.all(rests(writing))

        def step(carry):
            index, writing, written_TB = carry
            adds_B = ~rests(writing)
            id_B = self._draw(writing, jax.random.fold_in(key, index))
            written_TB = written_TB.at[index].set(jnp.where(adds_B, id_B, NO_TOKEN))
            return index + 1, self.append(writing, id_B, adds_B), written_TB

        shape = (num_tokens, self.guided.num_images)
        carry = (jnp.int32(0), writing, jnp.full(shape, NO_TOKEN, jnp.int32))
        _, writing, written_TB = jax.lax.while_loop(goes_on, step, carry)
        return written_TB.T, writing

    def _draw(self, writing: Writing, key: jax.Array) -> jax.Array:
        """The next id of each document, int32 [B], also of those that rest."""
        progress, seen_BV = writing.progress, writing.seen_BV
        logits_BV = jnp.where(
            progress.in_image[:, None],
            self.guided.combine(writing.logits_BV),
            self.guided.complete(writing.logits_BV),
        )
        if seen_BV is not None:
            seen_BV = seen_BV & progress.in_text[:, None]
        return self.sampler(logits_BV, progress.allowed(self.grammar), key, seen_BV)

    def append(self, writing: Writing, id_B: jax.Array, adds_B: jax.Array) -> Writing:
        """One more token in the rows that add one; the others stay as they are.

        Args:
          writing: where it is.
          id_B: int32 [B].
          adds_B: boolean [B].
        """
        mirror, before = self.guided.mirror, writing.progress
        modality = before.modality(id_B, self.grammar)
        every_adds_B = mirror(adds_B, adds_B & before.of_image(id_B, self.grammar))
        one = one_token_each(
            self.guided.rows,
            mirror(id_B),
            {name: mirror(is_B) for name, is_B in modality.items()},
            jnp.where(every_adds_B, writing.position_B, -1),
            mirror(before.raster(self.grammar)),
        )
        logits_BV, caches = self.model.extend_to_last(one, writing.caches)
        progress = jax.tree.map(
            lambda old, new: jnp.where(adds_B, new, old),
            before,
            before.advance(id_B, self.grammar),
        )
        return Writing(
            progress,
            with_seen(writing.seen_BV, id_B, adds_B),
            writing.position_B + every_adds_B.astype(jnp.int32),
            jnp.where(every_adds_B[:, None], logits_BV, writing.logits_BV),
            caches,
        )


def write_documents(
    model: BoundModel,
    guided: GuidedRows,
    grammar: Grammar,
    sampler: TokenSampler,
    num_tokens: int,
    key: jax.Array,
) -> jax.Array:
    """Continues each row's document until it ends or the tokens are used up.

    Args:
      model: the model.
      guided, grammar, sampler: as of `DocumentWriter`; images are codes.
      num_tokens: most tokens to add to a row.
      key: random key.

    Returns:
      int32 [B, num_tokens] ids, `NO_TOKEN` after a row's end.
    """
    writer = DocumentWriter(model, guided, grammar, sampler)
    return writer.write_tokens(writer.start(), num_tokens, key)[0]
