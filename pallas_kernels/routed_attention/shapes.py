"""Real shapes: how the papers' models attend, for compiling and timing kernels.

UniMoD (arXiv 2502.06474) leaves some tokens out of a layer, so its kernels meet lengths
that no power of two divides: every capacity of Show-o's ramp is here. What sees what is
not part of a shape. The presets of the library are the source of each number; a test
holds the two together.
"""

from typing import NamedTuple


class AttentionShape(NamedTuple):
    """One call of `routed_attention`.

    Attributes:
      name: model, row and length, such as "show_o.image_to_text.kept_282".
      rows: B, on one device.
      queries: T.
      keys: S.
      heads: H.
      kv_heads: G.
      head_dim: E.
      source: the paper or preset that the numbers are from.
    """

    name: str
    rows: int
    queries: int
    keys: int
    heads: int
    kv_heads: int
    head_dim: int
    source: str

    @property
    def decodes(self) -> bool:
        """Whether one new token attends to a cache, which has no gradients."""
        return self.queries == 1


class _Model(NamedTuple):
    """What the rows of a model have in common."""

    rows: int
    heads: int
    kv_heads: int
    head_dim: int
    source: str

    def row(self, name: str, dense: int, *kept: int) -> tuple[AttentionShape, ...]:
        """A row of `dense` tokens, and what routed layers keep of it."""
        return (
            self._shape(f"{name}.dense", dense, dense),
            *(self._shape(f"{name}.kept_{length}", length, length) for length in kept),
        )

    def decoding(self, name: str, cached: int) -> tuple[AttentionShape, ...]:
        """One new token per row attends to a full cache."""
        shape = self._shape(f"{name}.decoding", 1, cached)
        return (shape._replace(rows=DECODED_ROWS),)

    def _shape(self, name: str, queries: int, keys: int) -> AttentionShape:
        rows, heads, kv_heads, head_dim, source = self
        return AttentionShape(
            name, rows, queries, keys, heads, kv_heads, head_dim, source
        )


DECODED_ROWS = 8
"""Rows that are decoded side by side: own choice."""

_SHOW_O = _Model(
    rows=5,
    heads=32,
    kv_heads=32,
    head_dim=64,
    source=(
        "Show-o (arXiv 2408.12528) at 512 px with the long text budget, preset "
        "show_o_512_long: 5 rows of each task per GPU. The last 12 layers keep 0.8 for "
        "generation and from 1 down to 0.2 for understanding (UniMoD, section 5.1)."
    ),
)
_EMU3 = _Model(
    rows=2,
    heads=32,
    kv_heads=8,
    head_dim=128,
    source=(
        "Emu3 (arXiv 2409.18869): 4,300 tokens are a row at 512 px rounded up (preset "
        "emu3), 9,216 the longest row its configuration allows; 2 rows per GPU. The "
        "last 16 layers keep 0.2 (UniMoD, section 5.1)."
    ),
)
_CHAMELEON = _Model(
    rows=2,
    heads=32,
    kv_heads=32,
    head_dim=128,
    source=(
        "Chameleon 7B of Mixture-of-Transformers (arXiv 2411.04996, table 1), preset "
        "chameleon_7b: interleaved rows, 2 per GPU. Keeping half is this project's "
        "choice."
    ),
)
_TRANSFUSION = _CHAMELEON._replace(
    source=(
        "Transfusion 7B of Mixture-of-Transformers (arXiv 2411.04996, table 4), preset "
        "transfusion_7b: interleaved rows, 2 per GPU. Keeping half is this project's "
        "choice."
    )
)

_UNDERSTANDING_RAMP = (1306, 1204, 1101, 999, 896, 794, 692, 589, 487, 385, 282)

SHAPES: tuple[AttentionShape, ...] = (
    *_SHOW_O.row("show_o.text_to_image", 1408, 1127),
    *_SHOW_O.row("show_o.image_to_text", 1408, *_UNDERSTANDING_RAMP),
    *_EMU3.row("emu3_512", 4300, 860),
    *_EMU3.row("emu3_longest", 9216, 1844),
    *_EMU3.decoding("emu3_512", 4300),
    *_CHAMELEON.row("chameleon_7b", 4096, 2048),
    *_CHAMELEON.decoding("chameleon_7b", 4096),
    *_TRANSFUSION.row("transfusion_7b", 4096, 2048),
    *_TRANSFUSION.decoding("transfusion_7b", 4096),
)
"""In the order of the papers; different names may share their numbers."""


def attention_shape(name: str) -> AttentionShape:
    """The shape of that name; ValueError for an unknown one."""
    for shape in SHAPES:
        if shape.name == name:
            return shape
    names = ", ".join(shape.name for shape in SHAPES)
    raise ValueError(f"there is no attention shape {name!r}; choose one of {names}.")
