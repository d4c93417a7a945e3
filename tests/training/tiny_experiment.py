"""A tiny experiment on the real digits, and the data set it trains on, made once."""

import dataclasses
from pathlib import Path

from tests.models.tiny_model import routed_in
from unimod_jax.data import DataConfig
from unimod_jax.layout import (
    Task,
    diffusion_tasks,
    masked_image_tasks,
    next_token_tasks,
    shared,
)
from unimod_jax.models import ModelConfig
from unimod_jax.objectives import ImageDiffusion, MaskedImage, NextToken, Objective
from unimod_jax.training import Experiment, TrainingConfig


def tiny_experiment(
    data_directory: Path, objective: Objective | None = None, **training: object
) -> Experiment:
    """One routed layer of width 16, one task: little to compile, all that is saved."""
    steps = {"steps": 6, "warmup_steps": 2, "checkpoint_every": 3, "log_every": 1}
    objective = objective or NextToken()
    return Experiment(
        objective=objective,
        model=ModelConfig(
            width=16, num_layers=1, num_heads=2, num_kv_heads=2, head_dim=8
        ),
        mod=routed_in(
            (0,), ("text_to_image", "image_to_text"), keep_ratio=0.5, num_layers=1
        ),
        data=DataConfig(directory=str(data_directory), batch_size=8, caption_tokens=9),
        tasks=tasks_of(objective, text_to_image=1, image_to_text=0),
        training=TrainingConfig(**(steps | training)),
    )


def tasks_of(objective: Objective, **shares: int) -> tuple[Task, ...]:
    """Tasks whose images are represented as the objective trains them."""
    families = {
        NextToken: next_token_tasks,
        MaskedImage: masked_image_tasks,
        ImageDiffusion: diffusion_tasks,
    }
    return shared(families[type(objective)](), **shares)


def with_mesh(experiment: Experiment, **axes: int) -> Experiment:
    """The same experiment on a mesh."""
    mesh = dataclasses.replace(experiment.mesh, **axes)
    return dataclasses.replace(experiment, mesh=mesh)
