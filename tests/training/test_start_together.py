"""Two processes start from a converted model as one does."""

import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from experiments.checkpoint_tour.tiny_release import write_release
from tests.training.two_processes import TwoProcesses
from unimod_jax.evaluation import open_run
from unimod_jax.released_models import FAMILIES, convert_model
from unimod_jax.training import RunDirectory


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("emu3")
    release = write_release("emu3", folder / "release")
    family = FAMILIES["emu3"]
    return convert_model(family, release.files, folder / "converted", image_size=8)


def test_two_processes_have_the_weights_that_they_start_from(
    converted, tmp_path, data_directory
):
    """With a learning rate of next to nothing, each on its part of the mesh."""
    together = TwoProcesses(
        *(RunDirectory(tmp_path / "together"), tmp_path, data_directory),
        steps=1,
        experiment="tuning/emu3",
    )
    together.start(
        *("--start-from", str(converted.path), "--mesh.data", "2", "--mesh.fsdp", "4"),
        *("--data.name", "handwritten_digits", "--data.attributes", "label"),
        *("--data.parts", "image", "text=captions"),
        *("--data.caption_tokens", "64", "--data.batch_size", "16"),
        *("--training.learning_rate", "1e-30", "--training.weight_decay", "0"),
        *("--training.final_learning_rate", "1e-30"),
        *("--model.compute_dtype", "float32"),
    )
    assert together.codes() == [0, 0], together.log()
    trained, released = open_run(together.run.path), open_run(converted.path)
    assert trained.step == 1
    ours, theirs = (
        flatten_dict(each.variables["params"], sep="/") for each in (trained, released)
    )
    shared = [name for name in theirs if "transformer" not in name]
    assert len(shared) == 3, shared
    for name in shared:
        np.testing.assert_array_equal(ours[name], theirs[name])
    for name in ("tokenizer", "published"):
        kept, given = (getattr(r, name).read_bytes() for r in (together.run, converted))
        assert kept == given
