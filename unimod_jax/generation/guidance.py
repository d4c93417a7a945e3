"""Classifier-free guidance (2207.12598): rows with and without prompt, side by side.

Sets of rows hold less and less of the prompt: all of it, perhaps its images alone, then
nothing. What a set adds to the next one is scaled, and the sum of it is the guided
value: `nothing + scale * (all - nothing)` for two sets. Three are InstructPix2Pix's way
(2211.09800) and Chameleon's. With a prompt of text its images alone are nothing, so the
scale of the text remains. A scale of 1 is no guidance. Show-o's g is scale - 1.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from unimod_jax.layout import IMAGE, InterleavedDocument, SpecialTokens, TokenGroup
from unimod_jax.models import GroupOutput

type Forward = Callable[[TokenGroup], GroupOutput]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class GuidedRows:
    """Rows to generate: with their prompts, and the same with less where guided.

    Attributes:
      rows: B rows with their prompts, then B rows for every scale.
      scales: of what each set of B rows adds to the next; static, () is unguided.
    """

    rows: TokenGroup
    scales: tuple[float, ...] = dataclasses.field(default=(), metadata={"static": True})

    @classmethod
    def pair(
        cls, prompted: TokenGroup, unprompted: TokenGroup, scale: float
    ) -> "GuidedRows":
        """Rows with and without prompt; `unprompted` is unused at scale 1."""
        return cls._of((prompted, unprompted), (scale,))

    @classmethod
    def triple(
        cls,
        prompted: TokenGroup,
        images_only: TokenGroup,
        unprompted: TokenGroup,
        text_scale: float,
        image_scale: float,
    ) -> "GuidedRows":
        """Rows with all, with the images, and with nothing of the prompt.

        Args:
          prompted, images_only, unprompted: B rows each; `unprompted` is unused at
            image scale 1, and `images_only` too if the text scale is 1 as well.
          text_scale: of what the text adds to the images; 3.0 in Chameleon's code.
          image_scale: of what the images add to nothing; 1.2 in Chameleon's code.
        """
        sets = (prompted, images_only, unprompted)
        return cls._of(sets, (text_scale, image_scale))

    @classmethod
    def _of(
        cls, sets: tuple[TokenGroup, ...], scales: tuple[float, ...]
    ) -> "GuidedRows":
        """Sets with less and less, but for the last ones, whose scale is 1."""
        while scales and scales[-1] == 1.0:
            sets, scales = sets[:-1], scales[:-1]
        if not scales:
            return cls(sets[0])
        return cls(jax.tree.map(lambda *each: jnp.concatenate(each), *sets), scales)

    @property
    def num_sets(self) -> int:
        """How often each distinct row is there; 1 if unguided."""
        return 1 + len(self.scales)

    @property
    def num_images(self) -> int:
        """How many distinct rows are generated."""
        return self.rows.num_rows // self.num_sets

    def complete[Tree](self, of_all_rows: Tree) -> Tree:
        """What belongs to the rows with all of their prompts: leaves [B, ...]."""
        return jax.tree.map(lambda leaf: leaf[: self.num_images], of_all_rows)

    def combine(self, values: jax.Array) -> jax.Array:
        """Guides the model's logits or noise of all rows: to [B, ...]."""
        sets = jnp.split(values, self.num_sets)
        guided = sets[-1]
        for index in reversed(range(len(self.scales))):
            guided = guided + self.scales[index] * (sets[index] - sets[index + 1])
        return guided

    def mirror(
        self, generated: jax.Array, with_less: jax.Array | None = None
    ) -> jax.Array:
        """What was generated, for all rows.

        Args:
          generated: [B, ...].
          with_less: what it is for the rows with less of the prompt, if not the same.
        """
        with_less = generated if with_less is None else with_less
        return jnp.concatenate([generated] + [with_less] * len(self.scales))


def without_text(
    document: InterleavedDocument, special: SpecialTokens
) -> InterleavedDocument:
    """A prompt of which its images are left, for guidance in three ways.

    The token that begins it and those around images stay, as in Chameleon's code.

    Args:
      document: the prompt.
      special: ids of the markers.
    """
    kept = {special.begin, special.begin_image, special.end_image}
    spans = [
        span
        if span.modality == IMAGE
        else dataclasses.replace(span, tokens=[i for i in span.tokens if i in kept])
        for span in document.spans
    ]
    return dataclasses.replace(document, spans=tuple(s for s in spans if s.num_tokens))
