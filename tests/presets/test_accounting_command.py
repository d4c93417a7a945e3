"""`python -m experiments.accounting`: what it prints and how it refuses."""

import dataclasses
import json

import pytest

from experiments.accounting import main
from unimod_jax.presets import PRESETS, VARIANTS, Recipe


def printed(capsys, *arguments):
    main(arguments)
    return capsys.readouterr().out


def test_the_table_shows_the_published_saving_beside_the_honest_ones(capsys):
    text = printed(capsys, "show_o_512", "--variant", "unimod")
    mean = next(line for line in text.splitlines() if line.startswith("  mean  "))
    assert mean.split() == ["mean", "-0.150", "-0.157", "-0.152", "-0.152"]
    assert "mean over text_to_image, image_to_text" in text
    assert "1,448,225,922" in text


def test_json_is_one_object_with_everything(capsys):
    found = json.loads(printed(capsys, "emu3", "--variant", "unimod", "--json"))
    assert (found["preset"], found["variant"]) == ("emu3", "unimod")
    count = found["parameters"]
    assert set(count) == {"total", "activated", "embedding", "towers"}
    assert count["total"] == 8_492_011_520 + 2 * 16 * 4096
    assert round(found["flops_change_vs_dense"]["mean"]["linear_only"], 3) == -0.4
    assert found["mean_over"] == ["text_to_image", "image_to_text"]
    for task, flops in found["forward_flops"].items():
        assert set(flops) == set(found["flops_change_vs_dense"][task])
        trained = {name: 3 * n for name, n in flops.items()}
        assert found["training_flops"][task] == trained


def test_a_routed_layer_caches_only_what_it_keeps(capsys):
    found = json.loads(printed(capsys, "emu3", "--variant", "unimod", "--json"))
    cache = found["kv_cache_bytes"]["text_to_image"]
    tokens = found["tokens_per_row"]["text_to_image"]
    # Two arrays, 8 heads of 128, two bytes each; half the layers hold a fifth.
    assert cache["dense_bytes"] == tokens * 32 * 2 * 8 * 128 * 2
    assert cache["bytes"] == pytest.approx(0.6 * cache["dense_bytes"], rel=1e-3)


def test_the_order_of_attention_is_said_with_the_counts_that_decided_it(capsys):
    arguments = ("chameleon_7b_speech", "--variant", "mot")
    found = json.loads(printed(capsys, *arguments, "--json"))["attention_order"]
    assert found["interleaved"]["order"] == "sequence"
    assert found["text_to_image"]["order"] == "storage"
    packed = found["interleaved"]
    assert packed["storage_blocks"] > 1.25 * packed["sequence_blocks"]
    line = f"{packed['storage_blocks']} as stored {packed['sequence_blocks']}"
    words = " ".join(printed(capsys, *arguments).split())
    assert f"interleaved sequence {line} in sequence" in words


def test_rows_that_are_drawn_as_a_whole_cache_nothing(capsys):
    found = json.loads(printed(capsys, "show_o_256", "--json"))
    assert found["variant"] == "dense"
    assert found["kv_cache_bytes"]["text_to_image"]["bytes"] == 0
    assert found["kv_cache_bytes"]["image_to_text"]["bytes"] > 0


def test_json_says_how_the_model_is_trained_and_where_each_number_is_from(capsys):
    found = json.loads(printed(capsys, "show_o_512", "--variant", "mot", "--json"))
    recipe, sources = found["recipe"], found["sources"]
    fields = {field.name for field in dataclasses.fields(Recipe)}
    assert set(recipe) == fields
    assert (recipe["steps"], recipe["schedule"]) == (16_000, "cosine")
    assert found["batch_rows"] == 576
    assert fields | {"batch_rows", "model", "sizes", "unimod"} <= set(sources)
    assert all(sentence.endswith(".") for sentence in sources.values())


@pytest.mark.parametrize("name", PRESETS)
def test_the_recipe_prints_every_value_with_its_source_below(name, capsys):
    text = printed(capsys, name, "--recipe")
    assert all(len(line) <= 88 for line in text.splitlines())
    lines = [line.split() for line in text.splitlines()]
    words = text.split()
    for field, value in dataclasses.asdict(PRESETS[name].recipe).items():
        below = lines[lines.index([field, str(value)]) + 1]
        assert below == PRESETS[name].source_of[field].split()[: len(below)]
    for sentence in PRESETS[name].source_of.values():
        assert " ".join(sentence.split()) in " ".join(words)


def test_the_list_names_everything(capsys):
    text = printed(capsys, "--list")
    assert all(f"  {name} " in text for name in (*PRESETS, *VARIANTS))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show_p"], "no preset 'show_p'"),
        (["show_o_512", "--variant", "mott"], "no variant 'mott'"),
        (["show_o_512", "--variant", "leave_one_out_text"], "use a preset with speech"),
        ([], "no preset is named"),
    ],
)
def test_wrong_names_end_in_one_sentence(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error
    assert error.count("\n") == 1
