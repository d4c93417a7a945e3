"""The rows that attention meets in practice: windows and positions of real layouts.

Show-o, Emu3, Chameleon and Transfusion, dense and routed, packed and not, in sequence
order and grouped by modality. Everything is drawn from the name of the case, so a case
is the same on every machine.

Legend: B rows, T query tokens, S key tokens.
"""

import dataclasses
import math
import zlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

# How tokens are stored; `ALIGNED` is modality-major with an empty end of the text, so
# that the images begin at a multiple of `ALIGNMENT`.
SEQUENCE, MODALITY_MAJOR = "sequence", "modality_major"
ALIGNED = "modality_major_aligned"
ALIGNMENT = 128
TEXT, IMAGE = 0, 1
_GROUPED = (MODALITY_MAJOR, ALIGNED)

# Tokens of a caption and its marks, on average: captions have 20 to 60 tokens.
_CAPTION_TOKENS = 45

# Show-o at 512 px with the long text budget of instruction tuning (showlab/Show-o):
# 381 tokens of text and the task's own, 1,024 codes between two marks.
_SHOW_O_TEXT, _SHOW_O_CODES = 382, 1024


class Heads(NamedTuple):
    """H query heads share G key/value heads of dimension E."""

    heads: int
    kv_heads: int
    head_dim: int


SHOW_O_HEADS = Heads(32, 32, 64)
EMU3_HEADS = Heads(32, 8, 128)
SEVEN_BILLION_HEADS = Heads(32, 32, 128)  # Chameleon and Transfusion 7B


@dataclasses.dataclass(frozen=True, eq=False)
class VisibilityCase:
    """Who sees whom in some rows, and the heads of the model they belong to.

    Attributes:
      name: a word without dots, such as "show_o_mmu_1408_kept_20".
      window_start_BT: int32, first visible position of each query.
      window_end_BT: int32, one past the last.
      key_position_BS: int32, -1 for padding.
      heads: of the model.
      order: how the tokens are stored: one of the three above.
    """

    name: str
    window_start_BT: np.ndarray
    window_end_BT: np.ndarray
    key_position_BS: np.ndarray
    heads: Heads
    order: str = SEQUENCE

    @property
    def visibility(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Window starts, window ends and key positions, as attention takes them."""
        return self.window_start_BT, self.window_end_BT, self.key_position_BS

    @property
    def num_rows(self) -> int:
        """B."""
        return self.window_start_BT.shape[0]

    @property
    def num_queries(self) -> int:
        """T."""
        return self.window_start_BT.shape[1]

    @property
    def num_keys(self) -> int:
        """S."""
        return self.key_position_BS.shape[1]

    @property
    def is_plain_causal(self) -> bool:
        """Whether query i sees keys 0 to i, so that a causal flag says it all.

        True of every causal document whose kept tokens are in sequence order.
        """
        position_BT = self.key_position_BS
        if position_BT.shape != self.window_end_BT.shape:
            return False
        ascends = bool(np.all(np.diff(position_BT, axis=1) > 0))
        sees_from_first = np.all(self.window_start_BT <= position_BT[:, :1])
        ends_at_itself = np.all(self.window_end_BT == position_BT + 1)
        return bool(
            ascends and position_BT.min() >= 0 and sees_from_first and ends_at_itself
        )

    def visible_TS(self, row: int) -> np.ndarray:
        """The boolean T x S matrix of one row."""
        key_1S = self.key_position_BS[row][None]
        visible = self.window_start_BT[row][:, None] <= key_1S
        visible &= key_1S < self.window_end_BT[row][:, None]
        visible &= key_1S >= 0
        return visible

    def num_visible_pairs(self) -> int:
        """Pairs of a query and a key it sees, over all rows."""
        return sum(
            int(np.count_nonzero(self.visible_TS(row))) for row in range(self.num_rows)
        )

    def with_heads(self, heads: Heads) -> "VisibilityCase":
        """The same rows for a model with other heads."""
        return dataclasses.replace(self, heads=heads)


class _Row(NamedTuple):
    """Tokens of one row; empty slots have position -1 and the window [0, 0)."""

    start_T: np.ndarray
    end_T: np.ndarray
    position_T: np.ndarray
    modality_T: np.ndarray

    def take(self, index: np.ndarray) -> "_Row":
        return _Row(*(field[index] for field in self))


_Spans = Sequence[tuple[int, int, bool]]
"""Modality, number of tokens and whether they see each other, in sequence order."""


def visibility_cases(num_rows: int = 2) -> tuple[VisibilityCase, ...]:
    """Draw every case, in the order of the reports.

    Args:
      num_rows: B; rows differ in lengths, spans and kept tokens where those are drawn.
    """
    return (
        causal_case("causal_4096", 4096, SEVEN_BILLION_HEADS, num_rows),
        *_show_o_cases(num_rows),
        *_emu3_cases(num_rows),
        _case("chameleon_packed_4096", _short_documents, SEVEN_BILLION_HEADS, num_rows),
        *_transfusion_cases(num_rows),
    )


def causal_case(
    name: str, num_tokens: int, heads: Heads, num_rows: int = 1
) -> VisibilityCase:
    """One causal document per row."""

    def row(rng: np.random.Generator) -> _Row:
        del rng
        return _packed([[(TEXT, num_tokens, False)]])

    return _case(name, row, heads, num_rows)


def _show_o_cases(num_rows: int) -> list[VisibilityCase]:
    cases = [
        _case(name, row, SHOW_O_HEADS, num_rows)
        for name, row in (
            ("show_o_t2i_1408", _show_o_t2i),
            ("show_o_t2i_1408_short_captions", _show_o_t2i_short_captions),
            ("show_o_mmu_1408", _show_o_mmu),
        )
    ]
    # UniMoD (section 5.1) keeps 0.8 for generation and 1 down to 0.2 for understanding.
    for task, row in (("t2i", _show_o_t2i), ("mmu", _show_o_mmu)):
        for percent in (80, 60, 40, 20):
            name = f"show_o_{task}_1408_kept_{percent}"
            cases.append(_case(name, row, SHOW_O_HEADS, num_rows, percent=percent))
    return cases


def _emu3_cases(num_rows: int) -> list[VisibilityCase]:
    cases = []
    for num_tokens in (4300, 9216):
        name = f"emu3_{num_tokens}"
        dense = causal_case(name, num_tokens, EMU3_HEADS, num_rows)
        kept = _case(
            f"{name}_kept_20",
            lambda rng, size=num_tokens: _packed([[(TEXT, size, False)]]),
            EMU3_HEADS,
            num_rows,
            percent=20,
        )
        cases += [dense, kept]
    return cases


def _transfusion_cases(num_rows: int) -> list[VisibilityCase]:
    rows = {
        "transfusion_long_4096": _long_document,
        "transfusion_4_pairs_1024": lambda rng: _pairs(rng, 4, 1024),
        "transfusion_16_pairs_256": lambda rng: _pairs(rng, 16, 256),
    }
    return [
        _case(name + suffix, row, SEVEN_BILLION_HEADS, num_rows, seed=name, order=order)
        for name, row in rows.items()
        for suffix, order in (("", SEQUENCE), *((f"_{x}", x) for x in _GROUPED))
    ]


def _case(
    name: str,
    draw_row: Callable[[np.random.Generator], _Row],
    heads: Heads,
    num_rows: int,
    *,
    seed: str = "",
    percent: int = 100,
    order: str = SEQUENCE,
) -> VisibilityCase:
    rows = []
    for row_index in range(num_rows):
        rng = np.random.default_rng([zlib.crc32((seed or name).encode()), row_index])
        row = draw_row(rng)
        if percent < 100:
            row = _kept(row, percent / 100, rng)
        if order in _GROUPED:
            row = row.take(np.argsort(row.modality_T, kind="stable"))
        if order == ALIGNED:
            num_text = int(np.count_nonzero(row.modality_T == TEXT))
            row = _padded(row, num_text, -num_text % ALIGNMENT)
        rows.append(row)
    start, end, position = (
        np.stack(field).astype(np.int32) for field in list(zip(*rows, strict=True))[:3]
    )
    return VisibilityCase(name, start, end, position, heads, order)


def _packed(documents: Sequence[_Spans]) -> _Row:
    """Lay documents one after another; a token sees its own document's past.

    Tokens of a bidirectional span see the whole of it.
    """
    columns = []
    position = 0
    for spans in documents:
        document_start = position
        for modality, size, is_bidirectional in spans:
            position_T = np.arange(position, position + size)
            position += size
            end_T = np.full(size, position) if is_bidirectional else position_T + 1
            start_T = np.full(size, document_start)
            columns.append(_Row(start_T, end_T, position_T, np.full(size, modality)))
    return _Row(*(np.concatenate(field) for field in zip(*columns, strict=True)))


def _padded(row: _Row, place: int, num_slots: int) -> _Row:
    """Insert empty text slots before the token at `place`."""
    empties = {"position_T": -1, "modality_T": TEXT}
    fields = {
        name: np.insert(field, place, np.full(num_slots, empties.get(name, 0)))
        for name, field in row._asdict().items()
    }
    return _Row(**fields)


def _show_o_t2i(rng: np.random.Generator) -> _Row:
    """Causal text, then the image with its two marks, which sees itself and the text.

    The text fills its budget: no slot is padding.
    """
    del rng
    return _packed([_show_o_t2i_spans(_SHOW_O_TEXT)])


def _show_o_t2i_short_captions(rng: np.random.Generator) -> _Row:
    """The same with captions of 20 to 60 tokens: most text slots are padding."""
    num_text = int(rng.integers(20, 61)) + 3
    row = _packed([_show_o_t2i_spans(num_text)])
    return _padded(row, num_text, _SHOW_O_TEXT - num_text)


def _show_o_t2i_spans(num_text: int) -> _Spans:
    return [(TEXT, num_text, False), (IMAGE, _SHOW_O_CODES + 2, True)]


def _show_o_mmu(rng: np.random.Generator) -> _Row:
    """The task token, the image, then text; every token sees all of the prefix."""
    del rng
    prefix = 1 + 1 + _SHOW_O_CODES + 1
    row = _packed([[(IMAGE, prefix, False), (TEXT, _SHOW_O_TEXT - 1, False)]])
    return row._replace(end_T=np.maximum(row.position_T, prefix - 1) + 1)


def _short_documents(rng: np.random.Generator) -> _Row:
    """Causal documents of 64 to 511 tokens, the last one cut at the end of the row."""
    sizes: list[int] = []
    while (room := 4096 - sum(sizes)) > 0:
        sizes.append(min(room, int(rng.integers(64, 512))))
    return _packed([[(TEXT, size, False)] for size in sizes])


def _long_document(rng: np.random.Generator) -> _Row:
    """Eight images of 256 patches between nine stretches of 2,048 text tokens."""
    text = _composition(rng, 2048, 9, least=32)
    spans = [(TEXT, text[0], False)]
    for size in text[1:]:
        spans += [(IMAGE, 256, True), (TEXT, size, False)]
    return _packed([spans])


def _pairs(rng: np.random.Generator, num_pairs: int, num_patches: int) -> _Row:
    """Documents of a caption and its image."""
    captions = _composition(rng, _CAPTION_TOKENS * num_pairs, num_pairs, least=20)
    return _packed(
        [[(TEXT, size, False), (IMAGE, num_patches, True)] for size in captions]
    )


def _composition(
    rng: np.random.Generator, total: int, num_parts: int, *, least: int
) -> list[int]:
    """Cut a total at random into parts of at least some size."""
    free = total - least * num_parts
    cuts = np.sort(rng.integers(0, free + 1, num_parts - 1))
    return [int(x) + least for x in np.diff([0, *cuts, free])]


def _kept(row: _Row, keep_ratio: float, rng: np.random.Generator) -> _Row:
    """What a router leaves: sorted tokens with their own positions and windows.

    The capacity is a share of the slots and the kept number one of the tokens, as in
    UniMoD's layers; capacity without a token is empty.
    """
    (tokens,) = np.nonzero(row.position_T >= 0)
    num_kept = math.ceil(round(keep_ratio * len(tokens), 6))
    capacity = math.ceil(round(keep_ratio * len(row.position_T), 6))
    kept = row.take(np.sort(rng.choice(tokens, num_kept, replace=False)))
    return _padded(kept, num_kept, capacity - num_kept)
