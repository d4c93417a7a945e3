"""The dry runs with a snapshot; `python -m tests.tpu_scripts.dry_runs` renews them."""

import tempfile
from pathlib import Path

from tests.tpu_scripts.rehearsal import Rehearsal

SNAPSHOTS = Path(__file__).parent / "snapshots"

# Name of the snapshot -> variables that are not at their default, script, and words.
Case = tuple[dict[str, str], str, list[str]]
TRAINING = ["unimod/show_o", "--mesh.fsdp", "-1", "--note", "it's two words"]
CASES: dict[str, Case] = {
    **{
        verb: ({}, f"{verb}.sh", [])
        for verb in ("create", "setup", "status", "logs", "stop", "delete")
    },
    "create_on_demand": (
        {
            "TPU_SPOT": "no",
            "TPU_TYPE": "v6e-64",
            "TPU_PROJECT": "my-project",
            "TPU_ZONE": "us-east1-d",
            "TPU_CREATE_FLAGS": "--valid-until-duration=6h --network=mine",
        },
        "create.sh",
        [],
    ),
    "train": ({}, "train.sh", TRAINING),
    "train_default": (
        {"TRAIN_ENVIRONMENT": "A=1 B=2"},
        "train.sh",
        ["--training.seed", "1"],
    ),
    "logs_all": ({}, "logs.sh", ["--no-follow", "all"]),
    "babysit": ({}, "babysit.sh", TRAINING),
    **{
        f"gke_{verb}": ({}, f"gke/{verb}.sh", [])
        for verb in (
            *("create", "setup", "status", "logs", "stop", "delete", "babysit"),
        )
    },
    "gke_create_tpu7x": (
        {"TPU_GENERATION": "tpu7x", "TPU_TOPOLOGY": "4x4x4", "TPU_SPOT": "no"},
        "gke/create.sh",
        [],
    ),
    "gke_train": ({}, "gke/train.sh", TRAINING),
    "gke_logs_all": ({}, "gke/logs.sh", ["all", "--no-follow"]),
    **{
        f"slurm_{verb}": ({}, f"slurm/{verb}.sh", [])
        for verb in ("setup", "status", "logs", "stop")
    },
    "slurm_submit": (
        {"NODES": "4", "PARTITION": "h100", "SBATCH_FLAGS": "--qos=low --exclusive"},
        "slurm/submit.sh",
        TRAINING,
    ),
}


def dry_run(case: Case, folder: Path) -> str:
    """What --dry-run prints, with the repository at /repository."""
    variables, script, words = case
    rehearsal = Rehearsal(folder, {"POLL_SECONDS": "60"} | variables)
    outcome = rehearsal.run(script, "--dry-run", *words)
    assert (outcome.status, outcome.err, outcome.calls) == (0, "", []), outcome
    return outcome.out.replace(str(rehearsal.repository), "/repository")


def main() -> None:
    """Writes every snapshot anew, and removes those that have no case."""
    for old in SNAPSHOTS.glob("*.txt"):
        old.unlink()
    for name, case in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            text = dry_run(case, Path(folder))
        (SNAPSHOTS / f"{name}.txt").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
