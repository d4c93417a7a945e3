"""The verbs on GKE: what is retried, what stops with which sentence, what is left."""

import pytest

from tests.tpu_scripts.rehearsal import Rehearsal, refuses, says

DELETE = (
    "gcloud container node-pools delete unimod --cluster=unimod --location=us-east5 "
    "--quiet"
)
POOL = "node-pools create"
QUOTA = (
    "ERROR: (gcloud.container.node-pools.create) ResponseError: code=403, message="
    "Insufficient quota to satisfy the request: resource TPUS_PER_TPU_FAMILY"
)


def test_creating_says_what_it_costs_and_how_to_end_that(rehearsal: Rehearsal):
    rehearsal.variables["CHIP_HOUR_CENTS"] = "420"
    outcome = rehearsal.run("gke/create.sh")
    assert outcome.status == 0
    assert outcome.verbs == ["gcloud get-credentials", "kubectl apply", "gcloud create"]
    assert "its 16 chips are billed by the hour (about $67.20 an hour)" in outcome.err
    assert outcome.err.endswith(f"Delete it with: {DELETE}\n")


def test_a_refused_quota_stops_at_once(rehearsal: Rehearsal):
    outcome = rehearsal.run("gke/create.sh", cues=[(POOL, [refuses(QUOTA)])])
    assert (outcome.status, outcome.verbs.count("gcloud create")) == (1, 1)
    assert "your quota in us-east5-a does not allow 16 more chips of v5p" in outcome.err
    # A pool can exist although the call that made it failed.
    assert "may exist" in outcome.err
    assert DELETE in outcome.err


def test_no_capacity_is_tried_again(rehearsal: Rehearsal):
    full = refuses("ERROR: GCE_STOCKOUT: the zone does not have enough resources")
    outcome = rehearsal.run("gke/create.sh", cues=[(POOL, [full, says()])])
    assert (outcome.status, outcome.verbs.count("gcloud create")) == (0, 2)


def test_no_cluster_is_one_sentence(rehearsal: Rehearsal):
    missing = refuses(
        "ERROR: (gcloud.container.clusters.get-credentials) ResponseError: code=404, "
        "message=Not found: projects/p/locations/us-east5/clusters/unimod."
    )
    outcome = rehearsal.run("gke/create.sh", cues=[("get-credentials", [missing])])
    assert (outcome.status, len(outcome.calls)) == (1, 1)
    assert "Connecting to the cluster unimod: it was not found" in outcome.err


def test_a_policy_that_is_there_from_last_time_is_used(rehearsal: Rehearsal):
    rehearsal.variables["TPU_GENERATION"] = "tpu7x"
    there = refuses("ERROR: The resource 'unimod' already exists")
    outcome = rehearsal.run("gke/create.sh", cues=[("workload-policy", [there])])
    assert outcome.status == 0, outcome.err
    assert "--placement-policy=unimod" in outcome.calls[-1]


def test_a_training_is_not_started_twice(rehearsal: Rehearsal):
    there = refuses(
        'Error from server (AlreadyExists): jobsets "unimod" already exists'
    )
    outcome = rehearsal.run("gke/train.sh", cues=[("kubectl create", [there])])
    assert (outcome.status, outcome.verbs[-1]) == (1, "kubectl create")
    assert "Starting unimod: it exists already, running or ended" in outcome.err
    assert DELETE in outcome.err


def test_what_is_started_is_what_was_asked_for(rehearsal: Rehearsal):
    rehearsal.run("gke/train.sh", "unimod/show_o", "--note", 'a "quoted" \\ word')
    manifest = (rehearsal.repository / "build/jobset.yaml").read_text(encoding="utf-8")
    expected = (
        'args: ["unimod/show_o", "--run-dir", "/mnt/bucket/runs/unimod", "--note", '
        '"a \\"quoted\\" \\\\ word"]'
    )
    assert expected in manifest


@pytest.mark.parametrize("script", ["create", "train", "status", "stop"])
def test_a_server_that_is_unreachable_once_is_asked_again(
    script: str, rehearsal: Rehearsal
):
    away = refuses("Unable to connect to the server: dial tcp: i/o timeout")
    outcome = rehearsal.run(f"gke/{script}.sh", cues=[("^kubectl", [away, says()])])
    assert outcome.status == 0, outcome.err
    assert "Trying again in 0 s (1 of 2)." in outcome.err


@pytest.mark.parametrize("script", ["create", "train", "stop", "logs"])
def test_a_server_that_stays_unreachable_leaves_nothing_unmentioned(script, rehearsal):
    away = refuses("Unable to connect to the server: dial tcp: i/o timeout")
    outcome = rehearsal.run(f"gke/{script}.sh", cues=[("^kubectl", [away])])
    assert outcome.status == 1
    assert outcome.err.endswith(f"Delete it with: {DELETE}\n")


@pytest.mark.parametrize(
    ("listed", "mentioned"), [("unimod ct5p", 1), ("default e2", 0)]
)
def test_status_mentions_the_machines_that_are_there(listed, mentioned, rehearsal):
    pools = says(f"NAME MACHINE_TYPE\n{listed}")
    outcome = rehearsal.run("gke/status.sh", cues=[("node-pools list", [pools])])
    assert (outcome.status, outcome.err.count(DELETE)) == (0, mentioned)


def test_deleting_ends_the_bill_also_when_nothing_is_there(rehearsal: Rehearsal):
    gone = refuses("ERROR: code=404, message=Not found: nodePools/unimod.")
    for cues in ([], [("delete", [gone])]):
        outcome = rehearsal.run("gke/delete.sh", cues=cues)
        assert (outcome.status, outcome.verbs) == (0, ["gcloud delete"])
        assert outcome.err.startswith("Deleted: the node pool unimod costs nothing")


def test_a_failed_deletion_is_no_deletion(rehearsal: Rehearsal):
    outcome = rehearsal.run("gke/delete.sh", cues=[("delete", [refuses("ERROR: odd")])])
    assert outcome.status == 1
    assert "may still exist (deleting it failed)" in outcome.err
    assert DELETE in outcome.err


@pytest.mark.parametrize("first", range(3))
def test_whatever_goes_wrong_while_creating_no_machine_is_left_unmentioned(
    first, rehearsal
):
    outcome = rehearsal.run("gke/create.sh", trouble_from=first)
    assert outcome.status == 1
    assert (DELETE in outcome.err) == (first > 0)


def test_a_training_is_watched_to_its_end_and_the_machines_deleted(
    rehearsal: Rehearsal,
):
    states = [says("/0"), says("/0"), says("/1"), says("Completed/1")]
    outcome = rehearsal.run("gke/babysit.sh", cues=[("get jobsets", states)])
    assert outcome.status == 0, outcome.err
    gets, delete = ["kubectl get"] * 4, "gcloud delete"
    assert outcome.verbs == ["gcloud get-credentials", *gets, delete]
    assert "unimod: running (restarts: 1)" in outcome.err
    assert DELETE not in outcome.err


@pytest.mark.parametrize(
    ("reply", "sentence"),
    [
        (says("Failed/4"), "unimod has failed for good after 4 restarts"),
        (refuses('Error (NotFound): jobsets "unimod" not found'), "it was not found"),
    ],
)
def test_a_training_that_failed_keeps_its_machines(
    reply, sentence, rehearsal: Rehearsal
):
    outcome = rehearsal.run("gke/babysit.sh", cues=[("get jobsets", [reply])])
    assert outcome.status == 1
    assert sentence in outcome.err
    assert "gcloud delete" not in outcome.verbs
    assert outcome.err.endswith(f"Delete it with: {DELETE}\n")
