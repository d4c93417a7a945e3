"""What runs on the workers, run here: processes that start, end, and are lost."""

import os
import signal
import subprocess
import time

import pytest

from tests.tpu_scripts.rehearsal import Rehearsal, says

# In place of .venv/bin/python: a training that a file in the home directory directs.
TRAINING = """#!/usr/bin/env bash
echo "training $*; A=${A:-}"
trap 'echo saved; exit 75' TERM
read -r code <"$HOME/next" || code=wait
while [[ $code == wait ]]; do sleep 0.05; done
if [[ $code == deaf ]]; then trap '' TERM; while true; do sleep 0.05; done; fi
sed -i 1d "$HOME/next"
echo "the last words of $code"
exit "$code"
"""


@pytest.fixture
def worker(rehearsal: Rehearsal):
    """A worker's home, with a repository that `setup` has prepared."""
    repository = rehearsal.folder / "home" / "unimod_jax"
    rehearsal.repository.rename(repository)
    repository.parent.joinpath("repository").mkdir()
    python = repository / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(TRAINING, encoding="utf-8")
    python.chmod(0o755)
    (rehearsal.repository / "tpu_scripts").parent.mkdir(exist_ok=True)
    (rehearsal.repository / "tpu_scripts").symlink_to(repository / "tpu_scripts")
    yield Worker(rehearsal)
    Worker(rehearsal).end()


class Worker:
    """Runs the scripts of on_worker/ in a home of their own."""

    def __init__(self, rehearsal: Rehearsal):
        self.rehearsal = rehearsal
        self.home = rehearsal.folder / "home"
        self.state = self.home / "unimod_jax_training"

    def run(self, script: str, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", f"unimod_jax/tpu_scripts/on_worker/{script}.sh", *words],
            env=self.rehearsal.environment(),
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    def direct(self, *codes: str | int) -> None:
        self.home.joinpath("next").write_text("".join(f"{code}\n" for code in codes))

    def report(self, *words: str) -> str:
        line = self.run("report", *words).stdout
        worker, _, state = line.strip().split(" ", 2)
        assert worker == "worker"
        return state

    def wait_until(self, state: str) -> None:
        deadline = time.monotonic() + 20
        while not (said := self.report()).startswith(state):
            assert time.monotonic() < deadline, said
            time.sleep(0.05)

    def end(self) -> None:
        """Ends what a failed test has left running."""
        process = self.state / "process"
        if process.exists() and self.report() == "running":
            os.kill(int(process.read_text()), signal.SIGKILL)


def test_a_training_outlives_the_connection_and_leaves_its_exit_code(worker: Worker):
    worker.direct(76)
    started = worker.run("start", "A=1", "--", "a/b", "--note", "two words")
    assert started.returncode == 0, started.stderr
    assert started.stdout.endswith(": started\n")
    worker.wait_until("exit")
    assert worker.report() == "exit 76: the last words of 76"
    log = (worker.state / "log").read_text()
    assert "UTC: experiments.train a/b --note two words\n" in log
    assert "training -m experiments.train a/b --note two words; A=1\n" in log


def test_the_same_command_does_not_start_twice(worker: Worker):
    worker.direct("wait")
    worker.run("start", "--", "a/b")
    assert worker.report() == "running"
    again = worker.run("start", "--", "a/b")
    assert (again.returncode, again.stdout.endswith(": runs already\n")) == (0, True)
    other = worker.run("start", "--", "a/b", "--tiny")
    assert other.returncode == 2
    assert "another training runs; stop it first" in other.stderr
    assert (worker.state / "log").read_text().count("===") == 1


def test_stopping_lets_it_save(worker: Worker):
    worker.direct("wait")
    worker.run("start", "--", "a/b")
    while "training" not in (worker.state / "log").read_text():
        time.sleep(0.02)
    stopped = worker.run("stop", "20")
    assert stopped.stdout.endswith("ended with exit code 75\n")
    assert worker.report() == "exit 75: saved"


def test_stopping_does_not_wait_for_ever(worker: Worker):
    worker.direct("deaf")
    worker.run("start", "--", "a/b")
    while "training" not in (worker.state / "log").read_text():
        time.sleep(0.02)
    time.sleep(0.2)
    stopped = worker.run("stop", "1")
    assert "did not end within 1 s; killed." in stopped.stdout
    assert stopped.stdout.endswith("ended with exit code 137\n")


def test_stopping_nothing_is_no_error(worker: Worker):
    stopped = worker.run("stop", "1")
    assert (stopped.returncode, stopped.stdout.endswith("nothing runs\n")) == (0, True)


def test_a_training_with_other_words_is_another(worker: Worker):
    assert worker.report("a/b") == "idle"
    worker.direct("wait")
    worker.run("start", "--", "a/b")
    assert worker.report("a/b") == "running"
    assert worker.report("a/b", "--tiny") == "other"
    worker.run("stop", "20")
    assert worker.report("a/b", "--tiny") == "idle"


def test_a_restarted_machine_has_lost_its_training(worker: Worker):
    worker.state.mkdir()
    # The number now belongs to somebody else: to this test.
    (worker.state / "process").write_text(f"{os.getpid()}\n")
    assert worker.report() == "lost"
    assert worker.run("stop", "1").stdout.endswith("nothing runs\n")


def test_the_log_is_shown_with_the_name_of_the_worker(worker: Worker):
    assert worker.run("show_log", "--no-follow").returncode == 1
    worker.state.mkdir()
    (worker.state / "log").write_text("".join(f"line {i}\n" for i in range(150)))
    lines = worker.run("show_log", "--no-follow").stdout.splitlines()
    assert len(lines) == 100
    assert lines[-1].endswith(": line 149")


def test_babysit_brings_a_real_process_through_75_76_and_a_crash(worker: Worker):
    """The commands that reach the workers do what babysit.sh takes them to do."""
    install = worker.home / "unimod_jax/tpu_scripts/on_worker/install.sh"
    install.write_text("echo installed\n", encoding="utf-8")
    worker.direct(75, 76, 1, 0)
    subprocess.run(["tar", "-czf", "../unimod_jax.tar.gz", "."], cwd=install.parents[2])
    outcome = worker.rehearsal.run(
        "babysit.sh",
        *("a/b", "--note", "it's two words"),
        cues=[
            ("queued-resources describe", [says("ACTIVE")]),
            (" ssh ", [{"really": True}]),
        ],
    )
    assert outcome.status == 0, outcome.err
    assert outcome.verbs.count("start") == 4
    assert outcome.verbs.count("install") == 1
    assert outcome.verbs[-1] == "gcloud delete"
    log = (worker.state / "log").read_text()
    words = "a/b --run-dir /mnt/bucket/runs/unimod --note it's two words"
    assert log.count(f"training -m experiments.train {words};") == 4
