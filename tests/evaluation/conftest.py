"""One tiny run, trained for a few steps and evaluated once per session."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.models.tiny_model import routed_in
from unimod_jax.data import DataConfig, SplitRecords, open_split
from unimod_jax.evaluation import Limits, Sampler, TrainedRun, evaluate, open_run
from unimod_jax.generation import SamplingConfig
from unimod_jax.layout import masked_image_tasks, shared
from unimod_jax.models import ModelConfig
from unimod_jax.objectives import MaskedImage
from unimod_jax.training import Experiment, TrainingConfig, train

STEPS = 4


def tiny_experiment(data_directory: Path) -> Experiment:
    """One run of equal layers and two tasks, because compilation is what takes time."""
    return Experiment(
        MaskedImage(),
        model=ModelConfig(
            width=32,
            num_layers=2,
            num_heads=2,
            num_kv_heads=2,
            head_dim=16,
            remat="nothing",
        ),
        mod=routed_in((0, 1), ("text_to_image", "image_to_text"), keep_ratio=0.4),
        tasks=shared(masked_image_tasks(), text_to_image=1, image_to_text=1),
        data=DataConfig(directory=str(data_directory), batch_size=12, caption_tokens=9),
        training=TrainingConfig(
            steps=STEPS, warmup_steps=1, checkpoint_every=2, log_every=1
        ),
        sampling=SamplingConfig(guidance=1.5, num_steps=3),
    )


@pytest.fixture(scope="session")
def run_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    experiment = tiny_experiment(tmp_path_factory.mktemp("data"))
    return train(experiment, tmp_path_factory.mktemp("runs") / "tiny").path


@pytest.fixture(scope="session")
def trained(run_path: Path) -> TrainedRun:
    return open_run(run_path)


@pytest.fixture(scope="session")
def sampler(trained: TrainedRun) -> Sampler:
    return Sampler(trained, batch_size=4)


@pytest.fixture(scope="session")
def held_out(trained: TrainedRun) -> SplitRecords:
    return open_split(trained.experiment.data, "test")


@pytest.fixture(scope="session")
def summary(run_path: Path) -> dict[str, Any]:
    returned = evaluate(run_path, Limits(rows=20, images=20, twin_seconds=0.0))
    assert returned == json.loads((run_path / "summary.json").read_text())
    return returned
