"""What each token predicts, decided in sequence order before any reordering."""

from collections.abc import Mapping

import numpy as np

from unimod_jax.layout.special_tokens import PADDING


def next_token_targets(slots: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What each slot predicts, and the target's modality (-1: nothing).

    Args:
      slots: arrays [T] in sequence order: `token_id_BT`, `modality_BT`, `position_BT`
        (-1: empty), and the flags `by_predecessor` and `by_itself`, which say which
        token predicts this one.

    Returns:
      int32 `target_id_BT` and `target_modality_BT`.
    """
    token_id, modality = slots["token_id_BT"], slots["modality_BT"]
    in_place = slots["by_itself"] > 0
    target_id = np.where(in_place, token_id, PADDING)
    target_modality = np.where(in_place, modality, -1)
    held = np.flatnonzero(slots["position_BT"] >= 0)
    predicted = slots["by_predecessor"][held[1:]] > 0
    target_id[held[:-1][predicted]] = token_id[held[1:][predicted]]
    target_modality[held[:-1][predicted]] = modality[held[1:][predicted]]
    return {
        "target_id_BT": target_id.astype(np.int32),
        "target_modality_BT": target_modality.astype(np.int32),
    }
