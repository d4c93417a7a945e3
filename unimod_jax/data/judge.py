"""Who says whether what a model wrote is right: a plug-in that a data set brings.

A judge is made once, from the records of the train split, so it never sees what a model
writes before it judges it. Held-out records, judged as if a model had written them, say
how far it can be trusted. The digits bring one (`handwritten_digits.judge`); for other
data sets `data.judge` names what makes one.
"""

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from unimod_jax.data.built_in import JUDGES
from unimod_jax.data.config import DataConfig
from unimod_jax.data.record_schema import DataError, Part, Record
from unimod_jax.data.tfds_source import open_split

type Written = str | np.ndarray | tuple[int, ...]
"""A text, an image uint8 [image_size, image_size, image_channels], or speech units."""


class Verdict(NamedTuple):
    """What a judge says of one thing that was written.

    Attributes:
      wanted: what would be right, in a word, such as a class; reports group by it.
      told: what the judge takes it for; "" for nothing.
    """

    wanted: str
    told: str

    @property
    def right(self) -> bool:
        """Whether it is what was wanted."""
        return self.wanted == self.told


type Judge = Callable[[Record, Part, Written], Verdict | None]
"""(record, its part that stands there in the data, what was written there instead) ->
a verdict, or None where the judge has no opinion."""


def open_judge(config: DataConfig) -> Judge | None:
    """The judge of a data set, made from its train split; None if it brings none.

    Raises:
      DataError: if `data.judge` does not name what makes one, or the split is missing.
    """
    name = config.judge or JUDGES.get(config.name, "")
    if not name:
        return None
    return _maker(name)(open_split(config, config.train_split))


def _maker(name: str) -> Callable[[Sequence[Record]], Judge]:
    """The function or class of a name such as "my_package.judges:Colours"."""
    place, _, attribute = name.rpartition(":")
    try:
        make = getattr(_module(place), attribute)
    except (ImportError, AttributeError, OSError, ValueError) as error:
        raise DataError(
            f"data.judge {name!r} cannot be imported ({error}); give MODULE:NAME or "
            "FILE.py:NAME of a function from train records to a data.Judge."
        ) from error
    return make


def _module(place: str) -> Any:
    if not place.endswith(".py"):
        return importlib.import_module(place)
    spec = importlib.util.spec_from_file_location(Path(place).stem, place)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
