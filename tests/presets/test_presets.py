"""What every preset promises: its name, its rows, and a source for each number."""

import dataclasses

import pytest

from unimod_jax.presets import PRESETS, Recipe, model_spec, preset

EVERY = list(PRESETS.values())


def names(preset):
    return preset.name


def test_presets_are_found_by_name():
    assert len(PRESETS) == 23
    for name, each in PRESETS.items():
        assert preset(name) is each and each.name == name


def test_an_unknown_preset_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"no preset 'show_p'.*show_o_512") as refusal:
        preset("show_p")
    assert str(refusal.value).count(". ") == 0


@pytest.mark.parametrize("each", EVERY, ids=names)
def test_every_number_of_a_recipe_says_where_it_is_from(each):
    fields = {field.name for field in dataclasses.fields(Recipe)}
    chosen = {"model", "objective", "sizes", "batch_rows", "unimod"}
    chosen.add("typical_text_tokens")
    assert set(each.source_of) == fields | chosen
    for sentence in each.source_of.values():
        assert sentence.endswith(".") and len(sentence) > 15


@pytest.mark.parametrize("each", EVERY, ids=names)
def test_presets_are_ready_to_train_in_bfloat16_without_image_positions(each):
    assert each.model.compute_dtype == "bfloat16"
    assert not each.model.image_positions
    assert each.model.vocabulary_size > 0
    spec = model_spec(each, "dense")
    assert spec.vocabulary_size == each.model.vocabulary_size
    assert set(each.mean_tasks) <= set(each.layouts(spec))
    assert bool(each.sizes.patch_size) == each.objective.continuous_images
    assert each.sizes.continuous == each.objective.continuous_images


# Tokens seen in training, in trillions (2411.04996, tables 1, 3, 4 and 5).
TOKENS_SEEN = {
    "chameleon_37m": 0.252,
    "chameleon_94m": 0.168,
    "chameleon_443m": 0.252,
    "chameleon_443m_speech": 0.252,
    "chameleon_880m": 0.252,
    "chameleon_1_5b": 0.252,
    "chameleon_7b": 0.377,
    "transfusion_163m": 0.524,
    "transfusion_7b": 0.524,
    "chameleon_7b_released": 9.2,
    "chameleon_34b_released": 9.2,
}


@pytest.mark.parametrize("name", TOKENS_SEEN)
def test_steps_and_rows_give_the_published_number_of_tokens(name):
    each = preset(name)
    trillions = each.recipe.steps * each.batch_rows * 4096 / 1e12
    assert trillions == pytest.approx(TOKENS_SEEN[name], abs=0.0006)


def row_lengths(name):
    spec = model_spec(preset(name), "dense")
    layouts = preset(name).layouts(spec)
    return {task: layout.row_length for task, layout in layouts.items()}


@pytest.mark.parametrize(
    ("name", "tokens"),
    [("show_o_256", 387), ("show_o_512", 1155), ("show_o_512_long", 1408)],
)
def test_show_o_rows_are_as_long_as_in_its_code(name, tokens):
    lengths = row_lengths(name)
    assert lengths["text_to_image"] == tokens
    assert lengths["image_to_text"] == pytest.approx(tokens, abs=2)


def test_emu3_images_have_lines():
    spec = model_spec(preset("emu3"), "mot")
    layout = preset("emu3").layouts(spec)["text_to_image"]
    assert layout.num_tokens("image") == 64 * 65
    assert layout.row_length == pytest.approx(4300, abs=10)


@pytest.mark.parametrize(
    "name", ["chameleon_7b", "chameleon_443m_speech", "transfusion_760m"]
)
def test_interleaved_rows_have_4096_tokens(name):
    which = preset(name)
    spec = model_spec(which, "mot")
    layout = which.layouts(spec)["interleaved"]
    assert layout.row_length == 4096
    assert layout.num_tokens("image") == 2048
    assert set(layout.stream_names) == set(which.model.modalities)


def test_speech_is_a_seventh_of_a_row_and_appended_to_the_vocabulary():
    two, three = preset("chameleon_7b"), preset("chameleon_7b_speech")
    spec = model_spec(three, "mot")
    tokens = three.layouts(spec)["interleaved"].num_tokens("speech")
    assert tokens == pytest.approx(4096 / 7, abs=32)
    added = three.model.vocabulary_size - two.model.vocabulary_size
    assert added >= 502 and three.model.vocabulary_size % 128 == 0


def test_chameleon_7b_as_released_differs_from_mots_where_the_papers_say():
    mots, released = preset("chameleon_7b").model, preset("chameleon_7b_released").model
    changed = {
        field.name
        for field in dataclasses.fields(mots)
        if getattr(mots, field.name) != getattr(released, field.name)
    }
    assert changed == {"norm_order", "qk_norm", "residual_dropout"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"schedule": "exponential", "final_learning_rate": 0.0},
            "never reaches a final_learning_rate of 0.0",
        ),
    ],
)
def test_schedules_that_cannot_be_followed_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**change)
