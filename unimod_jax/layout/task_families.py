"""The rows of the published systems, as tasks: next-token, masked image, diffusion.

Each function gives a family of tasks by name, with the markers of a vocabulary; an
experiment takes those it trains (`shared`), changes what it likes, or writes its own.
Parts are called "image", "text" and "question", as `DataConfig.parts` calls them.
"""

import dataclasses
from collections.abc import Mapping

from unimod_jax.layout.modality import IMAGE
from unimod_jax.layout.special_tokens import TASK_IDS, SpecialTokens
from unimod_jax.layout.task import DocumentRows, Piece, Slots, Task

type TaskFamily = Mapping[str, Task]
"""Name -> task."""

LANGUAGE_WEIGHT = 0.1
"""Loss weight of text-only rows beside 1 for the others: Show-o (its tuning files)."""

TASK_ID = {"text_to_image": TASK_IDS[3], "image_to_text": TASK_IDS[4]}
"""Native ids of the markers that begin Show-o's rows."""


def shared(family: TaskFamily, **shares: int) -> tuple[Task, ...]:
    """The tasks of a family that are named, in their order, with these shares.

    Raises:
      ValueError: for a name that the family does not have.
    """
    if unknown := sorted(set(shares) - set(family)):
        raise ValueError(
            f"there are no tasks {unknown} among {sorted(family)}; name those."
        )
    return tuple(
        dataclasses.replace(task, share=shares[name])
        for name, task in family.items()
        if name in shares
    )


def next_token_tasks(special: SpecialTokens | None = None) -> TaskFamily:
    """Rows that begin with `begin`, all causal (Chameleon, Emu3).

    What is always given is not trained on: the first token, and in rows that write a
    text about an image the markers before the image.
    """
    m = special or SpecialTokens()
    begin = Piece.fixed("begin", m.begin)
    begin_image = Piece("begin_image", ids=(m.begin_image,))
    image = Piece("image", IMAGE, part="image", written=True)
    end_image = Piece("end_image", ids=(m.end_image,))
    prompt = Piece("prompt", part="text", droppable=True)
    shown = dataclasses.replace(image, written=False)
    before = Piece.fixed("begin_image", m.begin_image)
    caption = Piece("caption", part="text", written=True)
    text = Piece("text", part="text", written=True)
    return _by_name(
        Task("text_to_image", (begin, prompt, begin_image, image, end_image)),
        Task("image_to_text", (begin, before, shown, end_image, caption)),
        Task("text_only", (begin, text), loss_weight=LANGUAGE_WEIGHT),
    )


def diffusion_tasks(
    special: SpecialTokens | None = None, time_cap: float = 0.5
) -> TaskFamily:
    """The same rows with images that see themselves and are denoised (Transfusion).

    Args:
      special: ids of the markers.
      time_cap: largest noise time of an image that precedes its caption; 0.5 is
        Transfusion's t <= 500 of 1000 (2408.11039, section 4.3).
    """
    family = dict(next_token_tasks(special))
    denoised = {"predicted_by": "itself", "span": "image"}
    family["text_to_image"] = with_piece(family["text_to_image"], "image", **denoised)
    family["image_to_text"] = with_piece(
        family["image_to_text"], "image", largest_time=time_cap, **denoised
    )
    return family


def masked_image_tasks(
    special: SpecialTokens | None = None,
    task_id: Mapping[str, int] = TASK_ID,
    understanding_hidden_share: float = 0.0,
) -> TaskFamily:
    """Rows that say their task first, with text between `begin` and `end`: Show-o's.

    As in its code (showlab/Show-o, training/prompting_utils.py); text-only rows do not
    name their task there. Images and their markers see each other; understanding rows
    see the whole image. Trained on is what is written, and nothing around it.

    Args:
      special: ids of the markers.
      task_id: task -> id of the marker that begins its rows.
      understanding_hidden_share: share of the codes that understanding rows hide too.
    """
    m = special or SpecialTokens()
    begin, end = Piece.fixed("begin", m.begin), Piece.fixed("end", m.end)
    prompt = Piece("prompt", part="text", droppable=True, predicted_by="nothing")
    begin_image = Piece.fixed("begin_image", m.begin_image, span="image")
    end_image = Piece.fixed("end_image", m.end_image, span="image")
    image = Piece(
        *("image", IMAGE),
        part="image",
        written=True,
        predicted_by="itself",
        span="image",
    )
    shown = dataclasses.replace(
        image,
        written=False,
        predicted_by="nothing",
        hidden_share=understanding_hidden_share,
    )
    to_image = Piece.fixed("task", task_id["text_to_image"])
    to_text = Piece.fixed("task", task_id["image_to_text"])
    caption = Piece("caption", part="text", written=True)
    text = Piece("text", part="text", written=True)
    return _by_name(
        Task(
            "text_to_image",
            (to_image, begin, prompt, end, begin_image, image, end_image),
            reads_whole_row=True,
        ),
        Task(
            "image_to_text",
            (to_text, begin_image, shown, end_image, begin, caption),
            prefix="end_image",
        ),
        Task("text_only", (begin, text), loss_weight=LANGUAGE_WEIGHT),
    )


def interleaved_task(slots: Slots, **rows: object) -> Task:
    """Packed captioned pictures, their parts in an order by chance (MoT, section 3.2).

    Args:
      slots: modality and slots per row.
      **rows: other fields of `DocumentRows`.
    """
    documents = DocumentRows(slots, **({"shuffled": True} | rows))  # pyright: ignore[reportArgumentType]
    return Task("interleaved", documents=documents)


def with_piece(task: Task, name: str, **changes: object) -> Task:
    """The task with some fields of one of its pieces replaced."""
    pieces = tuple(
        dataclasses.replace(piece, **changes) if piece.name == name else piece
        for piece in task.pieces
    )
    return dataclasses.replace(task, pieces=pieces)


def _by_name(*tasks: Task) -> dict[str, Task]:
    return {task.name: task for task in tasks}
