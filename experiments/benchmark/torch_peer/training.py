"""One training step in PyTorch, in every way that might be the fastest here.

Forward, cross-entropy, backward, clipping and a fused AdamW. A way is how the model is
run: as it stands, with modalities as boolean masks or as lists of indices, or compiled.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch  # pyright: ignore[reportMissingImports]
from torch import Tensor  # pyright: ignore[reportMissingImports]

from experiments.benchmark.torch_peer.model import (
    Batch,
    PeerConfig,
    Transformer,
    make_batch,
)

EAGER, BOOLEAN, COMPILED = "eager", "boolean", "compiled"


@dataclasses.dataclass(frozen=True)
class PeerRecipe:
    """AdamW at a constant rate; norms and routers are not decayed."""

    learning_rate: float
    beta1: float
    beta2: float
    epsilon: float
    weight_decay: float
    clip_norm: float


class StepTaken(NamedTuple):
    """Seconds of a step, and the loss and gradient norm before it."""

    seconds: float
    loss: float
    gradient_norm: float


class PeerTraining:
    """A model, its optimiser and its batch on one device.

    Attributes:
      ways: how a step can be taken; any may follow any, all train the same parameters.
    """

    def __init__(
        self,
        config: PeerConfig,
        recipe: PeerRecipe,
        parameters: Mapping[str, Tensor],
        batch: Mapping[str, Tensor],
        device: str,
    ) -> None:
        """Loads the parameters, which must be exactly the model's."""
        self._device, self._clip_norm = device, recipe.clip_norm
        with torch.device(device):
            self._model = Transformer(config)
        self._model.load_state_dict(dict(parameters), strict=True)
        self._optimizer = make_optimizer(self._model, recipe)
        batch = {name: array.to(device) for name, array in batch.items()}
        by_index = make_batch(batch, config, as_indices=True)
        self.ways: dict[str, tuple[Callable[[Batch], Tensor], Batch]] = {}
        if len(set(config.towers)) > 1:
            by_mask = make_batch(batch, config, as_indices=False)
            self.ways[BOOLEAN] = self._model, by_mask
        self.ways[EAGER] = self._model, by_index
        self.ways[COMPILED] = compiled(self._model, device), by_index

    def take(self, way: str) -> StepTaken:
        """Takes one step to its end."""
        model, batch = self.ways[way]
        start = time.perf_counter()
        loss = model(batch)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self._model.parameters(), self._clip_norm)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        if self._device == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
        return StepTaken(seconds, loss.item(), norm.item())


def compiled(model: Transformer, device: str) -> Callable[[Batch], Tensor]:
    """The model by `torch.compile`: whole on a CPU, layer by layer on a GPU.

    The whole model is a little faster on a CPU (4 percent, six layers) and compiles in
    half a minute there. On a GPU its many layers would take minutes, so equal layers
    share one compilation, as in torchtitan, and the loss is another.
    """
    if device == "cpu":
        return torch.compile(model, dynamic=False)
    run_layer = torch.compile(lambda layer, *arguments: layer(*arguments))
    read = torch.compile(model.loss)

    def forward(batch: Batch) -> Tensor:
        x_BTD = model.enter(batch)
        for layer in model.layers:
            x_BTD = run_layer(layer, x_BTD, *batch.where)
        return read(x_BTD, batch)

    return forward


def make_optimizer(model: Transformer, recipe: PeerRecipe) -> torch.optim.AdamW:
    """Fused AdamW; matrices decay."""
    named = list(model.named_parameters())
    still = [p for name, p in named if "norm" in name or "router" in name]
    chosen = {id(p) for p in still}
    groups = [
        {"params": [p for _, p in named if id(p) not in chosen]},
        {"params": still, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        groups,
        lr=recipe.learning_rate,
        betas=(recipe.beta1, recipe.beta2),
        eps=recipe.epsilon,
        weight_decay=recipe.weight_decay,
        fused=True,
    )
