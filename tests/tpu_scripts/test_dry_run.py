"""--dry-run prints the commands of the real run, and runs none."""

import shlex
import subprocess

import pytest

from tests.tpu_scripts.dry_runs import CASES, SNAPSHOTS, dry_run
from tests.tpu_scripts.rehearsal import Rehearsal, says


@pytest.mark.parametrize("name", CASES)
def test_the_dry_run_is_that_of_the_snapshot(name: str, tmp_path):
    # To renew them: python -m tests.tpu_scripts.dry_runs, and read the difference.
    snapshot = (SNAPSHOTS / f"{name}.txt").read_text(encoding="utf-8")
    assert dry_run(CASES[name], tmp_path) == snapshot


def test_every_script_has_a_snapshot_and_every_snapshot_a_case():
    assert {path.stem for path in SNAPSHOTS.glob("*.txt")} == set(CASES)
    folder = SNAPSHOTS.parents[2] / "tpu_scripts"
    scripts = {
        path.relative_to(folder).as_posix()
        for path in (
            *folder.glob("*.sh"),
            *folder.glob("gke/*.sh"),
            *folder.glob("slurm/*.sh"),
        )
        if path.stat().st_mode & 0o100
    }
    assert scripts == {script for _, script, _ in CASES.values()}


@pytest.mark.parametrize("name", CASES)
def test_the_dry_run_can_be_pasted_into_a_shell(name: str):
    text = (SNAPSHOTS / f"{name}.txt").read_text(encoding="utf-8")
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)


@pytest.mark.parametrize(
    "name",
    [
        *("create", "create_on_demand", "setup", "train", "train_default", "status"),
        *("logs_all", "stop", "delete", "gke_create", "gke_create_tpu7x", "gke_setup"),
        *(
            "gke_train",
            "gke_status",
            "gke_logs",
            "gke_stop",
            "gke_delete",
            "slurm_submit",
        ),
    ],
)
def test_the_real_run_calls_what_the_dry_run_prints(name: str, rehearsal: Rehearsal):
    variables, script, words = CASES[name]
    rehearsal.variables.update(variables)
    printed = [
        shlex.split(line)
        for line in rehearsal.run(script, "--dry-run", *words).out.splitlines()
        if line.startswith(("gcloud", "kubectl", "git", "sbatch", "squeue"))
    ]
    cues = [("queued-resources describe", [says("ACTIVE")])]
    outcome = rehearsal.run(script, *words, cues=cues)
    assert outcome.status == 0, outcome.err
    assert [call for call in outcome.calls if call[:2] != ["git", "status"]] == printed
