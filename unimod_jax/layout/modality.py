"""Modalities, and the streams they are stored in.

A *modality* is what a token is (text, image, speech). A *stream* is where it is stored:
modalities that no layer ever tells apart share one stream and keep sequence order
there; modalities with towers of their own get streams of their own (modality-major
storage).
"""

import dataclasses

TEXT = "text"
IMAGE = "image"
SPEECH = "speech"


@dataclasses.dataclass(frozen=True)
class Stream:
    """A static slice of every row, holding the tokens of some modalities.

    Attributes:
      name: how parameters and metrics call it, such as "image" or "text+image".
      modalities: the modalities whose tokens it holds.
    """

    name: str
    modalities: tuple[str, ...]

    @classmethod
    def of(cls, *modalities: str) -> "Stream":
        """Makes the stream of the given modalities, named after them."""
        return cls("+".join(modalities), modalities)


def modalities_of(streams: tuple[Stream, ...]) -> tuple[str, ...]:
    """The modalities of some streams in stream order; `modality_BT` indexes them."""
    return tuple(modality for stream in streams for modality in stream.modalities)
