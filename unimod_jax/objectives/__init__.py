"""What each task is trained on: three families over the same model.

An objective says which rows it can train, what it does to a batch before the model sees
it (`corrupt`), and its loss. Reading order: `objective`, `cross_entropy`, `token_loss`,
then `next_token` (Chameleon, Emu3), `masked_image` (Show-o), `image_diffusion`
(Transfusion).
"""

from unimod_jax.objectives.image_diffusion import ImageDiffusion
from unimod_jax.objectives.masked_image import MaskedImage
from unimod_jax.objectives.next_token import NextToken
from unimod_jax.objectives.objective import Objective, task_loss, total_loss
from unimod_jax.objectives.router_losses import router_loss
from unimod_jax.objectives.token_loss import LossSum, LossSums

__all__ = [
    "ImageDiffusion",
    "LossSum",
    "LossSums",
    "MaskedImage",
    "NextToken",
    "Objective",
    "router_loss",
    "task_loss",
    "total_loss",
]
