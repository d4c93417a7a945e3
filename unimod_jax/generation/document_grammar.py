"""What may come next in a document of several modalities, row by row.

Inside text the model decides: words, the end, or the opening of another modality. What
follows an opening is the grammar's business: exactly as many image codes as an image
has and the closing token (Chameleon, 2405.09818), or speech units until speech is
closed (2411.04996, section 3.3). Nothing is opened that would not fit into the row.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from unimod_jax.layout import ABSENT, IMAGE, PADDING, SPEECH, TEXT, SpecialTokens

type Room = dict[str, jax.Array]
"""Modality -> slots that a row has left for it, int32 [B]."""

type Run = tuple[int, int]
"""Consecutive ids, [start, end)."""


@dataclasses.dataclass(frozen=True)
class Grammar:
    """Which ids mean what, in a vocabulary of several modalities.

    Attributes:
      vocabulary_size: V.
      words: runs of the ids that are text, and no markers: Chameleon's markers stand
        among its words.
      image: run of the image codes; empty where images are continuous, which are
        denoised and not written.
      speech: run of the speech units; empty without speech.
      image_slots: slots of every image: its codes and line ends, or its patches; 0
        without images.
      line_length: codes between two ends of lines of an image; 0 for none.
      special: ids of the markers.
    """

    vocabulary_size: int
    words: tuple[Run, ...]
    image: Run = (0, 0)
    speech: Run = (0, 0)
    image_slots: int = 0
    line_length: int = 0
    special: SpecialTokens = SpecialTokens()

    def ids(self, *runs: Run, also: tuple[int, ...] = ()) -> jax.Array:
        """Boolean [1, V] of some runs and some single ids."""
        allowed_1V = np.zeros((1, self.vocabulary_size), bool)
        for start, end in runs:
            allowed_1V[:, start:end] = True
        allowed_1V[:, [marker for marker in also if marker != ABSENT]] = True
        return jnp.asarray(allowed_1V)

    @property
    def writes_images(self) -> bool:
        """Whether images are written code by code."""
        return self.image[1] > self.image[0]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Progress:
    """Where each row is, in its grammar; arrays are [B].

    Attributes:
      room: slots left per modality; markers are text.
      image_left: int32, slots of the opened image still to come; 0 outside images.
      closing: boolean, the image is complete and its closing token is due.
      speaking: boolean, inside speech.
      last_unit: int32, the last speech unit, which may not come twice in a row (units
        have no durations); -1 outside speech.
      ended: boolean, the document is finished, or has no slot left.
    """

    room: Room
    image_left: jax.Array
    closing: jax.Array
    speaking: jax.Array
    last_unit: jax.Array
    ended: jax.Array

    @classmethod
    def after_prompt(
        cls, last_id_B: jax.Array, room: Room, grammar: Grammar
    ) -> "Progress":
        """After prompts that end in text, or open an image or speech at their end.

        Args:
          last_id_B: int32, the prompts' last tokens.
          room: what the prompts leave.
          grammar: which ids mean what.
        """
        no_B, zero_B = jnp.zeros(last_id_B.shape, bool), jnp.zeros_like(last_id_B)
        text = cls(room, zero_B, no_B, no_B, zero_B - 1, no_B)
        # The opening token itself has its slot already.
        opens_B = (last_id_B == grammar.special.begin_image) & text._fits(
            1, IMAGE, grammar.image_slots
        )
        opens_B |= (last_id_B == grammar.special.begin_speech) & text._fits(
            1, SPEECH, 1
        )
        return text._turned(jnp.where(opens_B, last_id_B, PADDING), grammar)

    @property
    def in_image(self) -> jax.Array:
        """Boolean: the next slot is one of an image."""
        return self.image_left > 0

    @property
    def in_text(self) -> jax.Array:
        """Boolean: the next slot is for a word, or a marker that words precede."""
        return ~(self.in_image | self.closing | self.speaking)

    def of_image(self, token_id_B: jax.Array, grammar: Grammar) -> jax.Array:
        """Boolean: whether the next token is of an image, or a marker around one."""
        opens_B = token_id_B == grammar.special.begin_image
        return self.in_image | self.closing | opens_B

    def raster(self, grammar: Grammar) -> jax.Array:
        """Raster index of the next slot in its image, int32 [B]; -1 outside images."""
        return jnp.where(self.in_image, grammar.image_slots - self.image_left, -1)

    def modality(self, token_id_B: jax.Array, grammar: Grammar) -> dict[str, jax.Array]:
        """Modality -> which rows' next token is of it, boolean [B]."""
        start, end = grammar.speech
        unit_B = self.speaking & (token_id_B >= start) & (token_id_B < end)
        text_B = ~(self.in_image | unit_B)
        return {TEXT: text_B, IMAGE: self.in_image, SPEECH: unit_B}

    def allowed(self, grammar: Grammar) -> jax.Array:
        """Which ids each row may go on with, boolean [B, V]."""
        g = grammar
        allowed_BV = self._allowed_in_text(g)
        for where_B, ids_BV in (
            (self.in_image, self._allowed_in_image(g)),
            (self.closing, g.ids(also=(g.special.end_image,))),
            (self.speaking, self._allowed_in_speech(g)),
        ):
            allowed_BV = jnp.where(where_B[:, None], ids_BV, allowed_BV)
        return allowed_BV

    def _allowed_in_text(self, grammar: Grammar) -> jax.Array:
        """Words, the end, and the openings of what fits with its two markers."""
        g = grammar
        allowed_BV = g.ids(*g.words, also=(g.special.end,))
        if g.image_slots:
            fits_B1 = self._fits(2, IMAGE, g.image_slots)[:, None]
            opening_1V = g.ids(also=(g.special.begin_image,))
            allowed_BV = allowed_BV | (fits_B1 & opening_1V)
        if g.speech[1] > g.speech[0]:
            fits_B1 = self._fits(2, SPEECH, 1)[:, None]
            opening_1V = g.ids(also=(g.special.begin_speech,))
            allowed_BV = allowed_BV | (fits_B1 & opening_1V)
        return allowed_BV

    def _allowed_in_image(self, grammar: Grammar) -> jax.Array:
        """Codes, and nothing but the end of a line where a line ends."""
        g = grammar
        if not g.line_length:
            return g.ids(g.image)
        ends_line_B = self.raster(g) % (g.line_length + 1) == g.line_length
        end_1V = g.ids(also=(g.special.end_of_line,))
        return jnp.where(ends_line_B[:, None], end_1V, g.ids(g.image))

    def _allowed_in_speech(self, grammar: Grammar) -> jax.Array:
        """Units but the last one, as long as there is room, and the closing token."""
        every_1V = jnp.arange(grammar.vocabulary_size, dtype=jnp.int32)[None, :]
        repeats_BV = every_1V == self.last_unit[:, None]
        has_room_B1 = (self.room[SPEECH] > 0)[:, None]
        units_BV = grammar.ids(grammar.speech) & has_room_B1 & ~repeats_BV
        return units_BV | grammar.ids(also=(grammar.special.end_speech,))

    def advance(self, token_id_B: jax.Array, grammar: Grammar) -> "Progress":
        """After one more token of every row."""
        of = self.modality(token_id_B, grammar)
        room = {
            name: n_B - of[name].astype(jnp.int32) for name, n_B in self.room.items()
        }
        return dataclasses.replace(self, room=room)._turned(token_id_B, grammar)

    def with_image(self, grammar: Grammar) -> "Progress":
        """After a whole image at once; its closing token is due."""
        room = {**self.room, IMAGE: self.room[IMAGE] - self.image_left}
        return dataclasses.replace(
            self,
            room=room,
            image_left=jnp.zeros_like(self.image_left),
            closing=jnp.ones_like(self.closing),
        )

    def _fits(self, num_text: int, modality: str, num_slots: int) -> jax.Array:
        """Boolean [B]: whether so much text and so much of another modality fit."""
        return (self.room[TEXT] >= num_text) & (self.room[modality] >= num_slots)

    def _turned(self, token_id_B: jax.Array, grammar: Grammar) -> "Progress":
        """What the last token leads to; its slot has been counted before."""
        left_B = jnp.maximum(self.image_left - 1, 0)
        opens_B = token_id_B == grammar.special.begin_image
        left_B = jnp.where(opens_B, grammar.image_slots, left_B)
        closing_B = self.image_left == 1
        speaking_B = self.speaking | (token_id_B == grammar.special.begin_speech)
        speaking_B &= token_id_B != grammar.special.end_speech
        in_text_B = (left_B == 0) & ~closing_B & ~speaking_B
        is_full_B = in_text_B & (self.room[TEXT] <= 0)
        return Progress(
            room=self.room,
            image_left=left_B,
            closing=closing_B,
            speaking=speaking_B,
            last_unit=jnp.where(speaking_B, token_id_B, -1),
            ended=(token_id_B == grammar.special.end) | is_full_B,
        )
