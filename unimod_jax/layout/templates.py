"""What stands around prompt, image and caption in the rows of each task.

A row is a sequence of pieces. Fixed pieces are markers and text that never changes, as
ids; the others are filled from a record. The names are the contract between templates,
objectives and data:

    begin, task, end, ...    fixed; an objective may give it any number of slots
    begin_image, end_image   fixed, on either side of the image
    prompt, question         text that is given; not trained on in every objective
    caption, text            text that is written, with `end` behind it
    image                    codes, or patches

Which of them see each other and what predicts what is for the objective to say. Its own
templates are the ones below; released models bring theirs.
"""

import dataclasses

from unimod_jax.layout.special_tokens import SpecialTokens

FILLED = ("prompt", "question", "image", "caption", "text")
"""Names of the pieces that a record fills."""


@dataclasses.dataclass(frozen=True)
class Piece:
    """One stretch of a row.

    Attributes:
      name: what documents and objectives call it.
      ids: of a fixed piece; empty for one that a record fills.
      wording: the text around a filled text, with {} in its place. It is tokenized
        together with the text, because byte pairs reach across the seam.
    """

    name: str
    ids: tuple[int, ...] = ()
    wording: str = "{}"

    def __post_init__(self) -> None:
        """Checks that a piece is either fixed or filled, and its wording has a place.

        Raises:
          ValueError: naming the piece and what is wrong with it.
        """
        if (self.name in FILLED) == bool(self.ids):
            raise ValueError(
                f"the piece {self.name!r} has ids {list(self.ids)}; pieces named "
                f"{', '.join(FILLED)} are filled from records and have none, and all "
                "others need at least one."
            )
        if any(token < 0 for token in self.ids):
            raise ValueError(
                f"the piece {self.name!r} has ids {list(self.ids)}, one of which the "
                "vocabulary does not have; leave it out of the template."
            )
        if self.wording.count("{}") != 1:
            raise ValueError(
                f"the wording of {self.name!r} is {self.wording!r}; write {{}} once, "
                "where the text goes."
            )


type Pieces = tuple[Piece, ...]
"""The pieces of a row, in sequence order."""


@dataclasses.dataclass(frozen=True)
class Templates:
    """The rows of all tasks, and the special ids of their vocabulary."""

    special: SpecialTokens
    text_to_image: tuple[Piece, ...]
    image_to_text: tuple[Piece, ...]
    text_only: tuple[Piece, ...]

    def __post_init__(self) -> None:
        """Checks that each row has what its task is about, each name once.

        Raises:
          ValueError: naming the row and the names it has.
        """
        image = {"begin_image", "image", "end_image"}
        for row, wanted in (
            ("text_to_image", image | {"prompt"}),
            ("image_to_text", image | {"caption"}),
            ("text_only", {"text"}),
        ):
            names = [piece.name for piece in getattr(self, row)]
            if not wanted <= set(names) or len(set(names)) != len(names):
                raise ValueError(
                    f"the template of {row} has pieces {names}; give it "
                    f"{sorted(wanted)}, and no name twice."
                )

    @property
    def asks_questions(self) -> bool:
        """Whether understanding rows have a question before their caption."""
        return any(piece.name == "question" for piece in self.image_to_text)


def causal_templates(special: SpecialTokens) -> Templates:
    """Rows that begin with `begin`, as next-token and diffusion training have them."""
    begin = Piece("begin", (special.begin,))
    begin_image = Piece("begin_image", (special.begin_image,))
    end_image = Piece("end_image", (special.end_image,))
    image = Piece("image")
    return Templates(
        special,
        (begin, Piece("prompt"), begin_image, image, end_image),
        (begin, begin_image, image, end_image, Piece("caption")),
        (begin, Piece("text")),
    )


def masked_templates(special: SpecialTokens) -> Templates:
    """Rows that say their task first, with text between `begin` and `end`: Show-o's.

    As in its code (showlab/Show-o, training/prompting_utils.py); text-only rows do not
    name their task there.
    """
    begin = Piece("begin", (special.begin,))
    begin_image = Piece("begin_image", (special.begin_image,))
    end_image = Piece("end_image", (special.end_image,))
    image = Piece("image")
    prompt = (begin, Piece("prompt"), Piece("end", (special.end,)))
    to_image = Piece("task", (special.text_to_image,))
    to_text = Piece("task", (special.image_to_text,))
    return Templates(
        special,
        (to_image, *prompt, begin_image, image, end_image),
        (to_text, begin_image, image, end_image, begin, Piece("caption")),
        (begin, Piece("text")),
    )
