"""How a released model writes its rows: its vocabulary and its templates together."""

import dataclasses

from unimod_jax.data.record_schema import DataError
from unimod_jax.data.vocabulary import Vocabulary
from unimod_jax.layout import Templates


@dataclasses.dataclass(frozen=True)
class Notation:
    """Which id means what, and what stands around prompt, image and caption.

    Plain data, so that it is saved with an experiment: templates hold the ids of fixed
    text, which a tokenizer has made once.

    Attributes:
      vocabulary: the ids.
      templates: the rows of each task.
    """

    vocabulary: Vocabulary
    templates: Templates

    def __post_init__(self) -> None:
        """Checks that both speak of the same markers; DataError if not."""
        if self.vocabulary.special != self.templates.special:
            raise DataError(
                f"the vocabulary's markers are {self.vocabulary.special} but the "
                f"templates' are {self.templates.special}; make both from one table."
            )
