"""What each task is trained on: three families over the same model.

An objective brings the layouts of its tasks, what it does to a batch before the model
sees it (`corrupt`), and its loss. Reading order: `objective`, `segments`,
`cross_entropy`, `token_loss`, then `next_token` (Chameleon, Emu3), `masked_image`
(Show-o), `image_diffusion` (Transfusion).
"""

from unimod_jax.objectives.image_diffusion import ImageDiffusion
from unimod_jax.objectives.masked_image import MaskedImage
from unimod_jax.objectives.next_token import NextToken
from unimod_jax.objectives.objective import (
    IMAGE_TO_TEXT,
    INTERLEAVED,
    TASKS,
    TEXT_ONLY,
    TEXT_TO_IMAGE,
    Objective,
    SequenceSizes,
    TaskWeights,
    task_loss,
    total_loss,
)
from unimod_jax.objectives.router_losses import router_loss
from unimod_jax.objectives.token_loss import LossSum, LossSums

__all__ = [
    "IMAGE_TO_TEXT",
    "INTERLEAVED",
    "LossSum",
    "LossSums",
    "TASKS",
    "TEXT_ONLY",
    "TEXT_TO_IMAGE",
    "ImageDiffusion",
    "MaskedImage",
    "NextToken",
    "Objective",
    "SequenceSizes",
    "TaskWeights",
    "router_loss",
    "task_loss",
    "total_loss",
]
