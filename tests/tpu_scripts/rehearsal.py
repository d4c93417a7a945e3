"""Runs a launch script in a copy of its folder, among stand-ins that play a scene."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = (
    "gcloud",
    "kubectl",
    "git",
    "squeue",
    "sbatch",
    "scancel",
    "scontrol",
    "srun",
)

Reply = dict[str, str | int | bool]
Cue = tuple[str, list[Reply]]


def says(out: str = "", **more: str | int) -> Reply:
    """A reply that prints a line."""
    return {"out": out + "\n", **more}


def refuses(err: str, status: int = 1) -> Reply:
    """A reply that fails with a line on stderr."""
    return {"err": err + "\n", "status": status}


@dataclass(frozen=True)
class Outcome:
    """What a script printed, how it ended, and what it called."""

    status: int
    out: str
    err: str
    calls: list[list[str]]

    @property
    def verbs(self) -> list[str]:
        """The calls, each as the word that tells it apart."""
        return [_verb(call) for call in self.calls]


def _verb(call: Sequence[str]) -> str:
    words = [word for word in call if not word.startswith("-")]
    remote = [word for word in call if word.startswith("--command=")]
    if remote:
        return remote[0].partition("on_worker/")[2].partition(".sh")[0]
    known = (
        "create",
        "describe",
        "delete",
        "scp",
        "submit",
        "list",
        "archive",
        "status",
    )
    verbs = [word for word in words[1:] if word in (*known, "get-credentials", "apply")]
    return f"{words[0]} {verbs[0]}" if verbs else " ".join(words[:2])


@dataclass
class Rehearsal:
    """A stage: a repository with the scripts, a home, and stand-ins on the PATH."""

    folder: Path
    variables: dict[str, str] = field(default_factory=dict)

    def __post_init__(self):
        shutil.copytree(ROOT / "tpu_scripts", self.repository / "tpu_scripts")
        (self.folder / "bin").mkdir()
        (self.folder / "home").mkdir()
        for name in PROGRAMS:
            self.put_stand_in(self.folder / "bin" / name)

    @property
    def repository(self) -> Path:
        """Where the scripts think they are."""
        return self.folder / "repository"

    def put_stand_in(self, program: Path) -> None:
        """Puts a stand-in where a program would be."""
        source = (Path(__file__).parent / "stand_in.py").read_text(encoding="utf-8")
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(f"#!{sys.executable} -IS\n{source}", encoding="utf-8")
        program.chmod(0o755)

    def environment(self) -> dict[str, str]:
        """What the scripts see: no setting of this machine, and no real waiting."""
        return {
            "PATH": f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(self.folder / "home"),
            "TMPDIR": str(self.folder),
            "STAND_IN": str(self.folder),
            "RETRIES": "2",
            "RETRY_SECONDS": "0",
            "POLL_SECONDS": "0",
            "BUCKET": "my-bucket",
            "IMAGE": "registry/my-image:1",
            **self.variables,
        }

    def set_scene(self, cues: Sequence[Cue] = (), trouble_from: int | None = None):
        """Tells the stand-ins what to play, from the beginning."""
        scene = {"cues": list(cues), "trouble_from": trouble_from}
        (self.folder / "scene.json").write_text(json.dumps(scene), encoding="utf-8")
        (self.folder / "calls.jsonl").write_text("", encoding="utf-8")

    def command(self, script: str, *words: str) -> list[str]:
        """The command line of a script."""
        return ["bash", str(self.repository / "tpu_scripts" / script), *words]

    def run(
        self,
        script: str,
        *words: str,
        cues: Sequence[Cue] = (),
        trouble_from: int | None = None,
    ) -> Outcome:
        """Runs a script to its end."""
        self.set_scene(cues, trouble_from)
        ended = subprocess.run(
            self.command(script, *words),
            env=self.environment(),
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return Outcome(ended.returncode, ended.stdout, ended.stderr, self.calls())

    def calls(self) -> list[list[str]]:
        """What was called since the scene was set."""
        lines = (self.folder / "calls.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]
