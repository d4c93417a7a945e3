"""The Slurm scripts, and the job itself, whose exit code decides what comes next."""

import subprocess

import pytest

from tests.tpu_scripts.rehearsal import Outcome, Rehearsal, refuses, says

NOBODY, RUNNING = says(), says("123 RUNNING")


def test_submitting_says_what_it_holds_and_how_to_end_that(rehearsal: Rehearsal):
    rehearsal.variables["NODES"] = "2"
    outcome = rehearsal.run("slurm/submit.sh", cues=[("sbatch", [says("123;cluster")])])
    assert outcome.status == 0, outcome.err
    assert [call[0] for call in outcome.calls] == ["squeue", "sbatch"]
    assert outcome.err.endswith(
        "unimod is job 123; its log is runs/slurm/unimod.log. It asks for 16 GPUs "
        "until it is done or stopped: tpu_scripts/slurm/stop.sh.\n"
    )


def test_a_run_directory_has_one_job(rehearsal: Rehearsal):
    outcome = rehearsal.run("slurm/submit.sh", cues=[("squeue", [RUNNING])])
    assert (outcome.status, outcome.verbs) == (1, ["squeue"])
    assert "unimod is job 123 already (RUNNING); stop it with" in outcome.err


def test_a_controller_that_is_away_is_asked_again(rehearsal: Rehearsal):
    away = refuses(
        "sbatch: error: Unable to contact slurm controller (connect failure)"
    )
    cues = [("squeue", [NOBODY]), ("sbatch", [away, says("123")])]
    outcome = rehearsal.run("slurm/submit.sh", cues=cues)
    assert outcome.status == 0, outcome.err
    assert "unimod is job 123;" in outcome.err


def test_a_submission_that_timed_out_is_not_made_twice(rehearsal: Rehearsal):
    late = refuses("sbatch: error: Socket timed out on send/recv operation")
    cues = [("squeue", [NOBODY, says("123 PENDING")]), ("sbatch", [late])]
    outcome = rehearsal.run("slurm/submit.sh", cues=cues)
    assert outcome.status == 0, outcome.err
    assert sum(call[0] == "sbatch" for call in outcome.calls) == 1
    assert "unimod is job 123;" in outcome.err


@pytest.mark.parametrize(
    ("complaint", "sentence"),
    [
        (
            "Invalid account or account/partition combination",
            "Submitting unimod was refused.",
        ),
        (
            "Job violates accounting/QOS policy (job submit limit)",
            "a limit of your account",
        ),
    ],
)
def test_a_refused_submission_is_one_sentence(
    complaint, sentence, rehearsal: Rehearsal
):
    reply = refuses(f"sbatch: error: Batch job submission failed: {complaint}")
    outcome = rehearsal.run("slurm/submit.sh", cues=[("sbatch", [reply])])
    assert outcome.status == 1
    assert sum(call[0] == "sbatch" for call in outcome.calls) == 1
    assert sentence in outcome.err
    assert complaint in outcome.err


def test_stopping_lets_a_running_job_save_and_keeps_it_from_returning(
    rehearsal: Rehearsal,
):
    outcome = rehearsal.run("slurm/stop.sh", cues=[("squeue", [RUNNING])])
    assert outcome.status == 0, outcome.err
    assert outcome.calls[-1] == ["scancel", "--signal=TERM", "123"]
    assert (rehearsal.repository / "runs/slurm/unimod.stop").exists()


def test_stopping_takes_a_waiting_job_from_the_queue(rehearsal: Rehearsal):
    outcome = rehearsal.run("slurm/stop.sh", cues=[("squeue", [says("123 PENDING")])])
    assert outcome.calls[-1] == ["scancel", "123"]


def test_stopping_nothing_is_no_error(rehearsal: Rehearsal):
    outcome = rehearsal.run("slurm/stop.sh", cues=[("squeue", [NOBODY])])
    assert (outcome.status, outcome.verbs) == (0, ["squeue"])
    assert outcome.err.endswith("There is no job unimod; nothing is used.\n")


def test_a_job_that_cannot_be_stopped_is_mentioned(rehearsal: Rehearsal):
    cues = [("squeue", [RUNNING]), ("scancel", [refuses("scancel: error: odd")])]
    outcome = rehearsal.run("slurm/stop.sh", cues=cues)
    assert outcome.status == 1
    assert (
        "Stopping job 123 (unimod), which still holds its GPUs, was refused"
        in outcome.err
    )


def test_submitting_again_ends_the_stop(rehearsal: Rehearsal):
    rehearsal.run("slurm/stop.sh", cues=[("squeue", [RUNNING])])
    rehearsal.run("slurm/submit.sh", cues=[("squeue", [NOBODY])])
    assert not (rehearsal.repository / "runs/slurm/unimod.stop").exists()


def test_the_log_is_that_of_the_job(rehearsal: Rehearsal):
    missing = rehearsal.run("slurm/logs.sh", "--no-follow")
    assert missing.status == 1
    assert "There is no runs/slurm/unimod.log; has unimod been submitted" in missing.err
    (rehearsal.repository / "runs/slurm").mkdir(parents=True)
    (rehearsal.repository / "runs/slurm/unimod.log").write_text("0: step 1\n")
    assert rehearsal.run("slurm/logs.sh", "--no-follow").out == "0: step 1\n"


def job(rehearsal: Rehearsal, code: int, **variables: str) -> Outcome:
    """Runs train.sbatch as Slurm would, with a training that ends with the code."""
    (rehearsal.repository / "runs/slurm").mkdir(parents=True, exist_ok=True)
    rehearsal.variables |= {
        "PYTHON": ".venv/bin/python",
        "STOP_FILE": "runs/slurm/unimod.stop",
        "RESTARTS": "2",
        "FAILURES": "1",
        "SLURM_JOB_ID": "123",
        "SLURM_JOB_NAME": "unimod",
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_CPUS_PER_TASK": "12",
        **variables,
    }
    scontrol = rehearsal.variables.pop("SCONTROL", "")
    replies = [refuses("disabled")] if scontrol == "refuses" else [says()]
    rehearsal.set_scene([("srun", [{"status": code}]), ("scontrol", replies)])
    ended = subprocess.run(
        rehearsal.command("slurm/train.sbatch", "unimod/show_o", "--note", "two words"),
        env=rehearsal.environment(),
        cwd=rehearsal.repository,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return Outcome(ended.returncode, ended.stdout, ended.stderr, rehearsal.calls())


REQUEUE = ["scontrol", "requeue", "123"]


def test_the_job_runs_the_training_on_every_gpu_and_ends(rehearsal: Rehearsal):
    outcome = job(rehearsal, 0)
    assert outcome.status == 0
    ((*flags, python, m, module, experiment, note, words),) = outcome.calls
    assert flags == ["srun", "--kill-on-bad-exit=0", "--label", "--cpus-per-task=12"]
    assert [python, m, module] == [".venv/bin/python", "-m", "experiments.train"]
    assert [experiment, note, words] == ["unimod/show_o", "--note", "two words"]


@pytest.mark.parametrize("code", [75, 76])
def test_an_interrupted_job_queues_again(code: int, rehearsal: Rehearsal):
    outcome = job(rehearsal, code, SLURM_RESTART_COUNT="1")
    assert (outcome.status, outcome.calls[1:]) == (0, [REQUEUE])
    assert f"interrupted (exit code {code}); it queues again (restart 2)" in outcome.out


def test_an_interrupted_job_queues_again_up_to_the_limit(rehearsal: Rehearsal):
    outcome = job(rehearsal, 76, SLURM_RESTART_COUNT="2")
    assert (outcome.status, len(outcome.calls)) == (76, 1)
    assert "interrupted once more after 2 restarts; set RESTARTS" in outcome.out


def test_a_mistake_in_the_command_ends_the_job(rehearsal: Rehearsal):
    outcome = job(rehearsal, 2)
    assert (outcome.status, len(outcome.calls)) == (2, 1)
    assert "will not run like this" in outcome.out


def test_a_crash_is_forgiven_a_few_times(rehearsal: Rehearsal):
    first, second = job(rehearsal, 137), job(rehearsal, 137)
    assert (first.status, first.calls[1:]) == (0, [REQUEUE])
    assert (second.status, len(second.calls)) == (137, 1)
    assert "after 1 failures were forgiven" in second.out


def test_a_job_that_was_told_to_stop_does_not_queue_again(rehearsal: Rehearsal):
    (rehearsal.repository / "runs/slurm").mkdir(parents=True)
    (rehearsal.repository / "runs/slurm/unimod.stop").touch()
    outcome = job(rehearsal, 75)
    assert (outcome.status, len(outcome.calls)) == (75, 1)
    assert (
        "it was told to stop. tpu_scripts/slurm/submit.sh resumes the run"
        in outcome.out
    )


def test_a_cluster_without_requeue_is_one_sentence(rehearsal: Rehearsal):
    outcome = job(rehearsal, 75, SCONTROL="refuses")
    assert outcome.status == 75
    assert (
        "Slurm does not queue it again; submit the same command to resume."
        in outcome.out
    )
