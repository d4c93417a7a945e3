"""What the PyTorch process starts from: our parameters and batch, under its names.

Layers are taken apart, and kernels [D, F] turned into torch's weights [F, D],
with the projections side by side that PyTorch computes in one product.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from experiments.command_line import num_cores
from unimod_jax import mod
from unimod_jax.layout import TokenGroup
from unimod_jax.models import ModelSpec
from unimod_jax.models.parameter_path import LAYERS, layered
from unimod_jax.training import Assembly
from unimod_jax.training.prepared_step import PreparedStep

type Arrays = dict[str, np.ndarray]

NO_TARGET = -100
"""What torch's `cross_entropy` ignores."""

_RECIPE = (
    *("learning_rate", "beta1", "beta2", "epsilon"),
    *("weight_decay", "clip_norm"),
)


def torch_parameters(params: Any, spec: ModelSpec) -> Arrays:
    """The state dictionary of the PyTorch model, float32.

    Args:
      params: parameter tree of a model of codes, with gated feed-forward networks, no
        biases, an untied head and at most one router a layer.
      spec: of the same model.

    Raises:
      ValueError: for parameters that the PyTorch model has no place for.
    """
    ours = {
        "/".join(path): np.asarray(leaf)
        for path, leaf in layered(params, spec.designs).items()
    }
    theirs = {
        "embedding.weight": ours.pop("embedding/table"),
        "head.weight": ours.pop("vocabulary_head/kernel").T,
    }
    for name in [name for name in ours if name.startswith("final_norm/")]:
        tower = name.split("/")[1]
        theirs[f"final_norm.{tower}.weight"] = ours.pop(name)
    for layer in range(len(spec.designs)):
        prefix = f"{LAYERS}/{layer}/"
        names = [name for name in ours if name.startswith(prefix)]
        own = {name.removeprefix(prefix): ours.pop(name) for name in names}
        theirs |= _of_layer(own, f"layers.{layer}.")
    _refuse_rest(ours)
    return {name: np.ascontiguousarray(x, np.float32) for name, x in theirs.items()}


def _of_layer(ours: Arrays, prefix: str) -> Arrays:
    """One layer's share of the state dictionary."""
    theirs = {}
    towers = [name.split("/")[2] for name in ours if name.startswith("block/query/")]
    for tower in towers:

        def weight(*components: str, of: str = tower) -> np.ndarray:
            """The kernels of some components side by side, as torch stores them."""
            names = [f"block/{c.replace('*', of)}/kernel" for c in components]
            return np.concatenate([ours.pop(name) for name in names], axis=1).T

        inside = f"{prefix}block.towers.{tower}"
        theirs[f"{inside}.query_key_value.weight"] = weight(
            "query/*", "key/*", "value/*"
        )
        theirs[f"{inside}.output.weight"] = weight("output/*")
        theirs[f"{inside}.gate_up.weight"] = weight(
            "feed_forward/*/gate", "feed_forward/*/up"
        )
        theirs[f"{inside}.down.weight"] = weight("feed_forward/*/down")
        for norm in ("attention_norm", "feed_forward_norm", "query_norm", "key_norm"):
            path = f"block/{norm}/{tower}"
            theirs[f"{inside}.{norm}.weight"] = ours.pop(f"{path}/scale")
            if f"{path}/bias" in ours:
                theirs[f"{inside}.{norm}.bias"] = ours.pop(f"{path}/bias")
    routers = [name for name in ours if name.startswith("routers_")]
    if len(routers) == 1:
        theirs[f"{prefix}router"] = ours.pop(routers[0])
    _refuse_rest(ours)
    return theirs


def _refuse_rest(ours: Arrays) -> None:
    if ours:
        raise ValueError(
            f"the PyTorch model has no place for the parameters {sorted(ours)}; "
            "compare a model of the kind that `torch_parameters` describes."
        )


def torch_batch(group: TokenGroup) -> Arrays:
    """Tokens, targets and modalities in sequence order, all int64 [B, T].

    Args:
      group: full causal rows, in any streams.

    Raises:
      ValueError: for rows that are not full, or not plainly causal.
    """
    streams = [group.streams[name] for name in group.layout.stream_names]

    def joined(field: str) -> np.ndarray:
        parts = [np.asarray(getattr(stream, field)) for stream in streams]
        return np.concatenate(parts, axis=1)

    position_BT = joined("position_BT")
    order_BT = np.argsort(position_BT, axis=1)
    fields = ("window_start_BT", "window_end_BT", "token_id_BT", "target_id_BT")
    start_BT, end_BT, token_BT, target_BT, target_modality_BT, modality_BT = (
        np.take_along_axis(joined(field), order_BT, axis=1).astype(np.int64)
        for field in (*fields, "target_modality_BT", "modality_BT")
    )
    place_1T = np.arange(position_BT.shape[1])[None]
    full = np.array_equal(np.sort(position_BT), np.broadcast_to(place_1T, end_BT.shape))
    if not full or start_BT.any() or not (end_BT == place_1T + 1).all():
        raise ValueError(
            f"rows of task {group.layout.task!r} have empty slots or see more or less "
            "than all earlier tokens; PyTorch is compared on full causal rows."
        )
    target_BT = np.where(target_modality_BT < 0, NO_TARGET, target_BT)
    return {"token_BT": token_BT, "target_BT": target_BT, "modality_BT": modality_BT}


def write_peer(folder: Path, prepared: PreparedStep, device: str) -> None:
    """Writes what `torch_peer.serve` reads: its set-up, parameters and batch.

    Args:
      folder: an empty one.
      prepared: a step of `peer_models.peer_experiment` that has not been taken.
      device: "cpu" or "cuda".
    """
    assembly = prepared.assembly
    setup = {
        "device": device,
        "threads": num_cores(),
        "config": peer_config(assembly),
        "recipe": {
            name: getattr(assembly.experiment.training, name) for name in _RECIPE
        },
    }
    (folder / "setup.json").write_text(json.dumps(setup), encoding="utf-8")
    (group,) = prepared.batch.values()
    for name, arrays in (
        ("parameters", torch_parameters(prepared.state.params, assembly.spec)),
        ("batch", torch_batch(group)),
    ):
        (folder / name).mkdir()
        for array_name, array in arrays.items():
            np.save(folder / name / f"{array_name}.npy", array)


def peer_config(assembly: Assembly) -> dict[str, Any]:
    """The fields of `torch_peer.model.PeerConfig`."""
    model, spec = assembly.spec.config, assembly.spec
    (layout,) = assembly.layouts.values()
    tower_of_stream = spec.final_untying.towers_of("query", spec.streams)
    tower_of = {m: tower_of_stream[s.name] for s in spec.streams for m in s.modalities}
    routes = {
        number: route
        for number, design in enumerate(spec.designs)
        if (route := design.route_of(layout.task))
    }
    ratio = max((route.keep_ratio for route in routes.values()), default=0.0)
    return {
        "width": model.width,
        "num_layers": model.num_layers,
        "num_heads": model.num_heads,
        "head_dim": model.head_dim,
        "hidden": model.hidden,
        "vocabulary_size": spec.vocabulary_size,
        "norm_epsilon": model.norm_epsilon,
        "rotary_theta": model.rotary_theta,
        "towers": [tower_of[modality] for modality in layout.modalities],
        "routed_layers": list(routes),
        "num_kept": mod.capacity(ratio, layout.row_length),
        "compute_dtype": model.compute_dtype,
    }
