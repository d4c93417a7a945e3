"""Finding experiments, overriding them, and failing in one sentence."""

import dataclasses
import errno
from pathlib import Path

import pytest

from experiments import train
from experiments.command_line import (
    experiment_names,
    load_experiment,
    one_sentence_errors,
    override,
)
from experiments.compile_check import __main__ as compile_check
from experiments.sweep import __main__ as sweep
from unimod_jax.data import Vocabulary
from unimod_jax.mod import TaskPlan, every_other, last_half, same_for, write_plan
from unimod_jax.training import Assembly, Experiment, PeerLost, Preempted, RunError

OWN_FILE = '''
"""My own."""
import dataclasses
from experiments.command_line import load_experiment

def experiment():
    return dataclasses.replace(load_experiment("toy/demo"))
'''


@pytest.mark.parametrize("name", experiment_names())
def test_every_experiment_that_comes_along_is_whole(name: str):
    assembly = Assembly(load_experiment(name))
    tasks = assembly.experiment.tasks
    assert set(assembly.layouts) == {task.name for task in tasks if task.share}
    assert sum(assembly.rows.values()) == assembly.experiment.data.batch_size


def test_an_experiment_can_be_a_file_of_ones_own(tmp_path: Path):
    path = tmp_path / "mine.py"
    path.write_text(OWN_FILE)
    assert load_experiment(str(path)) == load_experiment("toy/demo")


@pytest.mark.parametrize("text", ["", "def experiment(): return 3"])
def test_a_file_without_an_experiment_is_refused(tmp_path: Path, text: str):
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(RunError, match=r"no function experiment\(\)"):
        load_experiment(str(path))


def test_an_unknown_experiment_is_refused_with_the_known_ones():
    with pytest.raises(RunError, match="toy/demo"):
        load_experiment("toy/nothing")


def test_dotted_options_override_fields():
    demo = load_experiment("toy/demo")
    changed = override(
        demo,
        ["--training.steps", "7", "--mod.plan", "last_half:0.25", "--mesh.data", "2"],
        "train",
    )
    assert (changed.training.steps, changed.mesh.data) == (7, 2)
    assert changed.mod.plan != demo.mod.plan
    assert isinstance(changed, Experiment) and changed.model == demo.model


def test_shares_and_weights_of_tasks_are_options_by_their_names():
    demo = load_experiment("toy/demo")
    options = ["--tasks.text_only.share", "0", "--tasks.image-to-text.loss_weight=0.5"]
    changed = override(demo, [*options, "--data.batch_size", "8"], "train")
    found = {task.name: (task.share, task.loss_weight) for task in changed.tasks}
    assert found == {
        "text_to_image": (4, 1.0),
        "image_to_text": (4, 0.5),
        "text_only": (0, 0.1),
    }
    for before, after in zip(demo.tasks, changed.tasks, strict=True):
        assert after.pieces == before.pieces


def test_a_plan_is_a_file_or_the_name_of_a_function_and_its_ratios(tmp_path: Path):
    demo = load_experiment("toy/demo")

    def planned(*options: str):
        return override(demo, options, "train").mod

    tasks = demo.mod.tasks
    named = planned("--mod.plan", "last_half:1:0.2:linear:4")
    assert named == dataclasses.replace(
        demo.mod, plan=same_for(tasks, last_half(4, 1.0, 0.2))
    )
    deeper = planned("--mod.plan=every_other:0.2", "--model.num-layers=8")
    assert deeper.plan == same_for(tasks, every_other(8, 0.2))
    assert planned("--mod.plan", "none").plan == ()
    # Without a plan, the experiment's own at that depth.
    assert planned("--model.num_layers=8").plan == same_for(tasks, last_half(8, 0.3))
    assert planned() == demo.mod
    file = tmp_path / "plan.json"
    own = (TaskPlan("text_only", (None, 0.5, 0.0, 1.0)),)
    write_plan(file, own, 4)
    assert planned("--mod.plan", str(file)).plan == own
    with pytest.raises(RunError, match="num_layers is 4, but the model has 6"):
        planned("--mod.plan", str(file), "--model.num_layers", "6")


@pytest.mark.parametrize("name", experiment_names())
def test_without_options_an_experiment_stays_as_it_is(name: str):
    assert override(load_experiment(name), [], "train") == load_experiment(name)


def test_a_released_vocabulary_is_no_option_and_is_kept():
    demo = load_experiment("toy/demo")
    vocabulary = Vocabulary.native(128, 17, speech_units=3)
    released = dataclasses.replace(demo, vocabulary=vocabulary)
    assert override(released, [], "train").vocabulary == vocabulary


def test_help_lists_the_options_of_each_task(capsys):
    with pytest.raises(SystemExit) as stopped:
        override(load_experiment("toy/demo"), ["--help"], "train")
    assert stopped.value.code == 0
    printed = capsys.readouterr().out
    for task in ("text_to_image", "image_to_text", "text_only"):
        assert f"--tasks.{task}.share" in printed
        assert f"--tasks.{task}.loss_weight" in printed
    assert "--vocabulary" not in printed and ".pieces" not in printed


FORM = "; give a value of the form "
PLAN_FORMS = (
    "give 'none', 'last_half:RATIO', 'every_other:RATIO' or '2+3:RATIO', with "
    "':FINAL:SHAPE:LEVELS' behind it for a ramp, or a .json file"
)
WRONG_OPTIONS = {
    "--training.stepz 7": (
        "there is no option --training.stepz; did you mean --training.steps?"
    ),
    "--nonsense": "there is no option --nonsense; see --help.",
    "--mesh 3": (
        "--mesh is a group of options; name one of them, such as --mesh.data."
    ),
    "--training.steps many": f"--training.steps is 'many'{FORM}INT.",
    "--mod.plan last_third:0.4": f"plan 'last_third:0.4' is not known; {PLAN_FORMS}.",
    "--mod.plan last_half:1.4": (
        "layer 2 of task 'text_to_image': keep_ratio is 1.4, but a routed layer keeps "
        "a share of its tokens; choose a number in [0, 1], or leave the layer dense."
    ),
    "--mod.plan nowhere.json": (
        "the plan nowhere.json cannot be read (No such file or directory); "
        f"{PLAN_FORMS}."
    ),
    "--training.steps": f"--training.steps has no value{FORM}INT.",
    "--training.schedule up": (
        "--training.schedule is 'up'; give one of cosine, exponential, constant."
    ),
    "--training.steps 1 2": (
        "'2' is no value of --training.steps; take it away, or see --help."
    ),
    "--data.resize maybe": (
        "'maybe' is no value of --data.resize; take it away, or see --help."
    ),
    "stray": "'stray' follows no option; take it away, or see --help.",
    "--training.steps 0": "training.steps is 0; give a whole number of at least 1.",
    "--data.patch-size 3": (
        "data.patch_size 3 does not divide data.image_size 8; choose one that does."
    ),
}


@pytest.mark.parametrize("options", WRONG_OPTIONS)
def test_a_wrong_option_is_named_with_its_value_and_what_to_do(options: str):
    demo = load_experiment("toy/demo")
    with pytest.raises(RunError) as refused:
        override(demo, options.split(), "train")
    assert str(refused.value) == WRONG_OPTIONS[options]


COMMANDS = {
    "train": (train.main, []),
    "compile_check": (compile_check.main, ["--topology", "cpu:1"]),
    "sweep": (sweep.main, ["--vary", "data.seed=1", "--out", "nowhere"]),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("options", ["--training.stepz 7", "--training.steps many"])
def test_every_command_says_it_in_one_line(command: str, options: str, capsys):
    main, own = COMMANDS[command]
    with pytest.raises(SystemExit) as stopped:
        main(["toy/demo", *own, *options.split()])
    assert stopped.value.code == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: ")
    assert printed.endswith(f"{WRONG_OPTIONS[options]}\n")
    assert printed.count("\n") == 1


def test_a_wrong_option_of_the_command_itself_is_one_line_too(capsys):
    with pytest.raises(SystemExit) as stopped:
        sweep.main(["toy/demo", "--jobs", "many"])
    assert stopped.value.code == 2
    wanted = "error: argument --jobs: invalid int value: 'many'; see --help.\n"
    assert capsys.readouterr().err == wanted


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (RunError("the run is gone."), "error: the run is gone."),
        (ValueError("3 is not 4."), "error: 3 is not 4."),
        (OSError(errno.ENOSPC, "No space left"), "error: the disk is full"),
        (PermissionError(errno.EACCES, "denied", "runs"), "error: runs cannot be used"),
        (KeyboardInterrupt(), "error: stopped; run the same command again"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_a_user_can_solve_is_one_sentence(error, sentence: str, capsys):
    with pytest.raises(SystemExit) as stopped, one_sentence_errors():
        raise error
    assert stopped.value.code == 2
    printed = capsys.readouterr().err
    assert printed.startswith(sentence) and printed.count("\n") == 1


def test_other_errors_keep_their_traceback():
    with pytest.raises(KeyError), one_sentence_errors():
        raise KeyError("a bug")


def test_a_model_without_the_modalities_of_its_data_is_refused():
    with pytest.raises(ValueError, match="the modality 'image', but the model has"):
        load = load_experiment("toy/demo")
        model = dataclasses.replace(load.model, modalities=("text",))
        dataclasses.replace(load, model=model)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--profile", "5:2"], "--profile '5:2' names no steps"),
        (["--processes.count", "2"], "do not name a process"),
        (["--processes.silence_timeout", "1"], "processes.silence_timeout is 1.0"),
    ],
    ids=str,
)
def test_wrong_options_of_a_start_are_one_sentence(options, sentence: str, capsys):
    with pytest.raises(SystemExit) as raised:
        train.main(["toy/demo", *options])
    assert raised.value.code == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize("error", [Preempted, PeerLost])
def test_who_keeps_a_run_alive_is_told_to_start_it_again(error, capsys):
    with pytest.raises(SystemExit) as raised, one_sentence_errors():
        raise error("run the same command again.")
    assert raised.value.code == {Preempted: 75, PeerLost: 76}[error]
    assert capsys.readouterr().err == "error: run the same command again.\n"
