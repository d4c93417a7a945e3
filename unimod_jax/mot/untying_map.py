"""Which modality uses which tower, component by component (2411.04996, section 2.3).

The paper unties every non-embedding parameter; its ablations untie some components only
or let two modalities share their towers. All are data here: for one layer, a map from
component to one tower name per modality. How tokens are stored is one choice for all
layers together, made from all their maps by `common_streams`.
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
SHARED = "shared"
"""The tower of a tied component."""


@dataclasses.dataclass(frozen=True)
class UntyingMap:
    """The towers of one layer.

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
        """The dense layer: one tower, called "shared", for all modalities."""
        return cls.untied(modalities, ())

    @classmethod
    def untied(
        cls, modalities: Sequence[str], components: Sequence[str] = COMPONENTS
    ) -> "UntyingMap":
        """One tower per modality in the named components, one for all in the others.

        Raises:
          ValueError: for a component that does not exist.
        """
        return cls.grouped(modalities, (), components)

    @classmethod
    def grouped(
        cls,
        modalities: Sequence[str],
        groups: Sequence[Sequence[str]],
        components: Sequence[str] = COMPONENTS,
    ) -> "UntyingMap":
        """One tower per group of modalities in the named components.

        Leaving text out of three modalities (2411.04996, figure 15) is
        `groups=(("text",), ("image", "speech"))`.

        Args:
          modalities: the model's modalities.
          groups: modalities that share a tower, which is named after all of them, such
            as "image+speech"; a modality in no group has a tower of its own.
          components: what is untied; other components have one tower for all.

        Raises:
          ValueError: for an unknown component, or a modality that is unknown or in two
            groups.
        """
        if unknown := [name for name in components if name not in COMPONENTS]:
            raise ValueError(
                f"no component is called {unknown}; choose from {list(COMPONENTS)}."
            )
        own = {modality: modality for modality in modalities}
        named = [modality for group in groups for modality in group]
        if set(named) - set(own) or len(set(named)) < len(named):
            raise ValueError(
                f"groups {groups} must name each of the modalities {list(modalities)} "
                "at most once, and no others."
            )
        own |= {modality: "+".join(group) for group in groups for modality in group}
        shared = (SHARED,) * len(own)
        return cls(
            tuple(modalities),
            tuple(
                tuple(own.values()) if name in components else shared
                for name in COMPONENTS
            ),
        )

    def towers_of_component(self, component: str) -> tuple[str, ...]:
        """The towers of one component, each once, in the order of the modalities."""
        return tuple(dict.fromkeys(self.towers[COMPONENTS.index(component)]))

    def towers_of(self, component: str, streams: Sequence[Stream]) -> Mapping[str, str]:
        """Stream name -> tower name, for one component.

        Args:
          component: one of `COMPONENTS`.
          streams: how tokens are stored, from `common_streams` of all layers.

        Raises:
          ValueError: if a stream mixes modalities of different towers.
        """
        row = self.towers[COMPONENTS.index(component)]
        tower_of = dict(zip(self.modalities, row, strict=True))
        towers = {}
        for stream in streams:
            names = dict.fromkeys(tower_of[each] for each in stream.modalities)
            if len(names) != 1:
                raise ValueError(
                    f"stream {stream.name!r} mixes modalities of the towers "
                    f"{list(names)} of {component!r}; store them apart, in the streams "
                    "that common_streams makes from the maps of all layers."
                )
            (towers[stream.name],) = names
        return towers


def common_streams(maps: Sequence[UntyingMap]) -> tuple[Stream, ...]:
    """The coarsest storage that serves all layers.

    Modalities that no component of any layer tells apart share a stream; streams stand
    in the order of their first members.

    Args:
      maps: one per layer, over the same modalities; at least one.

    Raises:
      ValueError: if there is no map, or the maps differ in their modalities.
    """
    choices = dict.fromkeys(each.modalities for each in maps)
    if len(choices) != 1:
        raise ValueError(
            f"the layers' maps are over {len(choices)} lists of modalities "
            f"{list(choices)}; give one map per layer, all over the same list."
        )
    (modalities,) = choices
    members: dict[tuple[str, ...], list[str]] = {}
    for index, modality in enumerate(modalities):
        signature = tuple(row[index] for each in maps for row in each.towers)
        members.setdefault(signature, []).append(modality)
    return tuple(Stream.of(*members_of) for members_of in members.values())
