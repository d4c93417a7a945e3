"""Diffusion on the latents of a learned autoencoder, from its files to pictures."""

import dataclasses

import numpy as np
import pytest

from tests.convert.test_autoencoder_files import publish
from unimod_jax.convert.autoencoder_kl import NAMES
from unimod_jax.data import DataConfig, DataError, open_split
from unimod_jax.evaluation import Sampler, open_run
from unimod_jax.layout import diffusion_tasks, shared
from unimod_jax.models import ModelConfig
from unimod_jax.objectives import ImageDiffusion
from unimod_jax.training import (
    Experiment,
    RunDirectory,
    RunError,
    TrainingConfig,
    learned_codec,
    train,
)


@pytest.fixture
def experiment(data_directory, tmp_path):
    return Experiment(
        ImageDiffusion(largest_value=0.0),
        model=ModelConfig(
            width=16,
            num_layers=1,
            num_heads=1,
            num_kv_heads=1,
            head_dim=16,
            remat="nothing",
        ),
        data=DataConfig(
            directory=str(data_directory),
            codes_directory=str(tmp_path / "codes"),
            train_split="train[:40]",
            image_channels=3,
            code_size=4,
            latent_channels=4,
            latent_scale=0.2,
            patch_size=1,
            caption_tokens=9,
            batch_size=4,
        ),
        tasks=shared(diffusion_tasks(), text_to_image=1, image_to_text=1),
        training=TrainingConfig(steps=2, warmup_steps=1, log_every=1),
    )


def test_a_run_trains_on_latents_and_draws_pictures(experiment, tmp_path):
    vae = publish(tmp_path / "vae", NAMES)
    (vae / "old.bin").write_bytes(b"a pickle")
    run = train(experiment, tmp_path / "run", image_tokenizer=vae)
    assert not (run.image_tokenizer / "old.bin").exists()
    assert len(list((tmp_path / "codes").rglob("*.npy"))) == 1

    trained = open_run(run.path)
    assert trained.shows_codes and trained.assembly.spec.patch_size == 4
    sampler = Sampler(trained, batch_size=2)
    drawn = sampler.draw(["the digit seven", "a one"], seed=0)
    assert (drawn.shape, drawn.dtype) == ((2, 8, 8, 3), np.uint8)
    records = open_split(experiment.data, "test")[:2]
    shown = [record.images[0].pixels for record in records]
    assert len(sampler.caption(shown)) == 2
    latents = trained.codec.encode(np.stack(shown))
    assert latents.shape == (2, 2, 2, 4) and np.ptp(latents) > 0


def test_latents_are_not_clipped_by_mistake(experiment):
    with pytest.raises(ValueError, match=r"objective.largest_value 0"):
        dataclasses.replace(experiment, objective=ImageDiffusion())


def test_what_does_not_fit_the_autoencoder_is_refused(experiment, tmp_path):
    run = RunDirectory(tmp_path / "run")
    run.path.mkdir()
    with pytest.raises(DataError, match="--image-tokenizer"):
        learned_codec.open_codec(run, experiment.data)
    with pytest.raises(RunError, match=r"holds no \.safetensors file"):
        run.copy_image_tokenizer(tmp_path)
    run.copy_image_tokenizer(publish(tmp_path / "vae", NAMES))
    for change, words in (
        ({"latent_channels": 8}, "set them to 4 and 3"),
        ({"image_channels": 1}, "set them to 4 and 3"),
        ({"code_size": 2}, "stands for 4 pixels"),
    ):
        data = dataclasses.replace(experiment.data, **change)
        with pytest.raises(DataError, match=words):
            learned_codec.open_codec(run, data)
