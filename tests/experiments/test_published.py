"""Published experiments: exact at full size, whole and trainable in their tiny form."""

import dataclasses
import json
from pathlib import Path

import pytest

from experiments import train
from experiments.checkpoint_tour.tiny_release import write_release
from experiments.command_line import experiment_names, load_experiment
from experiments.published import published
from unimod_jax.data import OWN_RECORDS, DataConfig, prepare
from unimod_jax.evaluation import open_run
from unimod_jax.models import MixtureOfTransformers
from unimod_jax.presets import PRESETS, Recipe, model_spec, preset
from unimod_jax.training import Assembly, reduced_twin

FILES = {
    "mot/chameleon_7b": ("chameleon_7b", "mot"),
    "mot/chameleon_443m_speech": ("chameleon_443m_speech", "mot"),
    "mot/transfusion_760m": ("transfusion_760m", "mot"),
    "mot/dense_443m": ("chameleon_443m", "dense"),
    "mot/moe4x_443m": ("chameleon_443m", "moe4x"),
    "mot/hybrid_443m": ("chameleon_443m", "hybrid"),
    "mot/leave_one_out_443m": ("chameleon_443m_speech", "leave_one_out_text"),
    "mot/feed_forward_only_880m": ("chameleon_880m", "mot_ffn_only"),
    "mot/query_key_value_880m": ("chameleon_880m", "mot_ffn_qkv"),
    "mot/first_and_last_layers_443m": ("chameleon_443m", "mot"),
    "mot/released_chameleon_34b": ("chameleon_34b_released", "mot"),
    "unimod/show_o": ("show_o_512", "unimod"),
    "unimod/emu3": ("emu3", "unimod"),
    "unimod/dense_show_o": ("show_o_512", "dense"),
    "unimod/mixture_of_depths": ("show_o_512", "basic_mod"),
    "unimod/task_routers_interleaved": ("show_o_512", "task_routers_interleaved"),
    "unimod/single_router": ("show_o_512", "single_router"),
    "unimod/single_router_matched": ("show_o_512", "single_router_matched"),
    "unimod/skip_interleaved": ("show_o_512", "skip_interleaved"),
    "unimod/early_exit": ("show_o_512", "early_exit"),
    "unimod/random_routing": ("show_o_512", "random_routing"),
    "unimod/attention_routing": ("show_o_512", "attention_routing"),
    "unimod/emu3_trained_threshold": ("emu3", "unimod_trained_threshold"),
    "unimod/emu3_predictor": ("emu3", "unimod_predictor"),
    "unimod/emu3_top_k": ("emu3", "unimod_top_k"),
    "unified/show_o": ("show_o_512", "mot_unimod"),
    "unified/emu3": ("emu3", "mot_unimod"),
    "unified/chameleon": ("chameleon_443m", "mot_unimod"),
    "unified/chameleon_7b": ("chameleon_7b", "mot_unimod"),
    "unified/transfusion": ("transfusion_760m", "mot_unimod"),
}

OWN_TOWERS = {
    "mot/first_and_last_layers_443m": MixtureOfTransformers(
        untied_layers=(0, 1, 22, 23)
    ),
    "mot/released_chameleon_34b": MixtureOfTransformers(initial_towers="copies"),
}

SIZES = {
    *("width", "num_layers", "num_heads", "num_kv_heads", "head_dim"),
    *("feed_forward_hidden", "vocabulary_size"),
    *("image_positions", "compute_dtype", "remat"),
}
"""What the tiny form changes about the architecture; everything else is a flag."""


def test_every_file_of_the_three_folders_is_listed_here():
    folders = {"mot", "unimod", "unified"}
    assert set(FILES) == {n for n in experiment_names() if n.split("/")[0] in folders}


# --- Full size ------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_its_preset_at_full_size(name: str):
    experiment, (of, variant) = load_experiment(name), FILES[name]
    found, expected = Assembly(experiment).spec, model_spec(preset(of), variant)
    towers = OWN_TOWERS.get(name, expected.towers)
    assert found == dataclasses.replace(
        expected,
        towers=towers,
        # Emu3's ends of line take places in an image; no learned position counts them.
        image_tokens=Assembly(experiment).sizes.image_slots
        if experiment.data.image_line
        else expected.image_tokens,
    )
    assert experiment.objective == preset(of).objective
    for field in dataclasses.fields(Recipe):
        value = getattr(preset(of).recipe, field.name)
        assert getattr(experiment.training, field.name) == value, field.name


@pytest.mark.parametrize("name", PRESETS)
def test_rows_have_the_presets_counts(name: str):
    assembly, of = Assembly(published(name, "dense")), PRESETS[name]
    assert sum(assembly.rows.values()) == of.batch_rows
    expected = of.layouts(assembly.spec)
    for task, layout in assembly.layouts.items():
        assert layout.row_length == expected[task].row_length
        for stream in layout.stream_names:
            assert layout.num_tokens(stream) == expected[task].num_tokens(stream)


def test_tasks_are_shared_as_in_the_papers():
    def shares(name: str) -> dict[str, int]:
        tasks = published(name, "dense").tasks
        return {task.name: task.share for task in tasks if task.share}

    both = ("text_to_image", "image_to_text")
    assert shares("show_o_512") == {both[0]: 5, both[1]: 5, "text_only": 2}
    assert shares("show_o_256") == {both[0]: 4, both[1]: 6, "text_only": 2}
    assert shares("emu3") == {both[0]: 1, both[1]: 1}
    assert shares("transfusion_7b") == {"interleaved": 1}
    assert shares("chameleon_7b_released") == {"interleaved": 1}


def test_full_size_without_records_is_refused_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture
):
    with pytest.raises(SystemExit) as stopped:
        train.main(["mot/chameleon_7b", "--run-dir", str(tmp_path / "run")])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert f"no prepared data set {OWN_RECORDS!r}" in error and error.count("\n") == 1
    assert not (tmp_path / "run").exists()


# --- The tiny form --------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_the_tiny_form_keeps_everything_but_sizes(name: str):
    full, tiny = load_experiment(name), reduced_twin(load_experiment(name))
    for field in dataclasses.fields(full.model):
        if field.name not in SIZES:
            value = getattr(full.model, field.name)
            assert getattr(tiny.model, field.name) == value, field.name
    assert (tiny.model.num_heads == tiny.model.num_kv_heads) == (
        full.model.num_heads == full.model.num_kv_heads
    )
    assert bool(tiny.data.image_line) == bool(full.data.image_line)
    assert set(Assembly(tiny).layouts) == set(Assembly(full).layouts)
    assert tiny.mod == full.mod.at_depth(tiny.model.num_layers)
    assert tiny.objective == dataclasses.replace(
        full.objective,
        # Pixels have bounds, which latents have not.
        **({"largest_value": 1.0} if full.objective.continuous_images else {}),
    )
    towers = dataclasses.replace(tiny.mot, untied_layers=full.mot.untied_layers)
    assert towers == full.mot
    assert len(Assembly(tiny).spec.designs) == 4
    assert sum(Assembly(tiny).rows.values()) == tiny.data.batch_size <= 24


def test_layers_named_by_number_move_to_the_same_depth():
    tiny = reduced_twin(load_experiment("mot/first_and_last_layers_443m"))
    assert tiny.mot.untied_layers == (0, 3)
    deeper = reduced_twin(
        load_experiment("mot/first_and_last_layers_443m"), num_layers=12
    )
    assert deeper.mot.untied_layers == (0, 11)


@pytest.fixture(scope="module")
def data_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("data")
    prepare(DataConfig(directory=str(directory)))
    return directory


@pytest.mark.parametrize("name", ["mot/dense_443m", "unimod/emu3", "unified/chameleon"])
def test_the_command_trains_the_tiny_form(
    name: str, data_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    options = ["--training.steps", "2", "--training.log-every", "1"]
    options += ["--model.num-layers", "2"]
    train.main([name, "--tiny", *options, "--data.directory", str(data_directory)])
    run = tmp_path / "runs" / f"{name}-tiny"
    rows = [json.loads(row) for row in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2]
    config = json.loads((run / "config.json").read_text())
    assert config["training"]["steps"] == 2
    assert config["model"]["width"] == 64


def test_a_new_run_is_given_an_image_tokenizer(
    data_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    """Without it the run is refused before it begins; the tiny one has 16 codes."""
    release = write_release("show-o", tmp_path / "release")
    learned = {"code_size": 2, "image_channels": 3, "image_levels": 16}
    command = [
        *("unimod/show_o", "--tiny", "--run-dir", str(tmp_path / "run")),
        *("--training.steps", "1", "--model.num-layers", "2"),
        *("--data.directory", str(data_directory)),
        *(f"--data.{name}={value}" for name, value in learned.items()),
    ]
    with pytest.raises(SystemExit):
        train.main(command)
    error = capsys.readouterr().err
    assert "has no learned image tokenizer; start the run with --image-tok" in error
    assert not (tmp_path / "run").exists()
    train.main([*command, "--image-tokenizer", str(release.files.image_tokenizer)])
    assert open_run(tmp_path / "run").assembly.sizes.image_slots == 16


def test_help_tells_of_the_tiny_form(capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit) as stopped:
        train.main(["--help"])
    assert stopped.value.code == 0
    assert "--tiny" in capsys.readouterr().out
