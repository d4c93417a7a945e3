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

Reading order: `modality`, `special_tokens`, `templates`, `row_layout`, `task`,
`document`, `token_batch`, `visibility`, `targets`, `interleaved`, `typical_documents`,
`attention_order`, `sequence_order`, `rotary`.
"""

from unimod_jax.layout.attention_order import AttentionOrder, join_order
from unimod_jax.layout.document import Document, lay_out
from unimod_jax.layout.interleaved import (
    InterleavedDocument,
    InterleavedLayout,
    Slots,
    Span,
    lay_out_documents,
)
from unimod_jax.layout.modality import IMAGE, SPEECH, TEXT, Stream
from unimod_jax.layout.rotary import apply_rotary, rotary_phase
from unimod_jax.layout.row_layout import RowLayout
from unimod_jax.layout.sequence_order import SequenceOrder, sequence_order
from unimod_jax.layout.special_tokens import ABSENT, PADDING, SpecialTokens
from unimod_jax.layout.task import SegmentSpec, TaskLayout, with_segments
from unimod_jax.layout.templates import (
    Piece,
    Templates,
    causal_templates,
    masked_templates,
)
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
    "IMAGE",
    "PADDING",
    "SPEECH",
    "TEXT",
    "AttentionGeometry",
    "AttentionOrder",
    "Document",
    "InterleavedDocument",
    "InterleavedLayout",
    "Piece",
    "RowLayout",
    "SegmentSpec",
    "SequenceOrder",
    "Slots",
    "Span",
    "SpecialTokens",
    "Stream",
    "TaskLayout",
    "Templates",
    "TokenGroup",
    "TokenStream",
    "UnifiedBatch",
    "apply_rotary",
    "causal_templates",
    "document_windows",
    "join_order",
    "lay_out",
    "lay_out_documents",
    "masked_templates",
    "rotary_phase",
    "sequence_order",
    "visible_matrix",
    "with_segments",
]
