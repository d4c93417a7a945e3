"""The published layouts of language models: how to know one, and how to read it."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from unimod_jax.convert import chameleon, chameleon_shards, emu3, phi, show_o
from unimod_jax.convert.conversion_error import ConversionError
from unimod_jax.convert.weight_map import Table
from unimod_jax.models import ModelConfig


@dataclasses.dataclass(frozen=True)
class PublishedLayout:
    """One set of names.

    Attributes:
      name: how commands call it.
      title: one line for people.
      weights: from an architecture, and the number of files that hold it, to the table
        of the language model.
      model_config: from the published config.json to the architecture.
      markers: a file of this layout holds a tensor whose name starts with each of them.
      elsewhere: prefixes of tensors in the same files that are other tables'.
      reads_codes: whether the model describes images by their codes; else by features
        of an encoder that rows here do not have, and it can only draw.
    """

    name: str
    title: str
    weights: Callable[[ModelConfig, int], Table]
    model_config: Callable[[Mapping[str, Any]], ModelConfig]
    markers: tuple[str, ...]
    elsewhere: tuple[str, ...] = ()
    reads_codes: bool = True


def _whole(weights: Callable[[ModelConfig], Table]) -> Callable[..., Table]:
    """A table whose tensors are whole in whichever of the files they are."""
    return lambda config, num_files: weights(config)


def _of_emu3(
    name: str, title: str, prefixes: emu3.Prefixes, *elsewhere: str
) -> PublishedLayout:
    return PublishedLayout(
        name,
        title,
        _whole(functools.partial(emu3.weights, prefixes=prefixes)),
        emu3.model_config,
        (f"{prefixes.model}layers.0.mlp.gate_proj.", f"{prefixes.head}lm_head."),
        elsewhere,
    )


_ALL = (
    PublishedLayout(
        "show_o_clip",
        "Show-o with a CLIP encoder",
        _whole(show_o.weights),
        show_o.model_config,
        ("showo.model.", show_o.PROJECTOR_PREFIX),
        (show_o.PROJECTOR_PREFIX,),
        reads_codes=False,
    ),
    PublishedLayout(
        "show_o",
        "Show-o",
        _whole(show_o.weights),
        show_o.model_config,
        ("showo.model.",),
    ),
    PublishedLayout(
        "phi",
        "Phi-1.5",
        _whole(phi.weights),
        phi.model_config,
        ("model.layers.0.mlp.fc1.",),
    ),
    PublishedLayout(
        "chameleon",
        "Chameleon for transformers",
        _whole(chameleon.weights),
        chameleon.model_config,
        ("model.layers.0.self_attn.q_norm.",),
        ("model.vqmodel.",),
    ),
    PublishedLayout(
        "chameleon_original",
        "Chameleon in its original shards",
        chameleon_shards.weights,
        chameleon_shards.model_config,
        ("00/layers.0.attention.wo.",),
    ),
    _of_emu3("emu3_hf", "Emu3 for transformers", emu3.HUGGING_FACE, "model.vqmodel."),
    _of_emu3(
        "emu3_hf_old",
        "Emu3 for transformers with the old names",
        emu3.OLD_HUGGING_FACE,
        "vqmodel.",
    ),
    _of_emu3("emu3", "Emu3", emu3.ORIGINAL),
)

LAYOUTS: dict[str, PublishedLayout] = {layout.name: layout for layout in _ALL}
"""Name -> layout."""


def recognised(names: Iterable[str]) -> PublishedLayout | None:
    """The layout of a file with these tensors, or None."""
    names = tuple(names)
    for layout in _ALL:
        if all(any(n.startswith(m) for n in names) for m in layout.markers):
            return layout
    return None


def layout_of(name: str) -> PublishedLayout:
    """The layout of a name; ConversionError for an unknown one."""
    if name not in LAYOUTS:
        raise ConversionError(
            f"there is no layout {name!r}; choose one of {', '.join(LAYOUTS)}."
        )
    return LAYOUTS[name]
