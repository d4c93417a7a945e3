"""What a batch of unified tokens is: static layouts, and positions that are data.

The legend of suffix letters, used on arrays everywhere in this project:

    B  rows of a task group             D  model width
    T  tokens of a row (queries)        F  feed-forward hidden width
    S  keys of a row                    V  vocabulary rows
    C  kept tokens of a row (capacity)  H  query heads
    N  image patches of a row           G  key/value heads
    P  values of one patch              E  head dimension
    L  layers of a scanned run          R  rotary pairs (half the dimensions that turn)
    A  parts of a sum, one for each device that shares a projection (tensor parallelism)

Reading order: `modality`, `special_tokens`, `task` (what a row is), `task_families`
(those of published systems), `row_layout`, `task_layout`, `document`, `token_batch`,
`visibility`, `targets`, `interleaved`, `typical_documents`, `rows_of_task`,
`attention_order`, `sequence_order`, `rotary`.
"""

from unimod_jax.layout.attention_order import AttentionOrder, join_order
from unimod_jax.layout.document import Document, lay_out
from unimod_jax.layout.interleaved import (
    InterleavedDocument,
    InterleavedLayout,
    Span,
    lay_out_documents,
)
from unimod_jax.layout.modality import IMAGE, SPEECH, TEXT, Stream
from unimod_jax.layout.rotary import apply_rotary, rotary_phase
from unimod_jax.layout.row_layout import RowLayout
from unimod_jax.layout.rows_of_task import PartSizes, rows_of_task
from unimod_jax.layout.sequence_order import SequenceOrder, sequence_order
from unimod_jax.layout.special_tokens import (
    ABSENT,
    PADDING,
    TASK_IDS,
    SpecialTokens,
)
from unimod_jax.layout.task import DocumentRows, Piece, Slots, Task, rows_per_step
from unimod_jax.layout.task_families import (
    TaskFamily,
    diffusion_tasks,
    interleaved_task,
    masked_image_tasks,
    next_token_tasks,
    shared,
    with_piece,
)
from unimod_jax.layout.task_layout import SegmentSpec, TaskLayout, with_segments
from unimod_jax.layout.token_batch import (
    AttentionGeometry,
    TokenGroup,
    TokenStream,
    UnifiedBatch,
)
from unimod_jax.layout.visibility import (
    document_windows,
    visible_matrix,
)

__all__ = [
    "ABSENT",
    "AttentionGeometry",
    "AttentionOrder",
    "Document",
    "DocumentRows",
    "IMAGE",
    "InterleavedDocument",
    "InterleavedLayout",
    "PADDING",
    "PartSizes",
    "Piece",
    "RowLayout",
    "SPEECH",
    "SegmentSpec",
    "SequenceOrder",
    "Slots",
    "Span",
    "SpecialTokens",
    "Stream",
    "TASK_IDS",
    "TEXT",
    "Task",
    "TaskFamily",
    "TaskLayout",
    "TokenGroup",
    "TokenStream",
    "UnifiedBatch",
    "apply_rotary",
    "diffusion_tasks",
    "document_windows",
    "interleaved_task",
    "join_order",
    "lay_out",
    "lay_out_documents",
    "masked_image_tasks",
    "next_token_tasks",
    "rotary_phase",
    "rows_of_task",
    "rows_per_step",
    "sequence_order",
    "shared",
    "visible_matrix",
    "with_piece",
    "with_segments",
]
