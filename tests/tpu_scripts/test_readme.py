"""What tpu_scripts/README.md says exists, and its commands are shell."""

import re
import subprocess

from experiments.command_line import experiment_names
from tests.tpu_scripts.rehearsal import ROOT

README = (ROOT / "tpu_scripts/README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^ *```bash\n(.*?)^ *```", README, flags=re.DOTALL | re.MULTILINE)


def test_every_script_that_is_named_exists_and_every_script_is_named():
    named = set(re.findall(r"tpu_scripts/[\w/]+\.sh", README))
    folder = ROOT / "tpu_scripts"
    scripts = [
        *folder.glob("*.sh"),
        *folder.glob("gke/*.sh"),
        *folder.glob("slurm/*.sh"),
    ]
    assert named == {
        path.relative_to(ROOT).as_posix()
        for path in scripts
        if path.stat().st_mode & 0o100
    }


def test_the_commands_are_shell():
    assert len(BLOCKS) > 8
    for block in BLOCKS:
        subprocess.run(["bash", "-n"], input=block, text=True, check=True)


def test_the_experiments_are_there():
    pattern = r"(?:experiments\.\w+|babysit\.sh|train\.sh|submit\.sh) (\w+/\w+)"
    named = set(re.findall(pattern, "".join(BLOCKS))) - {"runs/show"}
    assert named
    assert named <= set(experiment_names())
