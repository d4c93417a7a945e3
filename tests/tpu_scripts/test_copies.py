"""What reaches the workers: the commit, the image, and what install.sh makes of it."""

import io
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.tpu_scripts.rehearsal import ROOT, Rehearsal, says

PYTHON = ".venv/bin/python"


@pytest.fixture
def committed(rehearsal: Rehearsal) -> Rehearsal:
    """A repository with a commit, a change that is in none, and git itself."""
    (rehearsal.folder / "bin/git").unlink()
    rehearsal.variables |= {
        **{f"GIT_{who}_NAME": "a" for who in ("AUTHOR", "COMMITTER")},
        **{f"GIT_{who}_EMAIL": "a@b" for who in ("AUTHOR", "COMMITTER")},
    }
    (rehearsal.repository / "model.py").write_text("committed\n")
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "all"]):
        environment = rehearsal.environment()
        subprocess.run(
            ["git", *words], cwd=rehearsal.repository, env=environment, check=True
        )
    (rehearsal.repository / "model.py").write_text("changed\n")
    return rehearsal


def files(archive: Path) -> dict[str, str]:
    with tarfile.open(archive) as tar:
        contents = {member.name: tar.extractfile(member) for member in tar}
        return {
            name: io.TextIOWrapper(file).read()
            for name, file in contents.items()
            if file
        }


def test_the_workers_get_the_commit_and_a_change_is_mentioned(committed: Rehearsal):
    outcome = committed.run("setup.sh", cues=[("describe", [says("ACTIVE")])])
    assert outcome.status == 0, outcome.err
    copied = files(committed.repository / "build/unimod_jax.tar.gz")
    assert copied["model.py"] == "committed\n"
    assert "tpu_scripts/on_worker/install.sh" in copied
    assert "1 files differ from the last commit" in outcome.err


def test_the_image_is_built_from_the_commit_and_its_dockerfile(committed: Rehearsal):
    outcome = committed.run("gke/setup.sh")
    assert outcome.status == 0, outcome.err
    copied = files(committed.repository / "build/unimod_jax_image.tar.gz")
    assert copied["model.py"] == "committed\n"
    dockerfile = (ROOT / "tpu_scripts/gke/Dockerfile").read_text(encoding="utf-8")
    assert copied["Dockerfile"] == dockerfile


class FreshWorker:
    """A machine on which everything but bash is a stand-in."""

    def __init__(self, rehearsal: Rehearsal):
        self.rehearsal = rehearsal
        self.programs = programs = rehearsal.folder / "few"
        programs.mkdir()
        for name in ("bash", "cat", "cp", "dirname", "env", "hostname", "mkdir", "rm"):
            (programs / name).symlink_to(str(shutil.which(name)))
        for name in ("python3", "curl", "sudo", "mountpoint"):
            rehearsal.put_stand_in(programs / name)
        rehearsal.variables |= {"PATH": str(programs), "USER": "me"}

    def makes_environments(self, program: Path) -> None:
        """Puts a program that makes a .venv with a stand-in for Python in it."""
        rehearsal = self.rehearsal
        rehearsal.put_stand_in(program.with_name(program.name + "-recorded"))
        rehearsal.put_stand_in(rehearsal.folder / "python")
        program.write_text(
            "#!/usr/bin/env bash\n"
            f'"{program}-recorded" "$@"\n'
            f"mkdir -p .venv/bin && cp {rehearsal.folder / 'python'} {PYTHON}\n"
        )
        program.chmod(0o755)

    def install(self, mounted: bool, status: int = 0) -> list[list[str]]:
        """Runs install.sh; returns what it called."""
        self.rehearsal.set_scene([("^mountpoint", [{"status": 0 if mounted else 1}])])
        ended = subprocess.run(
            self.rehearsal.command("on_worker/install.sh", "my-bucket"),
            env=self.rehearsal.environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert ended.returncode == status, ended.stderr
        assert ended.stdout.endswith(": installed\n") == (status == 0)
        return self.rehearsal.calls()


PACKAGES = [
    *("python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
    *("-r", "requirements.txt", "jax[tpu]"),
]


def test_an_image_with_an_old_python_gets_a_new_one(rehearsal: Rehearsal):
    worker = FreshWorker(rehearsal)
    worker.makes_environments(rehearsal.folder / "home/.local/bin/uv")
    calls = worker.install(mounted=True)
    lines = [" ".join(call) for call in calls]
    assert lines[0].startswith("python3 -m pip install --quiet --user uv==")
    assert lines[1] == "uv-recorded venv --quiet --python 3.12 --seed .venv"
    assert calls[2] == PACKAGES


def test_an_image_with_python_3_12_uses_it(rehearsal: Rehearsal):
    worker = FreshWorker(rehearsal)
    worker.makes_environments(worker.programs / "python3.12")
    calls = worker.install(mounted=True)
    assert calls[1][1:] == ["-m", "venv", ".venv"]
    assert calls[2] == PACKAGES


def test_what_is_there_is_kept(rehearsal: Rehearsal):
    worker = FreshWorker(rehearsal)
    rehearsal.put_stand_in(rehearsal.repository / PYTHON)
    calls = worker.install(mounted=True)
    assert [call[0] for call in calls] == ["python", "python", "mountpoint"]
    assert calls[1] == PACKAGES


def test_the_bucket_is_mounted_without_memory_of_names(rehearsal: Rehearsal):
    worker = FreshWorker(rehearsal)
    rehearsal.put_stand_in(rehearsal.repository / PYTHON)
    rehearsal.put_stand_in(worker.programs / "gcsfuse")
    calls = worker.install(mounted=False)
    assert calls[-1][0] == "gcsfuse"
    assert calls[-1][-2:] == ["my-bucket", "/mnt/bucket"]
    assert "--metadata-cache-ttl-secs=0" in calls[-1]
    assert ["sudo", "chown", "me", "/mnt/bucket"] in calls


def test_gcsfuse_is_installed_without_questions(rehearsal: Rehearsal):
    worker = FreshWorker(rehearsal)
    rehearsal.put_stand_in(rehearsal.repository / PYTHON)
    # The stand-in for apt-get brings no gcsfuse, so mounting ends the script.
    calls = worker.install(mounted=False, status=127)
    update, install = (call for call in calls if "apt-get" in call)
    assert update[-1] == "update"
    assert {"-y", "install", "gcsfuse"} < set(install)
    assert "DPkg::Lock::Timeout=600" in update + install
