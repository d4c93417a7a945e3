"""Phi-1.5 becomes the Show-o whose training begins from it, and is exported as one."""

import json

import jax
import numpy as np
import pytest

from experiments.checkpoint_tour.tiny_release import (
    IMAGE_CODES,
    UNUSED_ROWS,
    Release,
    write_release,
)
from experiments.command_line import load_experiment
from experiments.convert import main
from unimod_jax.convert import ConversionError, open_tensor_files, show_o
from unimod_jax.evaluation import open_run
from unimod_jax.released_models import (
    AS_RELEASED,
    FAMILIES,
    PublishedFiles,
    convert_model,
)
from unimod_jax.released_models.conversion import starting_experiment
from unimod_jax.released_models.source import open_source
from unimod_jax.training import Assembly, StartingPoint

PHI = FAMILIES["phi"]


@pytest.fixture(scope="module")
def release(tmp_path_factory) -> Release:
    return write_release("phi", tmp_path_factory.mktemp("r") / "phi")


@pytest.fixture(scope="module")
def converted(release, tmp_path_factory):
    directory = tmp_path_factory.mktemp("converted") / "phi"
    images = str(release.files.image_tokenizer)
    arguments = ["phi", str(release.files.weights), "--image-tokenizer", images]
    main([*arguments, "--image-size", "8", "--out", str(directory)])
    return directory


def rows_of_phi(release):
    files = open_tensor_files(release.files.weights)
    return files.shape("model.embed_tokens.weight")[0]


def test_it_has_rows_for_text_markers_codes_and_the_mask(release):
    source = open_source(PHI, release.files)
    model = source.model
    text_ids = rows_of_phi(release) - UNUSED_ROWS
    assert model.vocabulary_size == text_ids + 10 + IMAGE_CODES + 1
    assert source.text_tokenizer.vocabulary.image_start == text_ids + 10
    assert (model.qk_norm, model.norm_order, model.biases) == (
        *("layer", "parallel", True),
    )
    assert starting_experiment(source, AS_RELEASED).data.image_size == 256


def test_a_tuning_experiment_starts_from_it(converted):
    start = StartingPoint.open(converted)
    adopted = start.adopted_by(load_experiment("tuning/show_o"))
    assert adopted.model == start.experiment.model
    assert any(design.routes for design in Assembly(adopted).spec.designs)


def test_its_export_is_a_show_o_of_the_same_parameters(release, converted, tmp_path):
    main(["export", str(converted), "--out", str(tmp_path / "show-o")])
    (written,) = (tmp_path / "show-o").iterdir()
    assert written.name == show_o.FILE_NAME
    begun = open_run(converted)
    # Show-o's own config.json tells the vocabulary, and here all sizes.
    config = json.loads((release.files.weights / "config.json").read_text())
    config["vocab_size"] = begun.experiment.model.vocabulary_size
    (tmp_path / "show-o" / "config.json").write_text(json.dumps(config))
    files = PublishedFiles(
        tmp_path / "show-o", release.files.image_tokenizer, release.files.weights
    )
    convert_model(FAMILIES["show-o"], files, tmp_path / "again", image_size=8)
    again = open_run(tmp_path / "again")
    assert again.experiment.model == begun.experiment.model
    ours, theirs = (run.variables["params"] for run in (begun, again))

    def assert_same(begun, again):
        # Phi's files are half floats, and so is the export.
        rounded = np.asarray(begun).astype(np.float16).astype(np.float32)
        np.testing.assert_array_equal(again, rounded)

    jax.tree.map(assert_same, ours, theirs)
    main(["export", str(tmp_path / "again"), "--out", str(tmp_path / "once-more")])
    once_more = tmp_path / "once-more" / show_o.FILE_NAME
    assert once_more.read_bytes() == written.read_bytes()


# --- What cannot begin ----------------------------------------------------------------


def refused(files, tmp_path, match):
    with pytest.raises(ConversionError, match=match):
        convert_model(PHI, files, tmp_path / "out", image_size=8)
    assert not (tmp_path / "out").exists()


def changed(release, folder, **fields):
    """The release with another config.json."""
    folder.mkdir()
    for path in release.files.weights.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | fields))
    return PublishedFiles(folder, release.files.image_tokenizer)


def test_another_number_of_rows_than_its_config_says_is_named(release, tmp_path):
    rows = rows_of_phi(release)
    files = changed(release, tmp_path / "phi", vocab_size=rows - 1)
    match = (
        rf"has {rows} vocabulary rows in model\.embed_tokens\.weight, but .*{rows - 1}"
    )
    refused(files, tmp_path, match)


def test_sizes_that_no_config_tells_are_those_of_the_release(release, tmp_path):
    files = changed(release, tmp_path / "phi")
    (files.weights / "config.json").unlink()
    # The tiny one lacks twenty of 24 layers of 14 tensors; no norms are asked for.
    match = r"has no tensor model\.layers\.4\.self_attn\.q_proj\.weight and 279 more"
    refused(files, tmp_path, match)


def test_a_show_o_is_not_begun_again(tmp_path):
    other = write_release("show-o", tmp_path / "show-o")
    refused(other.files, tmp_path, "looks like Show-o, but phi reads Phi-1.5; give its")
