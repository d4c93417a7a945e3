"""The unified model: a batch of task groups in, logits and patches per stream out.

Logits are not multiplied out here: see `vocabulary_head`.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from flax import linen as nn

from unimod_jax.layout import (
    AttentionGeometry,
    Stream,
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
from unimod_jax.models.embedding import PatchHead, TokenEmbedding
from unimod_jax.models.layer import (
    GroupGeometry,
    Hidden,
    LayerReport,
)
from unimod_jax.models.layer_design import LayerDesign
from unimod_jax.models.transformer import Transformer
from unimod_jax.models.vocabulary_head import VocabularyHead, VocabularyMap
from unimod_jax.mot import LayerCache, Norm, Towers, UntyingMap, common_streams
from unimod_jax.parallel import constrain


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
    def untying_maps(self) -> tuple[UntyingMap, ...]:
        """The untying map of each layer."""
        c = self.config
        return self.towers.untying_maps(c.modalities, c.num_layers)

    @property
    def final_untying(self) -> UntyingMap:
        """The untying map of the final norm."""
        return self.towers.untying_map(self.config.modalities)

    @property
    def streams(self) -> tuple[Stream, ...]:
        """The coarsest storage that the towers of all layers allow."""
        return common_streams((*self.untying_maps, self.final_untying))

    @functools.cached_property
    def designs(self) -> tuple[LayerDesign, ...]:
        """What each layer routes and unties."""
        routes = self.routing.routes(self.config.num_layers)
        return tuple(map(LayerDesign, routes, self.untying_maps))

    def dense_twin(self) -> "ModelSpec":
        """The same sizes with one tower and no routing."""
        towers, routing = DENSE
        return dataclasses.replace(self, towers=towers, routing=routing)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class GroupOutput:
    """What the model says about one task group.

    Attributes:
      hidden: stream -> [B, T, D] after the final norm, in the compute dtype, for the
        streams that predict ids.
      head: how hidden states become logits.
      patches: stream -> float32 [B, T, P], for the streams that hold patches.
    """

    hidden: dict[str, jax.Array]
    head: VocabularyMap
    patches: dict[str, jax.Array]

    @property
    def logits(self) -> dict[str, jax.Array]:
        """Stream -> float32 [B, T, V]: all of them, at their full size."""
        return {name: self.head.logits(x_BTD) for name, x_BTD in self.hidden.items()}


class UnifiedModel(nn.Module):
    """One transformer that reads and writes every modality of every task.

    Apply it with `mutable=["router_state"]` to train, so that routers' thresholds
    follow the data, and with an rng named "dropout" to drop what the config says.
    """

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
            c.embedding_dropout,
        )
        self.transformer = Transformer(
            c,
            spec.designs,
            spec.streams,
            c.remat,
            c.remat_above,
            spec.towers,
        )
        self.final_norm = Towers(
            spec.final_untying.towers_of("final_norm", spec.streams),
            functools.partial(Norm, c.norm, c.width, c.norm_epsilon),
        )
        self.vocabulary_head = VocabularyHead(
            c.width, spec.vocabulary_size, c.tied_head, c.biases
        )
        if spec.patch_size:
            self.patch_head = PatchHead(c.width, spec.patch_size)

    def __call__(
        self, batch: UnifiedBatch
    ) -> tuple[dict[str, GroupOutput], list[LayerReport]]:
        """Runs all task groups through the model.

        Args:
          batch: task -> group; the groups may have different rows and lengths.

        Returns:
          Task -> output, and what each run of alike layers did with its routed tasks.
        """
        hidden, geometry = self._enter(batch)
        hidden, reports, _ = self.transformer(hidden, geometry)
        outputs = {
            task: self._read(group, self.final_norm(hidden[task]))
            for task, group in batch.items()
        }
        return outputs, reports

    def extend(
        self, group: TokenGroup, caches: list[LayerCache | None]
    ) -> tuple[GroupOutput, list[LayerReport], list[LayerCache | None]]:
        """Runs new tokens of rows whose earlier tokens are cached.

        Args:
          group: any slots of the layout's rows; its arrays may be shorter than the
            layout, down to one slot in one stream.
          caches: from `models.kv_cache.empty_caches`, or from an earlier call.

        Returns:
          (their output, what the routes did, the caches with the new tokens).
        """
        hidden, reports, caches = self._extended(group, caches)
        return self._read(group, hidden), reports, caches

    def extend_to_last(
        self, group: TokenGroup, caches: list[LayerCache | None]
    ) -> tuple[jax.Array, list[LayerCache | None]]:
        """Runs new tokens of cached rows and reads each row at its last one.

        The vocabulary head meets one token per row, in whichever stream it stands, so a
        long prompt costs no [B, T, V].

        Args:
          group, caches: as for `extend`; rows may differ in length.

        Returns:
          (float32 logits [B, V] at the largest position of each row, the caches with
          the new tokens). A row without tokens gets logits that mean nothing.
        """
        hidden, _, caches = self._extended(group, caches)
        positions = [group.streams[name].position_BT for name in hidden]
        last_B1 = jnp.argmax(jnp.concatenate(positions, axis=1), axis=1)[:, None]
        hidden_BTD = jnp.concatenate(list(hidden.values()), axis=1)
        last_B1D = jnp.take_along_axis(hidden_BTD, last_B1[..., None], axis=1)
        return self._head().logits(last_B1D)[:, 0], caches

    def _extended(
        self, group: TokenGroup, caches: list[LayerCache | None]
    ) -> tuple[dict[str, jax.Array], list[LayerReport], list[LayerCache | None]]:
        task = group.layout.task
        hidden, geometry = self._enter({task: group})
        hidden, reports, caches = self.transformer(hidden, geometry, caches)
        return self.final_norm(hidden[task]), reports, caches

    def _enter(self, batch: UnifiedBatch) -> tuple[Hidden, dict[str, GroupGeometry]]:
        hidden = {
            task: {
                name: constrain(
                    self.embedding(stream, group.patch_BNP, group.patch_time_BN),
                    *("batch", "token", None),
                )
                for name, stream in group.streams.items()
            }
            for task, group in batch.items()
        }
        return hidden, {task: self._geometry(group) for task, group in batch.items()}

    def _geometry(self, group: TokenGroup) -> GroupGeometry:
        c = self.spec.config
        streams = {
            name: AttentionGeometry(
                stream.position_BT,
                stream.window_start_BT,
                stream.window_end_BT,
                rotary_phase(stream.position_BT, c.rotated_dim, c.rotary_theta),
            )
            for name, stream in group.streams.items()
        }
        return GroupGeometry(streams, group.layout)

    def _read(self, group: TokenGroup, hidden: dict[str, jax.Array]) -> GroupOutput:
        layout = group.layout
        predicting = {name: x for name, x in hidden.items() if layout.predicts(name)}
        patches = {
            name: self.patch_head(x)
            for name, x in hidden.items()
            if layout.holds_patches(name)
        }
        return GroupOutput(predicting, self._head(), patches)

    def _head(self) -> VocabularyMap:
        tied = self.spec.config.tied_head
        return self.vocabulary_head(self.embedding.table if tied else None)
