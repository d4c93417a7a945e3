"""babysit.sh: from nothing to a trained run, through failures, and no machine left."""

import signal
import subprocess
import sys
import time

import pytest

from tests.tpu_scripts.rehearsal import Outcome, Rehearsal, refuses, says
from tests.tpu_scripts.test_tpu_vm import DELETE, QUOTA, UNREACHABLE

GONE = refuses("ERROR: NOT_FOUND: Resource was not found")
CREATE, DESCRIBE, REMOVE = "gcloud create", "gcloud describe", "gcloud delete"
PREPARE = ["git archive", "git status", "gcloud scp", "install"]


def workers(*states: str):
    """A reply of report.sh, one line per worker."""
    return says("\n".join(f"worker w{i} {state}" for i, state in enumerate(states)))


IDLE, RUNNING = workers("idle", "idle"), workers("running", "running")
DONE = workers("exit 0: saved", "exit 0: saved")
INTERRUPTED = workers("exit 75: saved at step 7", "exit 75: saved at step 7")


def babysit(rehearsal: Rehearsal, states: list, reports: list, *more) -> Outcome:
    describe = [reply if isinstance(reply, dict) else says(reply) for reply in states]
    cues = [
        *more,
        ("failedData", [says()]),
        ("describe", describe),
        ("report.sh", reports),
    ]
    return rehearsal.run("babysit.sh", "unimod/show_o", cues=cues)


def test_from_nothing_to_a_trained_run_and_nothing_left(rehearsal: Rehearsal):
    states = [GONE, "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]
    outcome = babysit(rehearsal, states, [IDLE, RUNNING, DONE])
    assert outcome.status == 0, outcome.err
    assert outcome.verbs == [
        *(DESCRIBE, CREATE, DESCRIBE, DESCRIBE, DESCRIBE, "report", *PREPARE, "start"),
        *(DESCRIBE, "report", DESCRIBE, "report", REMOVE),
    ]
    assert "The training is done and unimod deleted" in outcome.err
    assert "Delete it with" not in outcome.err


@pytest.mark.parametrize("code", [75, 76])
def test_an_interrupted_training_runs_again(code: int, rehearsal: Rehearsal):
    ended = workers(f"exit {code}: bye", f"exit {code}: bye")
    outcome = babysit(rehearsal, ["ACTIVE"], [IDLE, RUNNING, ended, RUNNING, DONE])
    assert outcome.status == 0, outcome.err
    assert [verb for verb in outcome.verbs if verb not in (DESCRIBE, "report")] == [
        *(*PREPARE, "start", "start", REMOVE)
    ]
    assert "The training was interrupted; restart 1 of at most 100." in outcome.err


def test_a_preempted_resource_is_made_anew_and_the_training_resumed(
    rehearsal: Rehearsal,
):
    states = ["ACTIVE", "ACTIVE", "SUSPENDING", "SUSPENDED", GONE, "ACTIVE"]
    outcome = babysit(rehearsal, states, [IDLE, RUNNING, IDLE, RUNNING, DONE])
    assert outcome.status == 0, outcome.err
    assert [verb for verb in outcome.verbs if verb not in (DESCRIBE, "report")] == [
        *(*PREPARE, "start", REMOVE, CREATE, *PREPARE, "start", REMOVE)
    ]
    assert "unimod was SUSPENDED; restart 1 of at most 100." in outcome.err


def test_a_new_machine_on_which_nothing_is_installed_is_no_failure(
    rehearsal: Rehearsal,
):
    rehearsal.variables["FAILURES"] = "0"
    bare = refuses("bash: report.sh: No such file or directory", 127)
    states = ["ACTIVE", "SUSPENDED", GONE, "ACTIVE"]
    outcome = babysit(rehearsal, states, [RUNNING, bare, RUNNING, DONE])
    assert outcome.status == 0, outcome.err
    assert outcome.verbs.count("install") == outcome.verbs.count("start") == 1


def test_a_mistake_in_the_command_stops_with_its_sentence_and_the_bill(
    rehearsal: Rehearsal,
):
    rehearsal.variables["CHIP_HOUR_CENTS"] = "100"
    refused = workers(
        "exit 2: data.batch_size 7 is not a multiple of 8.", "exit 76: gone"
    )
    outcome = babysit(rehearsal, ["ACTIVE"], [IDLE, refused])
    assert outcome.status == 1
    assert outcome.verbs.count("start") == 1
    assert REMOVE not in outcome.verbs
    assert (
        "The training will not run like this: data.batch_size 7 is not a multiple of 8."
    ) in outcome.err
    assert "(about $16.00 an hour)" in outcome.err
    assert outcome.err.endswith(f"Delete it with: {DELETE}\n")


def test_a_crash_is_forgiven_a_few_times(rehearsal: Rehearsal):
    rehearsal.variables["FAILURES"] = "2"
    crash = workers("exit 1: RuntimeError: bad", "exit 76: a process died")
    outcome = babysit(rehearsal, ["ACTIVE"], [IDLE, crash])
    assert outcome.status == 1
    assert outcome.verbs.count("start") == 3
    assert "exit code 1: RuntimeError: bad; failure 2 of at most 2" in outcome.err
    assert "2 failures were already forgiven" in outcome.err
    assert DELETE in outcome.err


def test_restarts_have_a_limit(rehearsal: Rehearsal):
    rehearsal.variables["RESTARTS"] = "2"
    outcome = babysit(rehearsal, ["ACTIVE"], [IDLE, INTERRUPTED])
    assert outcome.status == 1
    assert outcome.verbs.count("start") == 3
    assert "2 restarts were already made; set RESTARTS to allow more" in outcome.err
    assert DELETE in outcome.err


@pytest.mark.parametrize(
    "other", ["lost", "exit 76: a process died", "exit 137: Killed"]
)
def test_workers_that_outlive_another_are_stopped_first(
    other: str, rehearsal: Rehearsal
):
    half = workers("running", other)
    ended = workers("exit 75: saved", other)
    outcome = babysit(rehearsal, ["ACTIVE"], [RUNNING, half, ended, RUNNING, DONE])
    assert outcome.status == 0, outcome.err
    doing = [verb for verb in outcome.verbs if verb in ("start", "stop", REMOVE)]
    assert doing == ["stop", "start", REMOVE]


def test_a_worker_that_is_done_earlier_leaves_the_others_their_time(
    rehearsal: Rehearsal,
):
    half = workers("running", "exit 0: saved")
    outcome = babysit(rehearsal, ["ACTIVE"], [RUNNING, half, half, DONE])
    assert outcome.status == 0
    assert "stop" not in outcome.verbs


def test_an_old_end_is_not_taken_for_that_of_this_training(rehearsal: Rehearsal):
    old = workers("exit 2: a mistake that was corrected", "exit 2: same")
    outcome = babysit(rehearsal, ["ACTIVE"], [old, RUNNING, DONE])
    assert outcome.status == 0
    assert outcome.verbs.count("start") == 1


def test_a_training_that_runs_is_watched_and_not_started(rehearsal: Rehearsal):
    outcome = babysit(rehearsal, ["ACTIVE"], [RUNNING, DONE])
    assert outcome.status == 0
    assert {"install", "start", CREATE}.isdisjoint(outcome.verbs)


def test_another_training_is_left_alone(rehearsal: Rehearsal):
    outcome = babysit(rehearsal, ["ACTIVE"], [workers("other", "other")])
    assert outcome.status == 1
    assert outcome.verbs == [DESCRIBE, "report"]
    assert "Another training runs on unimod" in outcome.err
    assert DELETE in outcome.err


def test_silence_is_not_taken_for_success(rehearsal: Rehearsal):
    outcome = babysit(rehearsal, ["ACTIVE"], [RUNNING, says(), RUNNING, DONE])
    assert outcome.status == 0
    assert "A worker of unimod gave no report; failure 1 of at most 3." in outcome.err
    assert outcome.verbs.count("start") == 1
    assert outcome.verbs.count(REMOVE) == 1


def test_a_refused_quota_stops_the_watch(rehearsal: Rehearsal):
    outcome = babysit(rehearsal, [GONE], [], ("create", [refuses(QUOTA)]))
    assert (outcome.status, outcome.verbs) == (1, [DESCRIBE, CREATE])
    assert "your quota in us-east5-a does not allow v5p-32" in outcome.err
    assert DELETE not in outcome.err


def test_a_quota_that_is_refused_later_stops_the_watch_and_leaves_nothing(rehearsal):
    why = ("failedData", [says("Quota limit 'TPUV5P' has been exceeded. Limit: 0")])
    outcome = babysit(rehearsal, ["FAILED"], [], why)
    assert (outcome.status, outcome.verbs) == (1, [DESCRIBE, DESCRIBE, REMOVE])
    assert "your quota in us-east5-a does not allow v5p-32" in outcome.err
    assert DELETE not in outcome.err


def test_unreachable_for_a_while_is_survived(rehearsal: Rehearsal):
    outcome = babysit(
        rehearsal, ["ACTIVE"], [RUNNING, *[UNREACHABLE] * 4, RUNNING, DONE]
    )
    assert outcome.status == 0, outcome.err
    assert "start" not in outcome.verbs


def test_unreachable_for_good_stops_the_watch(rehearsal: Rehearsal):
    outcome = babysit(rehearsal, ["ACTIVE"], [RUNNING, UNREACHABLE])
    assert outcome.status == 1
    assert "a worker has been unreachable 4 times in a row" in outcome.err
    assert DELETE in outcome.err


def test_a_host_that_is_unreachable_because_of_preemption(rehearsal: Rehearsal):
    states = ["ACTIVE", "ACTIVE", "SUSPENDED", GONE, "ACTIVE"]
    reports = [RUNNING, *[UNREACHABLE] * 3, IDLE, RUNNING, DONE]
    outcome = babysit(rehearsal, states, reports)
    assert outcome.status == 0, outcome.err
    assert [verb for verb in outcome.verbs if verb not in (DESCRIBE, "report")] == [
        *(REMOVE, CREATE, *PREPARE, "start", REMOVE)
    ]


def test_what_somebody_deleted_is_not_bought_again(rehearsal: Rehearsal):
    outcome = babysit(rehearsal, ["ACTIVE", GONE], [RUNNING])
    assert outcome.status == 1
    assert CREATE not in outcome.verbs
    assert "unimod was deleted by somebody else; it is not created again" in outcome.err
    assert DELETE not in outcome.err


def test_a_failed_deletion_at_the_end_is_mentioned(rehearsal: Rehearsal):
    outcome = babysit(
        rehearsal, ["ACTIVE"], [RUNNING, DONE], ("delete", [refuses("odd")])
    )
    assert outcome.status == 1
    assert "may still exist (deleting it failed)" in outcome.err
    assert DELETE in outcome.err


@pytest.mark.parametrize("first", range(14))
def test_whatever_goes_wrong_and_whenever_no_resource_is_left_unmentioned(
    first: int, rehearsal: Rehearsal
):
    states = [GONE, "WAITING_FOR_RESOURCES", "ACTIVE"]
    cues = [
        (
            "describe",
            [reply if isinstance(reply, dict) else says(reply) for reply in states],
        ),
        ("report.sh", [IDLE, RUNNING, INTERRUPTED, DONE]),
    ]
    outcome = rehearsal.run("babysit.sh", "a/b", cues=cues, trouble_from=first)
    assert outcome.status == 1, outcome.err
    created = CREATE in outcome.verbs
    assert (DELETE in outcome.err) == (created or first == 0)
    assert len(outcome.calls) > first


HEEDING_SIGNALS = """
import os, signal, sys
for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_DFL)
os.execvp(sys.argv[1], sys.argv[1:])
"""
"""Starts a program that signals end: in a shell's background, or under nohup, what the
tests run in, they may be ignored, and a script cannot change that."""


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)],
)
def test_a_watch_that_is_interrupted_mentions_the_resource(number, status, rehearsal):
    rehearsal.variables["POLL_SECONDS"] = "30"
    rehearsal.set_scene([("describe", [says("ACTIVE")]), ("report.sh", [RUNNING])])
    watch = subprocess.Popen(
        [sys.executable, "-c", HEEDING_SIGNALS, *rehearsal.command("babysit.sh")],
        env=rehearsal.environment(),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 20
    while len(rehearsal.calls()) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.3)
    watch.send_signal(number)
    _, err = watch.communicate(timeout=10)
    assert watch.returncode == status
    assert err.endswith(f"Delete it with: {DELETE}\n")
