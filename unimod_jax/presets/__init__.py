"""The published models, each with its rows, its recipe and where every number is from.

A preset is data: `preset("show_o_512")` is Show-o, and `model_spec` with the variant
"unimod" makes the model of it that UniMoD trains. What the papers compare with it are
the other `VARIANTS`.
Reading order: `recipe`, `preset`, one file per family (`chameleon`, `transfusion`,
`show_o`, `emu3`), `variants`.
"""

from unimod_jax.presets.chameleon import CHAMELEON
from unimod_jax.presets.emu3 import EMU3
from unimod_jax.presets.preset import Preset
from unimod_jax.presets.recipe import Recipe
from unimod_jax.presets.show_o import SHOW_O
from unimod_jax.presets.transfusion import TRANSFUSION
from unimod_jax.presets.variants import VARIANTS, model_spec

PRESETS: dict[str, Preset] = {
    preset.name: preset for preset in (*CHAMELEON, *TRANSFUSION, *SHOW_O, *EMU3)
}
"""Name -> preset."""


def preset(name: str) -> Preset:
    """The preset of a name such as "show_o_512"; ValueError for an unknown one."""
    if name not in PRESETS:
        raise ValueError(
            f"there is no preset {name!r}; choose one of {', '.join(PRESETS)}."
        )
    return PRESETS[name]


__all__ = [
    "PRESETS",
    "VARIANTS",
    "Preset",
    "Recipe",
    "model_spec",
    "preset",
]
