"""The manifest of gke/train.sh is a JobSet, and its policies say what they mean."""

import copy
import re

import pytest
import yaml
from kubeflow_trainer_api.models import JobsetV1alpha2JobSet

from tests.tpu_scripts.rehearsal import Rehearsal

FAIL_JOB = (
    "Container train for pod default/unimod-slice-0-1 failed with exit code 9 matching "
)


@pytest.fixture
def manifest(rehearsal: Rehearsal) -> dict:
    rehearsal.variables.update(TPU_TOPOLOGY="4x4x8", TRAIN_ENVIRONMENT="A=1 B=2")
    outcome = rehearsal.run("gke/train.sh", "unimod/show_o", "--training.steps", "5")
    assert outcome.status == 0, outcome.err
    text = (rehearsal.repository / "build/jobset.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text)


def complaints(manifest: dict) -> list[str]:
    """What the schema has against a manifest; it ignores unknown fields, this does not.

    The models of the schema are checked while they are filled, and what they did not
    take up is missing when they are written out again.
    """
    try:
        known = JobsetV1alpha2JobSet.from_dict(copy.deepcopy(manifest)).to_dict()
    except ValueError as error:
        return [str(error)]
    return [*_differences(manifest, known, "")]


def _differences(given, known, path: str):
    if isinstance(given, dict) and isinstance(known, dict):
        for key, value in given.items():
            if key not in known:
                yield f"{path}.{key} is not a field of the schema"
            else:
                yield from _differences(value, known[key], f"{path}.{key}")
        for key in known.keys() - given.keys():
            yield f"{path}.{key} is required"
    elif (
        isinstance(given, list) and isinstance(known, list) and len(given) == len(known)
    ):
        for index, (value, other) in enumerate(zip(given, known, strict=True)):
            yield from _differences(value, other, f"{path}[{index}]")
    elif given != known:
        yield f"{path} is {given!r}, and the schema reads {known!r}"


def job(manifest: dict) -> dict:
    return manifest["spec"]["replicatedJobs"][0]["template"]["spec"]


def container(manifest: dict) -> dict:
    return job(manifest)["template"]["spec"]["containers"][0]


def test_the_manifest_follows_the_schema(manifest: dict):
    assert complaints(manifest) == []


def unknown_at_the_top(manifest):
    manifest["spec"]["maxRestarts"] = 3


def unknown_rule(manifest):
    manifest["spec"]["failurePolicy"]["rules"][0]["onExitCodes"] = [75]


def unknown_in_the_job(manifest):
    job(manifest)["backOffLimit"] = 0


def unknown_in_the_pod(manifest):
    job(manifest)["template"]["spec"]["gracePeriod"] = 3


def unknown_in_the_container(manifest):
    container(manifest)["argv"] = []


def text_for_a_number(manifest):
    job(manifest)["completions"] = "four"


def number_for_a_text(manifest):
    container(manifest)["image"] = 1


def name_is_missing(manifest):
    del container(manifest)["name"]


@pytest.mark.parametrize(
    "spoil",
    [
        *(unknown_at_the_top, unknown_rule, unknown_in_the_job, unknown_in_the_pod),
        *(
            unknown_in_the_container,
            text_for_a_number,
            number_for_a_text,
            name_is_missing,
        ),
    ],
    ids=lambda spoil: spoil.__name__,
)
def test_the_check_refuses_a_spoilt_manifest(spoil, manifest: dict):
    spoil(manifest)
    assert complaints(manifest)


def test_there_is_one_pod_for_each_machine_of_the_slice(manifest: dict):
    assert (job(manifest)["completions"], job(manifest)["parallelism"]) == (32, 32)
    assert container(manifest)["resources"]["limits"] == {"google.com/tpu": 4}
    node = job(manifest)["template"]["spec"]["nodeSelector"]
    assert node["cloud.google.com/gke-tpu-topology"] == "4x4x8"
    assert node["cloud.google.com/gke-tpu-accelerator"] == "tpu-v5p-slice"


def test_the_command_is_that_of_the_command_line(manifest: dict):
    environment = ["env", "PYTHONUNBUFFERED=1", "A=1", "B=2"]
    python = ["python", "-m", "experiments.train"]
    assert container(manifest)["command"] == environment + python
    run_dir = "/mnt/bucket/runs/unimod"
    steps = ["--training.steps", "5"]
    assert container(manifest)["args"] == [
        "unimod/show_o",
        "--run-dir",
        run_dir,
        *steps,
    ]
    assert container(manifest)["volumeMounts"][0]["mountPath"] == "/mnt/bucket"


@pytest.mark.parametrize(
    ("ending", "action"),
    [
        ("DisruptionTarget", "RestartJobSetAndIgnoreMaxRestarts"),
        (75, "RestartJobSetAndIgnoreMaxRestarts"),
        (76, "RestartJobSetAndIgnoreMaxRestarts"),
        (2, "FailJobSet"),
        (1, "RestartJobSet"),
        (137, "RestartJobSet"),
    ],
)
def test_each_ending_has_its_consequence(ending, action: str, manifest: dict):
    assert _action(job(manifest), manifest["spec"]["failurePolicy"], ending) == action


def _action(job: dict, policy: dict, ending) -> str:
    """What Kubernetes' Job controller and then JobSet make of a pod's ending."""
    reason, message = (
        "BackoffLimitExceeded",
        "Job has reached the specified backoff limit",
    )
    for index, rule in enumerate(job["podFailurePolicy"]["rules"]):
        codes = rule.get("onExitCodes", {}).get("values", [])
        conditions = [
            condition["type"] for condition in rule.get("onPodConditions", [])
        ]
        if ending in codes or ending in conditions:
            assert rule["action"] == "FailJob"
            reason = "PodFailurePolicy"
            message = f"{FAIL_JOB}FailJob rule at index {index}"
            break
    assert job["backoffLimit"] == 0
    for rule in policy["rules"]:
        patterns = rule["onJobFailureMessagePatterns"]
        if reason in rule["onJobFailureReasons"] and any(
            re.search(pattern, message) for pattern in patterns
        ):
            return rule["action"]
    return "RestartJobSet"


def test_a_stopped_training_has_time_to_save(manifest: dict):
    assert job(manifest)["template"]["spec"]["terminationGracePeriodSeconds"] == 300


def test_the_options_of_the_mount_are_one_word(manifest: dict):
    (volume,) = job(manifest)["template"]["spec"]["volumes"]
    options = volume["csi"]["volumeAttributes"]["mountOptions"]
    assert not re.search(r"\s", options)
    assert options.count(",") == 3
