"""The digits data set for training tests, built once per session."""

from pathlib import Path

import pytest

from unimod_jax.data import DataConfig, prepare


@pytest.fixture(scope="session")
def data_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("data")
    prepare(DataConfig(directory=str(directory)))
    return directory
