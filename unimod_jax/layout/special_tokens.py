"""The ids that are neither text nor codes: markers and the mask.

They are data, because every released model has its own. Layouts carry them, so whoever
has rows in hand knows which id closes an image or hides a code.
"""

import dataclasses

PADDING = 0
"""Fills slots without a token. No query sees an empty slot, no loss counts it, and a
slot still to be generated is overwritten before anything sees it, so which id stands
there never matters: it is 0 in every vocabulary, released ones too."""

ABSENT = -1
"""The id of a marker that a vocabulary does not have; no token has it."""

TASK_IDS = range(9, 16)
"""Native ids that are no marker and no text: for tasks that begin with a marker of
their own, such as Show-o's."""


@dataclasses.dataclass(frozen=True)
class SpecialTokens:
    """Which id is which marker; this library's own by default, `ABSENT` for none.

    Attributes:
      begin: begins a row, or its text (Show-o).
      end: ends a text; generation stops at it.
      begin_image, end_image: around the codes or patches of an image.
      mask: a hidden image code (Show-o's mask token).
      begin_speech, end_speech: around speech units.
      end_of_line: ends each line of an image's codes (Emu3, arXiv 2409.18869).
    """

    begin: int = 1
    end: int = 2
    begin_image: int = 3
    end_image: int = 4
    mask: int = 5
    begin_speech: int = 6
    end_speech: int = 7
    end_of_line: int = 8

    @classmethod
    def only(cls, **ids: int) -> "SpecialTokens":
        """The markers of a vocabulary that has these and no others."""
        absent = {field.name: ABSENT for field in dataclasses.fields(cls)}
        return cls(**(absent | ids))

    @property
    def ids(self) -> frozenset[int]:
        """Every id that some marker has."""
        return frozenset(dataclasses.astuple(self)) - {ABSENT}

    def require(self, name: str, purpose: str) -> int:
        """The id of a marker that something cannot do without.

        Raises:
          ValueError: if the vocabulary does not have it.
        """
        marker = getattr(self, name)
        if marker == ABSENT:
            raise ValueError(
                f"the vocabulary has no {name!r} token, which {purpose} needs; choose "
                "another objective or another vocabulary."
            )
        return marker
