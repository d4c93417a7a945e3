"""Lays rows out fast: everything but the ids depends only on how long segments are.

`layout.lay_out` moves tokens but never looks at them. So it is run once per tuple of
segment lengths, on a document of token *numbers*; the rows of a batch then look their
ids up by number and copy all other arrays. Twenty times faster than row by row.
"""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from unimod_jax.layout import PADDING, Document, TaskLayout, TokenGroup, lay_out


class RowTemplates:
    """`lay_out` for whole batches of one task; remembers the lengths it has met."""

    def __init__(self, layout: TaskLayout) -> None:
        """Starts empty, for one task's layout."""
        self._layout = layout
        self._templates: dict[tuple[int, ...], TokenGroup] = {}

    def stack(self, documents: Sequence[Document]) -> TokenGroup:
        """Lays out the rows of a batch.

        Args:
          documents: one per row, at least one.

        Returns:
          The same as stacking `lay_out` of each document along a new leading axis B.
        """
        names = [segment.name for segment in self._layout.segments]
        most = self._layout.row_length + 1
        id_of_number_BT = np.full((len(documents), most), PADDING, np.int32)
        lengths_B = []
        for row, document in enumerate(documents):
            tokens = [document.tokens.get(name, ()) for name in names]
            flat = [token for ids in tokens for token in ids]
            lengths_B.append(lengths := tuple(len(ids) for ids in tokens))
            if lengths not in self._templates:
                self._templates[lengths] = self._number(names, lengths)
            id_of_number_BT[row, 1 : len(flat) + 1] = flat
        group = self._copy_templates(lengths_B)
        streams = {
            name: dataclasses.replace(
                stream,
                token_id_BT=np.take_along_axis(
                    id_of_number_BT, np.asarray(stream.token_id_BT), 1
                ),
                target_id_BT=np.take_along_axis(
                    id_of_number_BT, np.asarray(stream.target_id_BT), 1
                ),
            )
            for name, stream in group.streams.items()
        }
        patches = [d.patch_NP for d in documents if d.patch_NP is not None]
        patch_BNP = np.stack(patches) if patches else group.patch_BNP
        return dataclasses.replace(group, streams=streams, patch_BNP=patch_BNP)

    def _number(self, names: Sequence[str], lengths: Sequence[int]) -> TokenGroup:
        """The row of token numbers 1, 2, ... (0 is no token) of these lengths."""
        ends = np.cumsum(lengths).tolist()
        numbers = {
            name: range(end - length + 1, end + 1)
            for name, length, end in zip(names, lengths, ends, strict=True)
            if length
        }
        return lay_out(Document(numbers), self._layout)

    def _copy_templates(self, lengths_B: Sequence[tuple[int, ...]]) -> TokenGroup:
        """Each row's template, stacked: one copy per array, not one per row."""
        met = list(dict.fromkeys(lengths_B))
        which_B = np.array([met.index(lengths) for lengths in lengths_B])
        templates = [self._templates[lengths] for lengths in met]
        return jax.tree.map(lambda *leaves: np.stack(leaves)[which_B], *templates)


def stack_rows(rows: Sequence[TokenGroup]) -> TokenGroup:
    """Single rows of one layout, as `lay_out` makes them, as a group with axis B."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *rows)
