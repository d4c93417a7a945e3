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
    shares = dataclasses.asdict(assembly.experiment.task_shares)
    assert set(assembly.layouts) == {task for task, share in shares.items() if share}
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
        ["--training.steps", "7", "--mot.untied-layers", "1", "3", "--mesh.data", "2"],
        "train",
    )
    assert (changed.training.steps, changed.mesh.data) == (7, 2)
    assert changed.mot.untied_layers == (1, 3)
    assert isinstance(changed, Experiment) and changed.model == demo.model


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
    with pytest.raises(SystemExit):
        planned("--mod.plan", str(file), "--model.num_layers", "6")


def test_the_flat_names_of_blocks_and_experts_are_options():
    options = ["--model.width", "64", "--model.num_layers", "4", "--model.biases"]
    options += ["--mot.num_experts", "2", "--mot.expert_towers", "text"]
    changed = override(load_experiment("toy/demo"), options, "train")
    assert (changed.model.width, changed.model.biases) == (64, True)
    assert (changed.mot.num_experts, changed.mot.expert_towers) == (2, ("text",))


@pytest.mark.parametrize(
    "options",
    [
        ["--mod.plan", "last_third:0.4"],
        ["--mod.plan", "last_half:1.4"],
        ["--mod.plan", "nowhere.json"],
        ["--model.num_layers", "0"],
        ["--training.stepz", "7"],
        ["--training.steps", "many"],
        ["--training.steps", "0"],
        ["--data.patch-size", "3"],
    ],
    ids=lambda options: options[0] + options[1],
)
def test_wrong_options_are_refused(options: list[str], capsys):
    with pytest.raises(SystemExit) as stopped:
        train.main(["toy/demo", *options])
    assert stopped.value.code == 2
    printed = capsys.readouterr()
    assert options[0].split(".")[-1].split("-")[0] in printed.out + printed.err


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
    with pytest.raises(ValueError, match="name all of these"):
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
