"""Every script is clean, explains itself, and names only variables that env.sh has."""

import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

from tests.tpu_scripts.rehearsal import ROOT, Rehearsal

FOLDER = ROOT / "tpu_scripts"
SCRIPTS = sorted([*FOLDER.rglob("*.sh"), *FOLDER.rglob("*.sbatch")])
NAMES = [path.relative_to(FOLDER).as_posix() for path in SCRIPTS]
VERBS = [
    name
    for name, path in zip(NAMES, SCRIPTS, strict=True)
    if path.stat().st_mode & 0o100 and not name.startswith("on_worker/")
]
SHELLCHECK = Path(sysconfig.get_path("scripts")) / "shellcheck"


def shellcheck(*files: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SHELLCHECK, "--external-sources", "--source-path=SCRIPTDIR", *files],
        capture_output=True,
        text=True,
        check=False,
    )


def test_shellcheck_is_clean():
    found = shellcheck(*SCRIPTS)
    assert found.returncode == 0, found.stdout + found.stderr


def test_shellcheck_would_find_an_unquoted_word(tmp_path: Path):
    bad = tmp_path / "bad.sh"
    bad.write_text("#!/usr/bin/env bash\nrm $1\n", encoding="utf-8")
    assert "SC2086" in shellcheck(bad).stdout


@pytest.mark.parametrize("name", NAMES)
def test_a_script_that_runs_stops_at_the_first_error(name: str):
    text = (FOLDER / name).read_text(encoding="utf-8")
    is_program = text.startswith("#!/usr/bin/env bash\n")
    assert is_program == ("set -euo pipefail" in text)
    assert (
        is_program == bool((FOLDER / name).stat().st_mode & 0o100) or "sbatch" in name
    )
    assert len(text.splitlines()) < 200


def defaults(name: str) -> set[str]:
    """The variables of the env.sh beside a script."""
    text = (FOLDER / name).with_name("env.sh").read_text(encoding="utf-8")
    return set(re.findall(r'^: "\$\{(\w+):=', text, flags=re.MULTILINE))


@pytest.mark.parametrize("name", VERBS)
def test_help_tells_purpose_usage_and_variables(name: str, rehearsal: Rehearsal):
    outcome = rehearsal.run(name, "--help")
    assert (outcome.status, outcome.calls) == (0, [])
    assert outcome.out.startswith(f"Usage: tpu_scripts/{name} [--dry-run]")
    listed = outcome.out.partition("env.sh):")[2]
    assert listed
    assert set(re.findall(r"\b[A-Z_]{4,}\b", listed)) <= defaults(name) | {"README"}


@pytest.mark.parametrize("name", ["env.sh", "gke/env.sh", "slurm/env.sh"])
def test_every_variable_has_a_comment_and_is_used(name: str):
    text = (FOLDER / name).read_text(encoding="utf-8")
    for line in text.splitlines():
        if line.startswith(": "):
            assert re.fullmatch(r': "\$\{\w+:=[^}]*\}" +# \S.*', line), line
    others = "".join(
        path.read_text(encoding="utf-8") for path in SCRIPTS if path.name != "env.sh"
    ) + (FOLDER / "gke/jobset.yaml").read_text(encoding="utf-8")
    for variable in defaults(name):
        assert re.search(rf"[$@{{( ]{variable}\b", others), variable


@pytest.mark.parametrize(
    ("variables", "script", "sentence"),
    [
        ({"TPU_TYPE": "v3-8"}, "create.sh", "TPU_TYPE is 'v3-8'; set it to v4-N"),
        ({"TPU_TYPE": "v5p-big"}, "create.sh", "whose last part is no number"),
        (
            {"TPU_SPOT": "maybe"},
            "create.sh",
            "TPU_SPOT is 'maybe'; set it to yes or no.",
        ),
        ({"RETRIES": "many"}, "create.sh", "RETRIES is 'many', which is not a whole"),
        ({"CHIP_HOUR_CENTS": "4.2"}, "create.sh", "CHIP_HOUR_CENTS is '4.2'"),
        (
            {"BUCKET": ""},
            "setup.sh",
            "BUCKET is not set; name it, as in BUCKET=my-bucket.",
        ),
        ({"BUCKET": ""}, "babysit.sh", "BUCKET is not set"),
        ({"TPU_TOPOLOGY": "2by2"}, "gke/create.sh", "TPU_TOPOLOGY is '2by2'"),
        (
            {"TPU_TOPOLOGY": "1x1"},
            "gke/create.sh",
            "has 1 chips, but a machine has four",
        ),
        ({"TPU_GENERATION": "v9"}, "gke/create.sh", "TPU_GENERATION is 'v9'"),
        ({"IMAGE": ""}, "gke/train.sh", "IMAGE is not set"),
        ({"NODES": "all"}, "slurm/submit.sh", "NODES is 'all'"),
    ],
)
def test_a_bad_setting_is_one_sentence_and_no_call(
    variables, script, sentence, rehearsal
):
    rehearsal.variables.update(variables)
    outcome = rehearsal.run(script)
    assert (outcome.status, outcome.calls) == (2, [])
    assert sentence in outcome.err
    assert len(outcome.err.splitlines()) == 1


@pytest.mark.parametrize(
    "name", [name for name in VERBS if "logs" in name or "stop" in name]
)
def test_a_word_that_is_no_option_is_refused(name: str, rehearsal: Rehearsal):
    outcome = rehearsal.run(name, "--fast")
    assert (outcome.status, outcome.calls) == (2, [])
    assert "'--fast' is no" in outcome.err


def test_a_missing_program_is_named(rehearsal: Rehearsal):
    programs = rehearsal.folder / "few"
    programs.mkdir()
    for name in ("bash", "dirname", "mktemp", "rm"):
        (programs / name).symlink_to(str(shutil.which(name)))
    rehearsal.variables["PATH"] = str(programs)
    for script in ("create.sh", "gke/create.sh", "slurm/submit.sh"):
        outcome = rehearsal.run(script)
        assert outcome.status == 1
        assert "was not found; install it (" in outcome.err
