"""A task is a value: the pieces of its row in order, and how they are trained.

A row of fixed pieces shows parts of a record between markers, some given, some to be
written:

    begin  prompt  begin_image  image  end_image      write an image after a text
    begin  begin_image  image  end_image  caption     write a text after an image

Each piece says what fills it (its own ids, or a named part of the record), whether the
model is to write it, what predicts its tokens, and which span of tokens that see each
other it is in. A row of documents holds whole records, one after another, their parts
in reading order. Which tasks there are is for an experiment to say: vocabulary, routes,
losses, sampling and reports follow from its list.
"""

import dataclasses
import keyword
import re
from typing import Literal, get_args

from unimod_jax.layout.modality import IMAGE, SPEECH, TEXT

type Slots = tuple[tuple[str, int], ...]
"""Modality and how many slots a row has for it, of every modality it can hold."""

Predictor = Literal["predecessor", "itself", "nothing"]
_MODALITIES = (TEXT, IMAGE, SPEECH)
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


@dataclasses.dataclass(frozen=True)
class Piece:
    """One stretch of a row.

    Attributes:
      name: what the row calls it, once in a row.
      modality: of all its tokens.
      num_slots: how many tokens it can hold; 0 for as many as the data says: the ids of
        a fixed piece, a caption, an image, an utterance.
      part: name of the part of a record that fills it; "" for a fixed piece.
      occurrence: which of the record's parts of that name, from 0.
      ids: of a fixed piece: markers, and text that never changes.
      written: whether the model is to write it. A written text or utterance ends with
        the end token of its modality, in a slot of its own.
      predicted_by: which token predicts each of its tokens in training: the
        "predecessor" in the sequence (next-token), the token "itself" (masked or noised
        in place), or "nothing".
      span: neighbouring pieces of one span see each other in both directions (Show-o's
        omni-attention; Transfusion, arXiv 2408.11039 section 3); "" is causal.
      wording: the text around a text, with {} in its place. It is tokenized together
        with the text, because byte pairs reach across the seam.
      default: the text where a record has no such part; "" for none.
      optional: whether it stays empty where a record has no such part.
      droppable: whether it is left empty in a share of the rows
        (`data.prompt_dropout`), for classifier-free guidance.
      hidden_share: share of the codes of a given image that training hides; 0 in every
        published model, more keeps a small data set from being learned by heart.
      largest_time: how far training may noise the patches of an image; 1 is pure noise,
        0 shows it clean. Transfusion caps images that precede their caption at 0.5.
    """

    name: str
    modality: str = TEXT
    num_slots: int = 0
    part: str = ""
    occurrence: int = 0
    ids: tuple[int, ...] = ()
    written: bool = False
    predicted_by: Predictor = "predecessor"
    span: str = ""
    wording: str = "{}"
    default: str = ""
    optional: bool = False
    droppable: bool = False
    hidden_share: float = 0.0
    largest_time: float = 1.0

    def __post_init__(self) -> None:
        """Checks each field; ValueError names the piece and what is wrong with it."""
        what = f"the piece {self.name!r}"
        if self.modality not in _MODALITIES:
            raise ValueError(
                f"{what} has modality {self.modality!r}; choose from {_MODALITIES}."
            )
        if self.predicted_by not in get_args(Predictor):
            raise ValueError(
                f"{what} is predicted by {self.predicted_by!r}; choose from "
                f"{get_args(Predictor)}."
            )
        if any(token < 0 for token in self.ids):
            raise ValueError(
                f"{what} has ids {list(self.ids)}, one of which the vocabulary does "
                "not have; leave the piece out of the row."
            )
        if self.wording.count("{}") != 1:
            raise ValueError(
                f"the wording of {what} is {self.wording!r}; write {{}} once, where "
                "the text goes."
            )
        for field in ("hidden_share", "largest_time"):
            if not 0.0 <= getattr(self, field) <= 1.0:
                raise ValueError(
                    f"{field} of {what} is {getattr(self, field)}; give a share in "
                    "[0, 1]."
                )
        for field in ("num_slots", "occurrence"):
            if getattr(self, field) < 0:
                raise ValueError(
                    f"{field} of {what} is {getattr(self, field)}; give 0 or more."
                )

    @classmethod
    def fixed(cls, name: str, *ids: int, **more: object) -> "Piece":
        """A marker, or text that never changes; nothing predicts it unless said."""
        return cls(name, ids=ids, **({"predicted_by": "nothing"} | more))  # pyright: ignore[reportArgumentType]


@dataclasses.dataclass(frozen=True)
class DocumentRows:
    """Rows of whole records: documents packed one after another.

    A document stands between the begin and end tokens, images and utterances between
    the markers of their modality, which are text.

    Attributes:
      slots: modality and slots per row, of every modality that documents may have.
      shuffled: whether the parts of a document come in an order drawn for each row, as
        captioned pictures do; else in reading order.
      bidirectional: modalities whose parts see themselves in both directions, as images
        do in Transfusion; Chameleon has none.
      captioned_time: how far training may noise an image that no text precedes.
      documents_per_row: about how many documents a row packs, which the slots do not
        say. It decides only in which order attention reads the rows.
    """

    slots: Slots
    shuffled: bool = False
    bidirectional: tuple[str, ...] = ()
    captioned_time: float = 1.0
    documents_per_row: int = 1

    def __post_init__(self) -> None:
        """Checks modalities, counts and times; ValueError names what is wrong."""
        for modality, count in self.slots:
            if modality not in _MODALITIES or count < 1:
                raise ValueError(
                    f"rows of documents have {count} slots for {modality!r}; give at "
                    f"least one slot to each, of modalities {_MODALITIES}."
                )
        if TEXT not in dict(self.slots):
            raise ValueError(
                f"rows of documents have slots {self.slots}, none of them for text, "
                "which markers are; give text some."
            )
        if self.documents_per_row < 1 or not 0.0 <= self.captioned_time <= 1.0:
            raise ValueError(
                f"documents_per_row is {self.documents_per_row} and captioned_time "
                f"{self.captioned_time}; give at least 1, and a share in [0, 1]."
            )


@dataclasses.dataclass(frozen=True)
class Task:
    """What a row is, and how much of training it gets.

    Attributes:
      name: how options, metrics and routes call it.
      pieces: of a row of fixed pieces, in sequence order; () for rows of documents.
      documents: of rows of documents; None for rows of fixed pieces.
      share: rows of a step, as a share of the sum over all tasks; 0 leaves it out.
      loss_weight: of its loss in the sum that is trained on.
      prefix: every token sees up to the end of this piece (Show-o's understanding rows
        see their whole image); "" for none.
      reads_whole_row: whether generation always has the whole row before it (MaskGIT),
        so that a router may rank all of it; otherwise selection in causal streams may
        not look ahead.
    """

    name: str
    pieces: tuple[Piece, ...] = ()
    documents: DocumentRows | None = None
    share: int = 1
    loss_weight: float = 1.0
    prefix: str = ""
    reads_whole_row: bool = False

    def __post_init__(self) -> None:
        """Checks that the row can be laid out; ValueError names the task and piece."""
        what = f"task {self.name!r}"
        if not _NAME.fullmatch(self.name) or keyword.iskeyword(self.name):
            raise ValueError(
                f"a task is called {self.name!r}, which options and metrics cannot "
                "spell; use letters, digits and _, and no word of Python's own."
            )
        if self.share < 0 or not 0.0 <= self.loss_weight < float("inf"):
            raise ValueError(
                f"{what} has share {self.share} and loss_weight {self.loss_weight}; "
                "give finite numbers of at least 0."
            )
        if bool(self.pieces) == (self.documents is not None):
            raise ValueError(
                f"{what} has {len(self.pieces)} pieces and documents "
                f"{self.documents}; give it one of the two."
            )
        names = [piece.name for piece in self.pieces]
        if len(set(names)) < len(names):
            raise ValueError(f"{what} has pieces {names}; give no name twice.")
        if self.prefix and self.prefix not in names:
            raise ValueError(
                f"{what} has prefix {self.prefix!r}, which none of its pieces {names} "
                "is called; name one of them."
            )
        for piece in self.pieces:
            if bool(piece.ids) == bool(piece.part):
                raise ValueError(
                    f"the piece {piece.name!r} of {what} has ids {list(piece.ids)} and "
                    f"part {piece.part!r}; fixed pieces have ids, and all others name "
                    "the part of a record that fills them."
                )

    @property
    def written(self) -> tuple[Piece, ...]:
        """The pieces that the model is to write, in sequence order."""
        return tuple(piece for piece in self.pieces if piece.written)

    @property
    def given(self) -> tuple[Piece, ...]:
        """The pieces that a record fills and the model only reads."""
        return tuple(p for p in self.pieces if p.part and not p.written)


def rows_per_step(tasks: tuple[Task, ...], batch_size: int) -> dict[str, int]:
    """Task -> rows of a step, for the tasks that have a share.

    Raises:
      ValueError: for tasks of one name, or a batch that the shares do not divide.
    """
    names = [task.name for task in tasks]
    if len(set(names)) < len(names):
        raise ValueError(f"tasks are called {names}; give no name twice.")
    shares = {task.name: task.share for task in tasks if task.share}
    whole = sum(shares.values())
    if not whole or batch_size % whole:
        raise ValueError(
            f"batch_size {batch_size} cannot be divided among the task shares "
            f"{shares}; make it a multiple of {max(whole, 1)}."
        )
    return {name: batch_size * share // whole for name, share in shares.items()}
