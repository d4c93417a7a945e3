"""Releases of the published sizes open, and make experiments of the published rows."""

import math

import jax
import pytest

from tests.released_models.published_release import write_published
from unimod_jax.data import RowTemplates, document
from unimod_jax.released_models import FAMILIES, WarmStart
from unimod_jax.released_models.conversion import starting_experiment
from unimod_jax.released_models.source import open_source
from unimod_jax.training import Assembly, RunDirectory
from unimod_jax.training.run_directory import experiment_to_json
from unimod_jax.training.sharded_step import abstract_state

ROWS = {
    # family: (embedding rows, id of code 0, codes, slots of an image)
    "show-o": (58_498, 50_305, 8192, 32 * 32),
    "phi": (58_498, 50_305, 8192, 16 * 16),
    "emu3": (184_622, 151_854, 32_768, 64 * 65),
    "chameleon": (65_536, 4, 8192, 32 * 32),
}
PARAMETERS = {"show-o": 1.45e9, "phi": 1.45e9, "emu3": 8.49e9, "chameleon": 7.01e9}


@pytest.fixture(scope="module", params=list(ROWS))
def source(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    files = write_published(request.param, folder)
    return open_source(FAMILIES[request.param], files)


@pytest.fixture(scope="module")
def experiment(source):
    return starting_experiment(source, WarmStart())


def test_rows_are_the_published_ones(source, experiment):
    assembly = Assembly(experiment)
    vocabulary = assembly.vocabulary
    assert (
        assembly.vocabulary_size,
        vocabulary.image_start,
        vocabulary.image_codes,
        assembly.sizes.image_slots,
    ) == ROWS[source.family.name]


def test_the_experiment_of_a_conversion_is_read_as_it_was_written(experiment, tmp_path):
    run = RunDirectory(tmp_path)
    run.config.write_text(experiment_to_json(experiment))
    assert run.read_experiment() == experiment


def test_every_parameter_of_the_model_comes_from_the_files(source, experiment):
    """Or is what Show-o has beyond Phi."""
    params = abstract_state(Assembly(experiment)).params
    held = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
    shapes = {path: entry.parameter_shape for path, entry in source.table.items()}
    assert held == sum(map(math.prod, {**shapes, **source.grown}.values()))
    assert held == pytest.approx(PARAMETERS[source.family.name], rel=0.005)
    assert bool(source.grown) == (source.family.name == "phi")


def test_prompts_and_questions_fit_the_rows(source, experiment):
    layouts = Assembly(experiment).layouts
    given = {"text_to_image": {"prompt": "he"}, "image_to_text": {"question": "he"}}
    for task, texts in given.items():
        row = document(texts, layouts[task], experiment.data, source.text_tokenizer)
        group = RowTemplates(layouts[task]).stack([row])
        used = max(int(stream.token_id_BT.max()) for stream in group.streams.values())
        assert used < ROWS[source.family.name][0]


def test_towers_and_routes_start_from_the_released_sizes(source):
    experiment = starting_experiment(source, WarmStart(towers=True, routes=True))
    params = abstract_state(Assembly(experiment)).params
    held = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
    assert held > 1.8 * PARAMETERS[source.family.name]
