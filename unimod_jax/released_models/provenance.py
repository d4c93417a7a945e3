"""What a converted model came from: enough to write its published files again.

A model that only began from published files has those of the model it became.
"""

import dataclasses
import json
from pathlib import Path

import cattrs

from unimod_jax.convert import ConversionError, Manifest
from unimod_jax.models import ModelConfig


@dataclasses.dataclass(frozen=True)
class Provenance:
    """The published files of a converted model.

    Attributes:
      layout: name of their layout (`convert.LAYOUTS`).
      model: the architecture that they were read as.
      manifest: order, dtypes and metadata of their tensors.
    """

    layout: str
    model: ModelConfig
    manifest: Manifest

    def to_json(self) -> str:
        """As text; the inverse of `read`."""
        return json.dumps(cattrs.unstructure(self), indent=1) + "\n"

    @classmethod
    def read(cls, path: Path) -> "Provenance":
        """What `to_json` wrote.

        Raises:
          ConversionError: if there is none, or it is damaged.
        """
        try:
            return cattrs.structure(json.loads(path.read_text("utf-8")), cls)
        except FileNotFoundError as error:
            raise ConversionError(
                f"{path.parent} was not converted from a released model, nor trained "
                "from one that was: it has no published.json; give one that was."
            ) from error
        except Exception as error:
            raise ConversionError(
                f"{path} is damaged ({type(error).__name__}); convert the model again."
            ) from error
