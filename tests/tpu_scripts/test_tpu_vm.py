"""The verbs of a TPU VM: what is retried, what stops, with which sentence."""

import pytest

from tests.tpu_scripts.rehearsal import Rehearsal, refuses, says

DELETE = (
    "gcloud compute tpus queued-resources delete unimod --force "
    "--zone=us-east5-a --quiet"
)
ACTIVE = ("describe", [says("ACTIVE")])
MISSING = ("describe", [refuses("ERROR: NOT_FOUND: Resource was not found")])
QUOTA = (
    "ERROR: (gcloud.compute.tpus.queued-resources.create) RESOURCE_EXHAUSTED: "
    "Quota limit 'TPUV5PPreemptiblePerProjectPerZone' has been exceeded. Limit: 0."
)
UNREACHABLE = refuses("ssh: connect to host 10.0.0.2 port 22: timed out", 255)


def test_creating_says_what_it_costs_and_how_to_end_that(rehearsal: Rehearsal):
    rehearsal.variables["CHIP_HOUR_CENTS"] = "420"
    outcome = rehearsal.run("create.sh")
    assert (outcome.status, outcome.verbs) == (0, ["gcloud create"])
    # v5p-32 has 32 cores, which are 16 chips, at 4.20 dollars.
    assert "its 16 chips are billed by the hour (about $67.20 an hour)" in outcome.err
    assert outcome.err.endswith(f"Delete it with: {DELETE}\n")


@pytest.mark.parametrize(
    ("type_name", "chips"),
    [("v4-16", 8), ("v5litepod-16", 16), ("v6e-8", 8), ("tpu7x-8", 4)],
)
def test_the_bill_counts_chips_and_not_cores(type_name, chips, rehearsal: Rehearsal):
    rehearsal.variables["TPU_TYPE"] = type_name
    assert f"its {chips} chips are billed" in rehearsal.run("create.sh").err


@pytest.mark.parametrize(
    ("type_name", "runtime"),
    [
        ("v4-32", "tpu-ubuntu2204-base"),
        ("v5litepod-16", "v2-alpha-tpuv5-lite"),
        ("v5p-32", "v2-alpha-tpuv5"),
        ("v6e-16", "v2-alpha-tpuv6e"),
        ("tpu7x-8", "v2-alpha-tpu7-ubuntu2404"),
    ],
)
def test_each_generation_has_its_image(type_name, runtime, rehearsal: Rehearsal):
    rehearsal.variables["TPU_TYPE"] = type_name
    assert (
        f"--runtime-version={runtime} " in rehearsal.run("create.sh", "--dry-run").out
    )
    rehearsal.variables["TPU_RUNTIME"] = "mine"
    assert "--runtime-version=mine " in rehearsal.run("create.sh", "--dry-run").out


def test_a_refused_quota_stops_at_once_and_leaves_nothing(rehearsal: Rehearsal):
    outcome = rehearsal.run("create.sh", cues=[("create", [refuses(QUOTA)])])
    assert (outcome.status, outcome.verbs) == (1, ["gcloud create"])
    assert (
        "your quota in us-east5-a does not allow v5p-32; ask for more at" in outcome.err
    )
    assert "Limit: 0." in outcome.err
    assert DELETE not in outcome.err


@pytest.mark.parametrize(
    ("complaint", "sentence"),
    [
        ("ERROR: PERMISSION_DENIED: denied", "you need the role TPU Admin"),
        ("You do not currently have an active account selected.", "gcloud auth login"),
    ],
)
def test_a_refused_account_stops_at_once_and_leaves_nothing(
    complaint, sentence, rehearsal
):
    outcome = rehearsal.run("create.sh", cues=[("create", [refuses(complaint)])])
    assert (outcome.status, len(outcome.calls)) == (1, 1)
    assert sentence in outcome.err
    assert DELETE not in outcome.err


def test_what_exists_already_is_left_and_mentioned(rehearsal: Rehearsal):
    reply = refuses("ERROR: ALREADY_EXISTS: Resource already exists")
    outcome = rehearsal.run("create.sh", cues=[("create", [reply])])
    assert (outcome.status, len(outcome.calls)) == (1, 1)
    assert "Creating unimod: it exists already; look with" in outcome.err
    assert DELETE in outcome.err


def test_a_call_that_may_yet_succeed_is_repeated(rehearsal: Rehearsal):
    busy = refuses("ERROR: UNAVAILABLE: The service is currently unavailable.")
    outcome = rehearsal.run("create.sh", cues=[("create", [busy, busy, says()])])
    assert (outcome.status, outcome.verbs) == (0, ["gcloud create"] * 3)
    assert "Trying again in 0 s (2 of 2)." in outcome.err


def test_after_all_repetitions_it_stops_and_says_that_something_may_be_left(rehearsal):
    full = refuses("ERROR: There is no more capacity in the zone")
    outcome = rehearsal.run("create.sh", cues=[("create", [full])])
    assert (outcome.status, outcome.verbs) == (1, ["gcloud create"] * 3)
    assert "no success in 3 attempts; try later" in outcome.err
    assert "may exist" in outcome.err
    assert DELETE in outcome.err


def test_the_wait_doubles(rehearsal: Rehearsal):
    sleep = rehearsal.folder / "bin" / "sleep"
    sleep.write_text(
        f'#!/bin/sh\necho "$1" >> {rehearsal.folder}/slept\n', encoding="utf-8"
    )
    sleep.chmod(0o755)
    rehearsal.variables.update(RETRY_SECONDS="15", RETRIES="4")
    rehearsal.run("create.sh", cues=[("create", [refuses("ERROR: UNAVAILABLE")])])
    assert (rehearsal.folder / "slept").read_text() == "15\n30\n60\n120\n"


@pytest.mark.parametrize("script", ["setup.sh", "train.sh", "stop.sh", "logs.sh"])
def test_without_machines_nothing_is_tried(script, rehearsal: Rehearsal):
    for cue, sentence, is_left in (
        (
            MISSING,
            "There is no unimod in us-east5-a; make it with tpu_scripts/create.sh",
            0,
        ),
        (("describe", [says("WAITING_FOR_RESOURCES")]), "has no machines yet; wait", 1),
        (("describe", [says("SUSPENDED")]), "its machines are gone", 1),
    ):
        outcome = rehearsal.run(script, cues=[cue])
        assert (outcome.status, outcome.verbs) == (1, ["gcloud describe"])
        assert sentence in outcome.err
        assert outcome.err.count(DELETE) == is_left


@pytest.mark.parametrize(
    "script", ["setup.sh", "train.sh", "stop.sh", "logs.sh", "status.sh"]
)
def test_a_worker_that_is_unreachable_once_is_tried_again(script, rehearsal: Rehearsal):
    cues = [ACTIVE, ("tpu-vm", [UNREACHABLE, says()])]
    outcome = rehearsal.run(script, cues=cues)
    assert outcome.status == 0, outcome.err
    assert "A worker of unimod cannot be reached.\nTrying again in 0 s" in outcome.err
    assert outcome.err.endswith(f"Delete it with: {DELETE}\n")


@pytest.mark.parametrize(
    "script", ["setup.sh", "train.sh", "stop.sh", "logs.sh", "status.sh"]
)
def test_a_worker_that_stays_unreachable_ends_it(script, rehearsal: Rehearsal):
    outcome = rehearsal.run(script, cues=[ACTIVE, ("tpu-vm", [UNREACHABLE])])
    assert outcome.status == 1
    tried = [call for call in outcome.calls if "tpu-vm" in call]
    assert len(tried) == 3
    assert "could not be reached in 3 attempts" in outcome.err
    assert outcome.err.endswith(f"Delete it with: {DELETE}\n")


def test_what_fails_on_a_worker_is_not_repeated(rehearsal: Rehearsal):
    cues = [ACTIVE, ("install.sh", [refuses("pip: no such package", 1)])]
    outcome = rehearsal.run("setup.sh", cues=cues)
    assert outcome.status == 1
    assert outcome.verbs.count("install") == 1
    assert "Setting up unimod failed on a worker" in outcome.err
    assert DELETE in outcome.err


def test_nothing_is_copied_when_the_archive_fails(rehearsal: Rehearsal):
    cues = [ACTIVE, ("git archive", [refuses("fatal: not a valid object name")])]
    outcome = rehearsal.run("setup.sh", cues=cues)
    assert (outcome.status, outcome.verbs) == (1, ["gcloud describe", "git archive"])


def test_changes_that_are_not_committed_are_mentioned(rehearsal: Rehearsal):
    cues = [ACTIVE, ("git status", [says(" M a.py\n M b.py")])]
    outcome = rehearsal.run("setup.sh", cues=cues)
    assert "2 files differ from the last commit; the workers get HEAD" in outcome.err


def test_status_of_what_is_not_there_costs_nothing(rehearsal: Rehearsal):
    outcome = rehearsal.run("status.sh", cues=[MISSING])
    assert (outcome.status, outcome.verbs) == (0, ["gcloud describe"])
    assert outcome.out == "unimod (v5p-32, us-east5-a) is MISSING\n"
    assert outcome.err == ""


def test_deleting_ends_the_bill_also_when_nothing_is_there(rehearsal: Rehearsal):
    gone = refuses("ERROR: NOT_FOUND: Resource was not found")
    for cues in ([], [("delete", [gone])]):
        outcome = rehearsal.run("delete.sh", cues=cues)
        assert (outcome.status, outcome.verbs) == (0, ["gcloud delete"])
        assert outcome.err == "Deleted: unimod in us-east5-a costs nothing any more.\n"


def test_a_failed_deletion_is_no_deletion(rehearsal: Rehearsal):
    outcome = rehearsal.run("delete.sh", cues=[("delete", [refuses("ERROR: odd")])])
    assert outcome.status == 1
    assert "Deleting unimod was refused. It said: ERROR: odd" in outcome.err
    assert "may still exist (deleting it failed)" in outcome.err
    assert DELETE in outcome.err
