"""Released models as runs: converted with their tokenizers, exported again.

`families` says what belongs together, `source` opens it, `conversion` makes a converted
directory, which sampling, evaluation and training open like a run, and `export` writes
published files.
"""

from unimod_jax.released_models.conversion import (
    AS_RELEASED,
    WarmStart,
    convert_model,
)
from unimod_jax.released_models.export import export_model
from unimod_jax.released_models.families import FAMILIES, Family
from unimod_jax.released_models.source import PublishedFiles

__all__ = [
    "FAMILIES",
    "Family",
    "PublishedFiles",
    "WarmStart",
    "AS_RELEASED",
    "convert_model",
    "export_model",
]
