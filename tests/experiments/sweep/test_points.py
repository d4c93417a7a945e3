"""Which points a sweep has, what they are called, and what is refused at once."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.command_line import load_experiment, override
from experiments.options import options_by_name
from experiments.sweep.points import Point, parse_axes, plan_points, refusal
from unimod_jax.training import RunError

DEMO = load_experiment("toy/demo")


def points_of(*texts: str) -> list[Point]:
    return plan_points(parse_axes(texts, DEMO, []))


def test_points_are_the_product_and_the_last_axis_varies_fastest():
    points = points_of("mod.plan=last_half:0.2,none", "data.batch_size=36,18")
    assert [tuple(point.values.values()) for point in points] == [
        ("last_half:0.2", "36"),
        ("last_half:0.2", "18"),
        ("none", "36"),
        ("none", "18"),
    ]
    assert points[1].name == "plan=last_half-0.2_batch_size=18"
    options = ["--mod.plan", "last_half:0.2", "--data.batch_size", "18"]
    assert points[1].options() == options


@pytest.mark.parametrize(
    ("text", "words", "name"),
    [
        ("mot.untied_layers=1 3", ["1", "3"], "untied_layers=1+3"),
        ("mod.plan=1+3:0.5", ["1+3:0.5"], "plan=1-3-0.5"),
        ("mot.untied-layers=all", ["all"], "untied_layers=all"),
        ("data.name='a,b'", ["a,b"], "name=a-b"),
        ('data.name="two words" three', ["two words", "three"], "name=two-words+three"),
        ("mot.expert_towers=()", [], "expert_towers=empty"),
        ("mesh.fsdp=-1", ["-1"], "fsdp=-1"),
        ("topology=v5e:8x8", ["v5e:8x8"], "topology=v5e-8x8"),
        ("data.directory=/tmp/../x", ["/tmp/../x"], "directory=-tmp-..-x"),
    ],
)
def test_a_value_is_passed_on_word_by_word(text: str, words: list[str], name: str):
    (point,) = points_of(text)
    assert point.options()[1:] == words
    assert point.name == name


def test_a_tuple_arrives_as_a_tuple():
    first, second = points_of("mot.untied_layers=1 3,0 2")
    assert override(DEMO, first.options(), "sweep").mot.untied_layers == (1, 3)
    assert override(DEMO, second.options(), "sweep").mot.untied_layers == (0, 2)


def test_options_are_the_same_however_they_are_written():
    one = ["--data.batch-size=3", "--mot.untied_layers", "1", "3", "--data.resize"]
    other = ["--data.resize", "--mot.untied-layers", "1", "3", "--data.batch_size", "3"]
    wanted = {"data.batch_size": "3", "data.resize": "", "mot.untied_layers": "1 3"}
    assert options_by_name(one) == options_by_name(other) == wanted
    assert options_by_name(["--mesh.fsdp", "-1", "--mesh.fsdp", "2"]) == {
        "mesh.fsdp": "2"
    }


def test_axes_with_one_last_name_keep_their_whole_names():
    (point,) = points_of("data.seed=1", "training.seed=2", "mesh.fsdp=3")
    assert point.name == "data.seed=1_training.seed=2_fsdp=3"


@given(st.lists(st.text(st.characters(exclude_characters=",'\"\\")), min_size=1))
def test_any_point_has_a_name_that_is_one_short_folder(values: list[str]):
    axes = {f"axis_{i}": [value] for i, value in enumerate(values)}
    (point,) = plan_points(axes)
    assert re.fullmatch(r"axis[A-Za-z0-9._=+-]+", point.name)
    assert len(point.name) < 200


def test_long_names_differ_where_their_points_do():
    names = {point.name for point in points_of(f"data.name={'x' * 300}1,{'x' * 300}2")}
    assert len(names) == 2


@pytest.mark.parametrize(
    "text",
    ["mod.plan", "=0.2", "a=", "a=0.2,", "a=,0.2", "a=0.2,,0.4", "a='x", "a= , "],
)
def test_what_is_no_axis_is_refused(text: str):
    with pytest.raises(RunError, match=r"is not an axis; write NAME=VALUE"):
        parse_axes([text], DEMO, [])


@pytest.mark.parametrize("values", ["0.2,0.2", "a b,'a' b", "True,true", "a/b,a:b"])
def test_values_that_would_share_a_folder_are_refused(values: str):
    with pytest.raises(RunError, match=r"two points are name=.*; --vary each value"):
        points_of(f"data.name={values}")


@pytest.mark.parametrize(
    ("texts", "fixed", "sentence"),
    [
        ([], [], "nothing varies"),
        (
            ["mod.plann=1"],
            [],
            r"--mod\.plann; did you mean --mod\.plan\?",
        ),
        (["mood.plan=1"], [], r"did you mean --mod\?"),
        (["nonsense=1"], [], "there is no option --nonsense; see --help"),
        (["data.name.first=1"], [], "there is no option --data.name.first"),
        (["mod=1"], [], r"--mod is a group of options; .* such as --mod\."),
        (["tasks.text.share=1"], [], r"did you mean --tasks\.text_only\?"),
        (["tasks.text_only.prefix=a"], [], "there is no option"),
        (["data.seed=1", "data.seed=2"], [], "is given twice"),
        (["data.batch_size=1"], ["--data.batch-size=3"], "is given twice"),
        (["topology=cpu:1"], ["--topology"], "is given twice"),
    ],
)
def test_axes_that_no_point_could_have_are_refused(texts, fixed, sentence):
    with pytest.raises(RunError, match=sentence):
        parse_axes(texts, DEMO, fixed)


def test_every_group_and_the_topology_can_be_varied():
    texts = ["topology=cpu:1", "tasks.text_only.loss_weight=0,1", "mesh.data=2"]
    assert len(parse_axes(texts, DEMO, ["--training.steps", "3"])) == 3


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("mod.plan=banana", "plan 'banana' is not known; give 'none', "),
        ("data.patch_size=3", "data.patch_size 3 does not divide data.image_size 8"),
        ("training.log_every=0", "training.log_every is 0; give a whole number"),
    ],
)
def test_a_point_that_is_no_experiment_says_why_in_one_sentence(text, sentence, capsys):
    (point,) = points_of(text)
    why = refusal(DEMO, point, [])
    assert why is not None and sentence in why and "\n" not in why
    assert capsys.readouterr() == ("", "")


def test_a_point_may_need_the_options_that_all_have():
    (point,) = points_of("data.patch_size=4")
    assert refusal(DEMO, point, ["--data.image_size", "10"])
    assert refusal(DEMO, point, ["--data.image_size", "16"]) is None


def test_the_topology_is_no_option_of_the_experiment():
    (point,) = points_of("topology=v5e:8x8")
    assert refusal(DEMO, point, []) is None
    assert point.options() == ["--topology", "v5e:8x8"]
