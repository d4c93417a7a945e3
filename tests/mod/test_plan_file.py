"""Plans in files and in a word of a command line."""

import json

import pytest

from unimod_jax.mod import (
    TaskPlan,
    every_other,
    in_layers,
    last_half,
    plan_from,
    plan_from_json,
    plan_to_json,
    read_plan,
    same_for,
    write_plan,
)

TASKS = ("drawing", "captions")
PLAN = (
    TaskPlan("drawing", (None, None, 0.8, 0.0)),
    TaskPlan("captions", (None, 0.3, 1.0, 0.2)),
)
WHOLE = {"format": 1, "num_layers": 2, "tasks": {"a": [None, 0.5]}}


def test_a_plan_survives_its_file(tmp_path):
    path = tmp_path / "plan.json"
    write_plan(path, PLAN, 4)
    assert read_plan(path, 4) == PLAN
    assert json.loads(path.read_text())["tasks"]["captions"] == [None, 0.3, 1.0, 0.2]
    assert plan_from(str(path), (), 4) == PLAN


def test_a_plan_of_no_task_survives_too():
    assert plan_from_json(plan_to_json((), 3), 3) == ()


def test_a_plan_of_another_depth_is_not_written():
    with pytest.raises(ValueError, match="has 4 layers, but num_layers is 3"):
        plan_to_json(PLAN, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"form": 1}, r"it holds \['form', 'format', .* is an object of exactly"),
        ({"format": 2}, "its format is 2, but this version reads format 1"),
        ({"num_layers": 3}, "its num_layers is 3, but the model has 2; make one for 2"),
        ({"tasks": ["a"]}, r"its tasks are \['a'\], but they are an object"),
        ({"tasks": {"a": 0.5}}, "'a' has 0.5; give a list with a number or null"),
        ({"tasks": {"a": ["0.5", 1]}}, r"'a' has \['0.5', 1\]; give a list"),
        ({"tasks": {"a": [True, 1]}}, r"'a' has \[True, 1\]; give a list"),
        ({"tasks": {"a": [0.5]}}, "'a' has 1 layers, but num_layers is 2"),
        ({"tasks": {"a": [None, 1.5]}}, "layer 1 of task 'a': keep_ratio is 1.5"),
        ({"tasks": {"a": [None, -1]}}, "layer 1 of task 'a': keep_ratio is -1"),
        ({"tasks": {"a": [float("nan"), 1]}}, "layer 0 of task 'a': keep_ratio is nan"),
    ],
)
def test_a_file_that_is_no_plan_is_refused_in_a_sentence(tmp_path, changes, message):
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(WHOLE | changes))
    with pytest.raises(ValueError, match=rf"plan\.json cannot be used: .*{message}"):
        read_plan(path, 2)


def test_a_missing_key_half_a_file_and_no_file_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"it holds \['num_layers', 'tasks'\]"):
        plan_from_json('{"num_layers": 2, "tasks": {}}', 2)
    with pytest.raises(ValueError, match="it holds list, but a plan is an object"):
        plan_from_json("[]", 2)
    with pytest.raises(ValueError, match=r"\['a'\] stand twice in one object"):
        plan_from_json('{"tasks": {"a": [], "a": []}}', 2)
    path = tmp_path / "plan.json"
    path.write_text('{"format": 1')
    with pytest.raises(ValueError, match=r"plan\.json cannot be used: Expecting"):
        read_plan(path, 2)
    with pytest.raises(ValueError, match=r"other\.json cannot be read \(No such file"):
        plan_from(str(tmp_path / "other.json"), TASKS, 2)


@pytest.mark.parametrize(
    ("text", "ratios"),
    [
        ("last_half:0.4", last_half(8, 0.4)),
        ("last_half:1:0.2:linear:4", last_half(8, 1.0, 0.2, "linear", 4)),
        ("every_other:1:0.5:cosine", every_other(8, 1.0, 0.5, "cosine")),
        ("2+5:0.5", in_layers(8, (2, 5), 0.5)),
        ("3:0", in_layers(8, (3,), 0.0)),
    ],
)
def test_a_word_names_a_function_for_the_routed_tasks(text, ratios):
    assert plan_from(text, TASKS, 8) == same_for(TASKS, ratios)


def test_none_routes_nothing():
    assert plan_from("none", TASKS, 8) == plan_from("none", (), 8) == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("first_half:0.4", "plan 'first_half:0.4' is not known; give 'none', 'last_h"),
        ("last_half", "plan 'last_half' is not known; give"),
        ("last_half:1:0:linear:2:3", "is not known; give"),
        ("last_half:much", r"cannot be read \(could not convert string .*; give"),
        ("last_half:1:0.2:linear:few", r"cannot be read \(invalid literal"),
        ("last_half:1:0.2:square", "schedule 'square' is not known; choose one of"),
        ("last_half:1.5", "layer 4 of task 'drawing': keep_ratio is 1.5"),
        ("last_half:nan", "layer 4 of task 'drawing': keep_ratio is nan"),
        ("2+9:0.5", r"layers \[9\] cannot be routed: the model has layers 0 to 7"),
    ],
)
def test_a_word_that_says_no_plan_is_refused_in_a_sentence(text, message):
    with pytest.raises(ValueError, match=message):
        plan_from(text, TASKS, 8)


def test_a_function_has_nothing_to_route_without_tasks():
    with pytest.raises(ValueError, match="there are none; name them in"):
        plan_from("last_half:0.4", (), 8)
