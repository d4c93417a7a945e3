"""Rows of packed documents, made from a plan: any row by its number."""

from collections.abc import Sequence

from unimod_jax.data.config import DataConfig
from unimod_jax.data.interleaving import interleave, part_lengths
from unimod_jax.data.packing_plan import Filling, PackingPlan, piece_of, plan_seed
from unimod_jax.data.record_schema import Record
from unimod_jax.data.text_tokenizer import TextTokenizer
from unimod_jax.layout import InterleavedLayout, TokenGroup, lay_out_documents

_ENDLESS_ROWS = 2**60
"""Grain computes the length of batches in floating point, which 2**63 - 1 overflows."""


class PackedRows:
    """An endless sequence of rows, for random access."""

    def __init__(
        self,
        records: Sequence[Record],
        layout: InterleavedLayout,
        config: DataConfig,
        tokenizer: TextTokenizer,
        *,
        in_order: bool = False,
    ) -> None:
        """Reads the lengths of all records, none of whose images it decodes.

        Args:
          records: of a split.
          layout: of the task.
          config: seed, and how images become codes or patches.
          tokenizer: how texts become ids; it carries the vocabulary.
          in_order: whether documents are tried in the order of the records, and not in
            one drawn for each epoch.

        Raises:
          DataError: if a record is damaged.
        """
        self._records, self._layout = records, layout
        self._config, self._tokenizer = config, tokenizer
        lengths, names = [], []
        for record in records:
            lengths.append(part_lengths(record, layout, config, tokenizer))
            names.append(record.key)
        self.plan = PackingPlan(
            lengths,
            names,
            layout.slots,
            seed=plan_seed(config.seed, layout.task),
            shuffled_parts=layout.shuffled,
            in_order=in_order,
        )

    def __len__(self) -> int:
        """More than anyone trains on."""
        return _ENDLESS_ROWS

    def __getitem__(self, number: int) -> TokenGroup:
        """A row, without the axis B."""
        epoch, pieces = self.plan.row(int(number))
        documents = [
            piece_of(
                interleave(
                    self._records[piece.document],
                    self._layout,
                    self._config,
                    self._tokenizer,
                    self.plan.choices(epoch, piece.document),
                ),
                piece,
            )
            for piece in pieces
        ]
        return lay_out_documents(documents, self._layout)

    def filling(self) -> Filling:
        """How full the rows of the first epoch are.

        Raises:
          DataError: naming a record that no row can hold.
        """
        return self.plan.filling()
