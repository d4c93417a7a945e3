"""Which modality uses which tower, component by component (2411.04996, section 2.3).

The paper unties every non-embedding parameter; its ablations untie some components
only. Both are data here: a map from component to one tower name per modality.
"""

import dataclasses
from collections.abc import Mapping, Sequence

from unimod_jax.layout import Stream

COMPONENTS = (
    "query",
    "key",
    "value",
    "output",
    "qk_norm",
    "attention_norm",
    "feed_forward",
    "feed_forward_norm",
    "final_norm",
)


@dataclasses.dataclass(frozen=True)
class UntyingMap:
    """The towers of a model.

    Attributes:
      modalities: the model's modalities, in the order of `modality_BT` indices.
      towers: for each component of `COMPONENTS`, one tower name per modality.
    """

    modalities: tuple[str, ...]
    towers: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        """Checks the shape of the table."""
        if len(self.towers) != len(COMPONENTS) or any(
            len(row) != len(self.modalities) for row in self.towers
        ):
            raise ValueError(
                f"towers must be {len(COMPONENTS)} rows (one per component) of "
                f"{len(self.modalities)} names (one per modality), got {self.towers}."
            )

    @classmethod
    def tied(cls, modalities: Sequence[str]) -> "UntyingMap":
        """The dense model: one tower for all modalities."""
        return cls.untied(modalities, ())

    @classmethod
    def untied(
        cls, modalities: Sequence[str], components: Sequence[str] = COMPONENTS
    ) -> "UntyingMap":
        """One tower per modality in the named components, one for all in the others.

        Raises:
          ValueError: for a component that does not exist.
        """
        if unknown := [name for name in components if name not in COMPONENTS]:
            raise ValueError(
                f"no component is called {unknown}; choose from {list(COMPONENTS)}."
            )
        own, shared = tuple(modalities), ("shared",) * len(modalities)
        return cls(
            tuple(modalities),
            tuple(own if name in components else shared for name in COMPONENTS),
        )

    def streams(self) -> tuple[Stream, ...]:
        """The coarsest storage: modalities no component tells apart share a stream."""
        members: dict[tuple[str, ...], list[str]] = {}
        for index, modality in enumerate(self.modalities):
            signature = tuple(row[index] for row in self.towers)
            members.setdefault(signature, []).append(modality)
        return tuple(Stream.of(*modalities) for modalities in members.values())

    def towers_of(self, component: str) -> Mapping[str, str]:
        """Stream name -> tower name, for one component."""
        row = self.towers[COMPONENTS.index(component)]
        return {
            stream.name: row[self.modalities.index(stream.modalities[0])]
            for stream in self.streams()
        }
