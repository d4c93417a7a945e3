"""The unified model: a batch of task groups in, logits and patches per stream out."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import linen as nn

from unimod_jax import mod
from unimod_jax.layout import (
    AttentionGeometry,
    TokenGroup,
    UnifiedBatch,
    rotary_phase,
)
from unimod_jax.models.config import (
    DENSE,
    MixtureOfDepths,
    MixtureOfTransformers,
    ModelConfig,
)
from unimod_jax.models.embedding import SharedHead, TokenEmbedding
from unimod_jax.models.transformer import GroupGeometry, KeptReport, Transformer
from unimod_jax.mot import TowerNorm, UntyingMap


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """Everything that fixes a model's parameters.

    Attributes:
      config: sizes.
      towers: what is untied.
      routing: what is routed.
      vocabulary_size: V.
      image_tokens: image tokens per image.
      patch_size: P, values per continuous patch; 0 for a model of codes only.
    """

    config: ModelConfig
    towers: MixtureOfTransformers
    routing: MixtureOfDepths
    vocabulary_size: int
    image_tokens: int
    patch_size: int = 0

    @property
    def untying(self) -> UntyingMap:
        """The untying map over the model's modalities."""
        return self.towers.untying_map(self.config.modalities)

    @property
    def plan(self) -> mod.LayerPlan:
        """The layer plan."""
        return self.routing.layer_plan(self.config.num_layers)

    def dense_twin(self) -> "ModelSpec":
        """The same sizes with one tower and no routing."""
        towers, routing = DENSE
        return dataclasses.replace(self, towers=towers, routing=routing)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class GroupOutput:
    """What the model says about one task group.

    Attributes:
      logits: stream -> float32 [B, T, V], for the streams that predict ids.
      patches: stream -> float32 [B, T, P], for the streams that hold patches.
    """

    logits: dict[str, jax.Array]
    patches: dict[str, jax.Array]


class UnifiedModel(nn.Module):
    """One transformer that reads and writes every modality of every task."""

    spec: ModelSpec

    def setup(self) -> None:
        """Makes the embedding, the stack and the heads."""
        spec, c = self.spec, self.spec.config
        self.embedding = TokenEmbedding(
            spec.vocabulary_size,
            c.width,
            spec.image_tokens if c.image_positions else 0,
            spec.patch_size,
            jnp.dtype(c.compute_dtype),
        )
        self.transformer = Transformer(
            c.block_config(), spec.untying, spec.plan, c.remat
        )
        self.final_norm = TowerNorm(
            spec.untying.towers_of("final_norm"), c.width, epsilon=c.norm_epsilon
        )
        self.vocabulary_head = SharedHead(c.width, spec.vocabulary_size, "vocab")
        if spec.patch_size:
            self.patch_head = SharedHead(c.width, spec.patch_size, "patch")

    def __call__(
        self, batch: UnifiedBatch
    ) -> tuple[dict[str, GroupOutput], list[KeptReport]]:
        """Runs all task groups through the model.

        Args:
          batch: task -> group; the groups may have different rows and lengths.

        Returns:
          Task -> output, and which tokens each run of routed layers kept.
        """
        hidden = {
            task: {
                name: self.embedding(stream, group.patch_BNP, group.patch_time_B)
                for name, stream in group.streams.items()
            }
            for task, group in batch.items()
        }
        geometry = {task: self._geometry(group) for task, group in batch.items()}
        hidden, reports = self.transformer(hidden, geometry)
        outputs = {
            task: self._read(group, self.final_norm(hidden[task]))
            for task, group in batch.items()
        }
        return outputs, reports

    def _geometry(self, group: TokenGroup) -> GroupGeometry:
        c = self.spec.config
        streams = {
            name: AttentionGeometry(
                stream.position_BT,
                stream.window_start_BT,
                stream.window_end_BT,
                rotary_phase(stream.position_BT, c.head_dim, c.rotary_theta),
            )
            for name, stream in group.streams.items()
        }
        return GroupGeometry(streams, group.layout)

    def _read(self, group: TokenGroup, hidden: dict[str, jax.Array]) -> GroupOutput:
        layout = group.layout
        logits = {
            name: self.vocabulary_head(x)
            for name, x in hidden.items()
            if layout.predicts(name)
        }
        patches = {
            name: self.patch_head(x)
            for name, x in hidden.items()
            if any(segment.continuous for segment in layout.segments_of(name))
        }
        return GroupOutput(logits, patches)
