"""What a run directory says about its experiment is what was trained."""

import pytest

from experiments.command_line import experiment_names, load_experiment
from unimod_jax.training.run_directory import experiment_from_json, experiment_to_json


@pytest.mark.parametrize("name", experiment_names())
def test_every_experiment_is_read_back_as_it_was_written(name):
    experiment = load_experiment(name)
    assert experiment_from_json(experiment_to_json(experiment)) == experiment
