"""What the two papers compare, as functions from a preset to towers and routing.

Each variant is one line of one of their tables: `VARIANTS["mot"]` unties everything,
`VARIANTS["unimod"]` routes as the preset's UniMoD setting says, `mot_unimod` does both.
Docstrings say which table. `model_spec` makes a model of a preset and a variant.
"""

import dataclasses
from collections.abc import Callable

from unimod_jax import mod
from unimod_jax.models import MixtureOfDepths, MixtureOfTransformers, ModelSpec
from unimod_jax.models.config import DENSE
from unimod_jax.presets.preset import Preset

type Variant = Callable[[Preset], tuple[MixtureOfTransformers, MixtureOfDepths]]

_ONE_TOWER, _NOT_ROUTED = DENSE
_QKV = ("query", "key", "value")
_LEVELS = 4
_NORMS = ("qk_norm", "attention_norm", "feed_forward_norm")


def dense(preset: Preset) -> tuple[MixtureOfTransformers, MixtureOfDepths]:
    """One tower, no routing: the baseline of both papers."""
    del preset
    return DENSE


# --- Towers (2411.04996) --------------------------------------------------------------


def mot(preset: Preset) -> tuple[MixtureOfTransformers, MixtureOfDepths]:
    """Everything but the embeddings untied by modality (2411.04996, section 2.3)."""
    del preset
    return MixtureOfTransformers(), _NOT_ROUTED


def mot_ffn_only(preset: Preset) -> tuple[MixtureOfTransformers, MixtureOfDepths]:
    """Feed-forward alone untied: the first step of MoT's component ablation."""
    return _untied(preset, ("feed_forward",))


def mot_ffn_qkv(preset: Preset) -> tuple[MixtureOfTransformers, MixtureOfDepths]:
    """With queries, keys and values untied too: its second step, as it is named."""
    return _untied(preset, ("feed_forward", *_QKV))


def mot_ffn_qkvo(preset: Preset) -> tuple[MixtureOfTransformers, MixtureOfDepths]:
    """With the output projection too: the other reading of the second step."""
    return _untied(preset, ("feed_forward", *_QKV, "output"))


def mot_ffn_qkvo_norms(preset: Preset) -> tuple[MixtureOfTransformers, MixtureOfDepths]:
    """With the norms of the layers too: its third step; the final norm stays shared."""
    return _untied(preset, ("feed_forward", *_QKV, "output", *_NORMS))


def leave_one_out_text(preset: Preset) -> tuple[MixtureOfTransformers, MixtureOfDepths]:
    """Text has a tower, the other two share one (2411.04996, figure 15)."""
    return _leave_one_out(preset, "text")


def leave_one_out_image(
    preset: Preset,
) -> tuple[MixtureOfTransformers, MixtureOfDepths]:
    """Images have a tower, the other two share one (2411.04996, figure 15)."""
    return _leave_one_out(preset, "image")


def leave_one_out_speech(
    preset: Preset,
) -> tuple[MixtureOfTransformers, MixtureOfDepths]:
    """Speech has a tower, the other two share one (2411.04996, figure 15)."""
    return _leave_one_out(preset, "speech")


def moe4x(preset: Preset) -> tuple[MixtureOfTransformers, MixtureOfDepths]:
    """One tower whose feed-forward is 4 experts: MoT's baseline (section 3.2.1)."""
    del preset
    return MixtureOfTransformers((), expert_towers=("shared",)), _NOT_ROUTED


def hybrid(preset: Preset) -> tuple[MixtureOfTransformers, MixtureOfDepths]:
    """MoT whose text tower has 4 experts (2411.04996, the MoT + text-MoE-4x study)."""
    del preset
    return MixtureOfTransformers(expert_towers=("text",)), _NOT_ROUTED


# --- Routing (2502.06474) -------------------------------------------------------------


def unimod(preset: Preset) -> tuple[MixtureOfTransformers, MixtureOfDepths]:
    """The preset's UniMoD setting over one tower; causal rows follow a threshold."""
    return _ONE_TOWER, preset.unimod


def unimod_quantised(
    preset: Preset,
) -> tuple[MixtureOfTransformers, MixtureOfDepths]:
    """UniMoD whose ramps are stairs of four levels with the same mean: own choice.

    A quarter of the ramp's layers share a capacity, so a third of Show-o's twelve
    capacities are compiled for as many tokens.
    """
    return _ONE_TOWER, _replanned(
        preset.unimod, lambda ratios: mod.in_stairs(ratios, _LEVELS)
    )


def mot_unimod(preset: Preset) -> tuple[MixtureOfTransformers, MixtureOfDepths]:
    """Both papers at once: untied towers, and a quota of tokens for each modality."""
    return MixtureOfTransformers(), preset.unimod


def basic_mixture_of_depths(
    preset: Preset,
) -> tuple[MixtureOfTransformers, MixtureOfDepths]:
    """One router, every other layer, all tasks pruned like understanding (table 5)."""
    routing = _as_understanding(preset)
    return _ONE_TOWER, _replanned(routing, mod.in_every_other)


def single_router(preset: Preset) -> tuple[MixtureOfTransformers, MixtureOfDepths]:
    """One router, UniMoD's layers, all tasks pruned like understanding (table 5).

    The paper's row "w/o task-aware router": its FLOPs show that generation is pruned
    harder than in UniMoD.
    """
    return _ONE_TOWER, _as_understanding(preset)


def single_router_matched(
    preset: Preset,
) -> tuple[MixtureOfTransformers, MixtureOfDepths]:
    """One router with UniMoD's own capacities: the comparison at equal FLOPs."""
    return _ONE_TOWER, dataclasses.replace(preset.unimod, single_router=True)


def task_routers_interleaved(
    preset: Preset,
) -> tuple[MixtureOfTransformers, MixtureOfDepths]:
    """UniMoD's ratios in every other layer: "w/o layer switch" (table 5)."""
    return _ONE_TOWER, _replanned(preset.unimod, mod.in_every_other)


def skip_interleaved(preset: Preset) -> tuple[MixtureOfTransformers, MixtureOfDepths]:
    """Capacity 0 in every other layer (2502.06474, table 3)."""
    return _ONE_TOWER, _skipping(preset, mod.every_other)


def early_exit(preset: Preset) -> tuple[MixtureOfTransformers, MixtureOfDepths]:
    """No layer of the second half (2502.06474, table 3: exit at layer 12 of 24)."""
    return _ONE_TOWER, _skipping(preset, mod.last_half)


def random_routing(preset: Preset) -> tuple[MixtureOfTransformers, MixtureOfDepths]:
    """UniMoD's capacities filled at random: what a learned router is worth."""
    routing = dataclasses.replace(preset.unimod, scorer="random", score_weight="one")
    return _ONE_TOWER, routing


def attention_routing(preset: Preset) -> tuple[MixtureOfTransformers, MixtureOfDepths]:
    """UniMoD's capacities filled by the attention tokens receive; leaks the future.

    How much attention a token receives is known when the row is complete, so causal
    rows are ranked by top-k: a control for training, not a model to generate with.
    """
    routing = dataclasses.replace(
        preset.unimod, scorer="attention", score_weight="one", causal_rule="top_k"
    )
    return _ONE_TOWER, routing


def unimod_trained_threshold(
    preset: Preset,
) -> tuple[MixtureOfTransformers, MixtureOfDepths]:
    """Top-k in training, scores trained to pass a threshold after (2404.02258)."""
    return _with_causal_rule(preset, "trained_threshold")


def unimod_predictor(preset: Preset) -> tuple[MixtureOfTransformers, MixtureOfDepths]:
    """Top-k in training, a small predictor of its choice after (2404.02258)."""
    return _with_causal_rule(preset, "predictor")


def unimod_top_k(preset: Preset) -> tuple[MixtureOfTransformers, MixtureOfDepths]:
    """Top-k everywhere, as the paper describes it; causal rows leak their future."""
    return _with_causal_rule(preset, "top_k")


VARIANTS: dict[str, Variant] = {
    "dense": dense,
    "mot": mot,
    "mot_ffn_only": mot_ffn_only,
    "mot_ffn_qkv": mot_ffn_qkv,
    "mot_ffn_qkvo": mot_ffn_qkvo,
    "mot_ffn_qkvo_norms": mot_ffn_qkvo_norms,
    "leave_one_out_text": leave_one_out_text,
    "leave_one_out_image": leave_one_out_image,
    "leave_one_out_speech": leave_one_out_speech,
    "moe4x": moe4x,
    "hybrid": hybrid,
    "unimod": unimod,
    "unimod_quantised": unimod_quantised,
    "mot_unimod": mot_unimod,
    "basic_mod": basic_mixture_of_depths,
    "single_router": single_router,
    "single_router_matched": single_router_matched,
    "task_routers_interleaved": task_routers_interleaved,
    "skip_interleaved": skip_interleaved,
    "early_exit": early_exit,
    "random_routing": random_routing,
    "attention_routing": attention_routing,
    "unimod_trained_threshold": unimod_trained_threshold,
    "unimod_predictor": unimod_predictor,
    "unimod_top_k": unimod_top_k,
}
"""Name -> function of a preset; its docstring says what it is."""


def model_spec(preset: Preset, variant: str) -> ModelSpec:
    """The model of a preset in one of the papers' variants.

    Raises:
      ValueError: for an unknown variant, or one that does not apply to the preset.
    """
    if variant not in VARIANTS:
        raise ValueError(
            f"there is no variant {variant!r}; choose one of {', '.join(VARIANTS)}."
        )
    towers, routing = VARIANTS[variant](preset)
    return ModelSpec(
        preset.model,
        towers,
        routing,
        preset.model.vocabulary_size,
        preset.sizes.image_slots,
        preset.sizes.patch_size if preset.sizes.continuous else 0,
    )


def _untied(
    preset: Preset, components: tuple[str, ...]
) -> tuple[MixtureOfTransformers, MixtureOfDepths]:
    del preset
    return MixtureOfTransformers(components), _NOT_ROUTED


def _leave_one_out(
    preset: Preset, modality: str
) -> tuple[MixtureOfTransformers, MixtureOfDepths]:
    """A tower for one modality and one for the others together."""
    modalities = preset.model.modalities
    if len(modalities) < 3 or modality not in modalities:
        raise ValueError(
            f"{preset.name} has the modalities {', '.join(modalities)}, and leaving "
            f"{modality} out needs two others to share a tower; use a preset with "
            f"speech, such as chameleon_443m_speech."
        )
    others = tuple(name for name in modalities if name != modality)
    return MixtureOfTransformers(tower_groups=((modality,), others)), _NOT_ROUTED


def _replanned(
    routing: MixtureOfDepths, change: Callable[[mod.LayerRatios], mod.LayerRatios]
) -> MixtureOfDepths:
    """The same tasks, each with its keep ratios changed."""
    plan = tuple(
        mod.TaskPlan(of_task.task, change(of_task.keep_ratios))
        for of_task in routing.plan
    )
    return dataclasses.replace(routing, plan=plan)


def _skipping(
    preset: Preset, layers: Callable[[int, float], mod.LayerRatios]
) -> MixtureOfDepths:
    """The tasks that the preset's UniMoD setting routes skip some layers."""
    ratios = layers(preset.model.num_layers, 0.0)
    return MixtureOfDepths(mod.same_for(preset.unimod.tasks, ratios))


def _as_understanding(preset: Preset) -> MixtureOfDepths:
    """One router, and every task keeps what understanding keeps."""
    plan = preset.unimod.plan
    pruned = next((p for p in plan if p.task == "image_to_text"), plan[0])
    return dataclasses.replace(
        preset.unimod,
        plan=mod.same_for(preset.unimod.tasks, pruned.keep_ratios),
        single_router=True,
    )


def _with_causal_rule(
    preset: Preset, rule: str
) -> tuple[MixtureOfTransformers, MixtureOfDepths]:
    return _ONE_TOWER, dataclasses.replace(preset.unimod, causal_rule=rule)
