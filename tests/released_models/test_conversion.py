"""Bad files and bad choices end in one sentence, and leave nothing behind."""

import dataclasses
import json
from pathlib import Path

import pytest

from experiments.checkpoint_tour.tiny_release import Release, write_release
from experiments.convert import main
from unimod_jax.convert import LAYOUTS, ConversionError
from unimod_jax.data import OWN_RECORDS, DataError
from unimod_jax.released_models import (
    AS_RELEASED,
    FAMILIES,
    PublishedFiles,
    WarmStart,
    convert_model,
)
from unimod_jax.released_models.conversion import starting_experiment
from unimod_jax.released_models.source import open_source
from unimod_jax.training import Assembly


@pytest.fixture(scope="module", params=["show-o", "phi", "emu3", "chameleon"])
def release(request, tmp_path_factory) -> Release:
    return write_release(request.param, tmp_path_factory.mktemp("r") / request.param)


@pytest.fixture(scope="module")
def show_o(tmp_path_factory) -> Release:
    return write_release("show-o", tmp_path_factory.mktemp("r") / "show-o")


def refused(release: Release, out: Path, error, match: str, **changes) -> None:
    files = dataclasses.replace(release.files, **changes)
    with pytest.raises(error, match=match):
        convert_model(FAMILIES[release.family], files, out, image_size=8)
    assert list(out.parent.iterdir()) == []


def test_rows_have_the_published_vocabulary_and_a_slot_for_each_code(release):
    source = open_source(FAMILIES[release.family], release.files)
    assembly = Assembly(starting_experiment(source, AS_RELEASED, 8))
    data = assembly.experiment.data
    side = 8 // data.code_size
    assert assembly.vocabulary_size == source.model.vocabulary_size
    assert assembly.sizes.image_slots == side * (side + (data.image_line > 0))
    assert data.name == OWN_RECORDS


def test_towers_and_routes_are_what_was_asked_for(release):
    source = open_source(FAMILIES[release.family], release.files)
    for towers in (False, True):
        for routes in (False, True):
            asked = starting_experiment(source, WarmStart(towers, routes), 8)
            spec = Assembly(asked).spec
            assert bool(spec.towers.untied_components) == towers
            assert any(design.routes for design in spec.designs) == routes


def test_a_model_that_sees_features_of_clip_only_draws(show_o):
    source = open_source(FAMILIES["show-o"], show_o.files)
    with_clip = dataclasses.replace(source, layout=LAYOUTS["show_o_clip"])
    sees = {
        variant.layout.name: set(
            Assembly(starting_experiment(variant, AS_RELEASED, 8)).layouts
        )
        for variant in (source, with_clip)
    }
    assert sees["show_o"] - sees["show_o_clip"] == {"image_to_text"}
    assert "text_to_image" in sees["show_o_clip"]


def test_a_directory_that_exists_is_not_touched(show_o, tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "mine").write_text("mine")
    with pytest.raises(ConversionError, match="exists already; give --out"):
        convert_model(FAMILIES["show-o"], show_o.files, tmp_path / "kept")
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["mine"]


def test_a_missing_image_tokenizer_is_asked_for(show_o, tmp_path):
    match = "holds no image tokenizer, but show-o .* codes of magvit_v2; give that one"
    refused(show_o, tmp_path / "out", ConversionError, match, image_tokenizer=None)


def test_another_image_tokenizer_is_named(show_o, tmp_path, tmp_path_factory):
    other = write_release("chameleon", tmp_path_factory.mktemp("r") / "chameleon")
    given = {"image_tokenizer": other.files.image_tokenizer}
    match = "holds chameleon_vqgan, but show-o reads and writes codes of magvit_v2"
    refused(show_o, tmp_path / "out", ConversionError, match, **given)


def test_a_missing_text_tokenizer_is_asked_for(show_o, tmp_path, tmp_path_factory):
    empty = tmp_path_factory.mktemp("empty")
    match = "neither a tokenizer file nor a folder with tokenizer.json"
    refused(show_o, tmp_path / "out", DataError, match, text_tokenizer=empty)


def test_another_vocabulary_is_refused_with_both_numbers(
    show_o, tmp_path, tmp_path_factory
):
    folder = tmp_path_factory.mktemp("rows")
    for path in show_o.files.folder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    rows = config["vocab_size"]
    config["vocab_size"] = rows + 1
    (folder / "config.json").write_text(json.dumps(config))
    match = rf"has {rows} vocabulary rows in .*, but the model has {rows + 1}"
    refused(show_o, tmp_path / "out", ConversionError, match, weights=folder)


def test_pictures_of_another_size_than_the_rows_are_refused(release, tmp_path):
    """Emu3's rows say how large an image is: the option has to come before them."""

    def larger(experiment):
        data = dataclasses.replace(experiment.data, image_size=16, image_line=0)
        return dataclasses.replace(experiment, data=data)

    family, out = FAMILIES[release.family], tmp_path / "out"
    with pytest.raises(ValueError, match=r"image_size is 16, but .* --image-size"):
        convert_model(family, release.files, out, image_size=8, change=larger)
    assert list(tmp_path.iterdir()) == []


def test_files_of_another_family_are_named(show_o, tmp_path):
    with pytest.raises(ConversionError, match="looks like Show-o, but emu3 reads Emu3"):
        convert_model(FAMILIES["emu3"], show_o.files, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_truncated_file_leaves_nothing_behind(show_o, tmp_path, tmp_path_factory):
    whole = next(show_o.files.folder.glob("*.safetensors"))
    folder = tmp_path_factory.mktemp("cut")
    (folder / whole.name).write_bytes(whole.read_bytes()[:-100])
    refused(show_o, tmp_path / "out", ConversionError, whole.name, weights=folder)


def test_an_image_size_of_broken_codes_is_refused(show_o, tmp_path):
    with pytest.raises(ValueError, match="7"):
        convert_model(FAMILIES["show-o"], show_o.files, tmp_path / "out", image_size=7)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_nothing_behind(show_o, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("unimod_jax.released_models.conversion.save_weights", full)
    refused(show_o, tmp_path / "out", OSError, "No space left")


def test_a_hub_out_of_reach_is_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(SystemExit, match="2"):
        main(["emu3", "--from-hub", "BAAI/no-such", "--out", str(tmp_path / "out")])
    error = capsys.readouterr().err
    assert error.startswith("error: BAAI/no-such cannot be downloaded")
    assert error.count("\n") == 1


def test_what_was_never_published_cannot_be_exported(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["export", str(tmp_path / "nothing"), "--out", str(tmp_path / "out")])
    assert "is not a run directory" in capsys.readouterr().err


def test_tokenizers_are_sought_beside_the_weights(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert PublishedFiles(tmp_path / "model.safetensors").folder == tmp_path
    assert PublishedFiles(tmp_path).folder == tmp_path
