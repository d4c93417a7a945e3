"""What a user chooses about a model: sizes, what is untied, what is routed.

Three small frozen dataclasses, one per idea, and the functions that turn the two
papers' choices into data: an untying map and a layer plan.
"""

import dataclasses

from unimod_jax import mod, mot
from unimod_jax.layout import IMAGE, TEXT


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Sizes of the transformer.

    Attributes:
      width: D.
      num_layers: how many blocks.
      num_heads: H.
      num_kv_heads: G, dividing H.
      head_dim: E, even.
      feed_forward_hidden: F; 0 follows Llama's rule (`mot.swiglu_width`).
      rotary_theta: base of the rotary wavelengths, in tokens.
      norm_epsilon: of every RMS norm.
      image_positions: whether image tokens add a learned embedding of their raster
        position; rotary positions alone leave a pixel to count its neighbours.
      compute_dtype: dtype of activations; parameters and statistics stay float32.
      remat: whether to recompute each layer in the backward pass to save memory.
      modalities: in the order of `TokenStream.modality_BT`.
    """

    width: int = 128
    num_layers: int = 4
    num_heads: int = 4
    num_kv_heads: int = 4
    head_dim: int = 32
    feed_forward_hidden: int = 0
    rotary_theta: float = 10_000.0
    norm_epsilon: float = 1e-5
    image_positions: bool = True
    compute_dtype: str = "float32"
    remat: bool = True
    modalities: tuple[str, ...] = (TEXT, IMAGE)

    def __post_init__(self) -> None:
        """Checks what the layers below rely on."""
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads {self.num_heads} is not a multiple of num_kv_heads "
                f"{self.num_kv_heads}; each key head serves equally many query heads."
            )
        if self.head_dim % 2:
            raise ValueError(
                f"head_dim {self.head_dim} is odd, but rotary positions turn pairs; "
                f"choose an even number."
            )
        if self.compute_dtype not in ("float32", "bfloat16"):
            raise ValueError(
                f"compute_dtype {self.compute_dtype!r} is not supported; choose "
                f"'float32' or 'bfloat16'."
            )

    def block_config(self) -> mot.BlockConfig:
        """Sizes of each block."""
        hidden = self.feed_forward_hidden or mot.swiglu_width(self.width)
        return mot.BlockConfig(
            width=self.width,
            num_heads=self.num_heads,
            num_kv_heads=self.num_kv_heads,
            head_dim=self.head_dim,
            feed_forward_hidden=hidden,
            norm_epsilon=self.norm_epsilon,
            residual_scale=1.0 / (2 * self.num_layers),
        )


@dataclasses.dataclass(frozen=True)
class MixtureOfTransformers:
    """Which components are untied by modality (2411.04996); none is the dense model."""

    untied_components: tuple[str, ...] = mot.COMPONENTS

    def untying_map(self, modalities: tuple[str, ...]) -> mot.UntyingMap:
        """The untying map over the given modalities."""
        return mot.UntyingMap.untied(modalities, self.untied_components)


@dataclasses.dataclass(frozen=True)
class MixtureOfDepths:
    """Which layers route which tasks (2502.06474).

    Attributes:
      routed_layers: layer indices, or "last_half", "every_other" or "none".
      tasks: the routed tasks; a task not named runs densely.
      keep_ratio: share of a stream's tokens a routed layer keeps.
      text_keep_ratio: the same for a text stream of its own; 0 uses `keep_ratio`.
    """

    routed_layers: tuple[int, ...] | str = "last_half"
    tasks: tuple[str, ...] = ("text_to_image", "image_to_text")
    keep_ratio: float = 0.4
    text_keep_ratio: float = 0.0

    def layer_plan(self, num_layers: int) -> mod.LayerPlan:
        """The plan of a model with this many layers; ValueError for unknown names."""
        named = {
            "none": (),
            "last_half": mod.last_half(num_layers),
            "every_other": mod.every_other_layer(num_layers),
        }
        layers = self.routed_layers
        if isinstance(layers, str):
            if layers not in named:
                raise ValueError(
                    f"routed_layers {layers!r} is not known; give layer indices or one "
                    f"of {sorted(named)}."
                )
            layers = named[layers]
        by_stream = ((TEXT, self.text_keep_ratio),) if self.text_keep_ratio else ()
        routes = [mod.Route(task, self.keep_ratio, by_stream) for task in self.tasks]
        return mod.plan_layers(num_layers, layers, routes)


DENSE = (MixtureOfTransformers(()), MixtureOfDepths("none", ()))
"""The dense twin of any model: one tower, no routing."""
