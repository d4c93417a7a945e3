"""Two real processes of four CPU devices each, training one run on loopback.

Whoever uses them plays the part of a script that keeps a run alive: start, disturb,
wait for the exit codes, start again.
"""

import dataclasses
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from unimod_jax.training import RunDirectory
from unimod_jax.training.metric_writer import read_metrics

ROOT = Path(__file__).resolve().parents[2]
EXPERIMENT = Path(__file__).with_name("two_process_experiment.py")

SILENCE_SECONDS = 20.0
PATIENCE_SECONDS = 240.0
"""A start, or an end, that takes longer has hung."""


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@dataclasses.dataclass
class TwoProcesses:
    """A run that is started again and again in one directory.

    Attributes:
      run: its directory.
      home: where processes run; their compiled programs are kept below it.
      data: the data directory.
      steps: of the run.
      experiment: name or file of the experiment.
    """

    run: RunDirectory
    home: Path
    data: Path
    steps: int
    experiment: str = str(EXPERIMENT)
    running: list[subprocess.Popen] = dataclasses.field(default_factory=list)
    logs: list[Path] = dataclasses.field(default_factory=list)
    starts: int = 0

    def start(self, *options: str, indices: tuple[int, ...] = (0, 1)) -> None:
        """Starts the processes of these numbers."""
        self.starts += 1
        port = free_port()
        self.running, self.logs = [], []
        environment = os.environ | {
            "PYTHONPATH": str(ROOT),
            "JAX_PLATFORMS": "cpu",
            "JAX_NUM_CPU_DEVICES": "4",
            "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
            "JAX_NUM_PROCESSES": "2",
        }
        for index in indices:
            log = self.home / f"{self.run.path.name}-{self.starts}-{index}.log"
            command = [
                *(sys.executable, "-m", "experiments.train", self.experiment),
                *("--run-dir", str(self.run.path)),
                *("--data.directory", str(self.data)),
                *("--training.steps", str(self.steps)),
                *("--processes.silence_timeout", str(SILENCE_SECONDS)),
                *options,
            ]
            with log.open("w") as file:
                self.running.append(
                    subprocess.Popen(
                        command,
                        cwd=self.home,
                        env=environment | {"JAX_PROCESS_ID": str(index)},
                        stdout=file,
                        stderr=subprocess.STDOUT,
                    )
                )
            self.logs.append(log)

    def step(self) -> int:
        """The last step with a row of metrics."""
        if not self.run.metrics.exists():
            return 0
        rows = read_metrics(self.run.metrics)
        return int(rows[-1]["step"]) if rows else 0

    def wait_for_log(self, text: str) -> None:
        """Returns when process 0 has said this, or a process has ended."""
        self._wait(lambda: text in self.logs[0].read_text())

    def wait_for_steps(self, steps: int) -> None:
        """Returns when this start has taken so many, or a process has ended."""
        self.wait_for_log("passed 'first step'")
        step = self.step() + steps
        self._wait(lambda: self.step() >= step)

    def _wait(self, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not done() and all(each.poll() is None for each in self.running):
            if time.monotonic() > deadline:
                self.close()
                raise AssertionError(f"nothing happens:\n{self.log()}")
            time.sleep(0.02)

    def kill(self, index: int) -> None:
        """SIGKILL to one."""
        self.running[index].kill()

    def terminate(self, *indices: int) -> None:
        """SIGTERM, as from a cloud that takes its machines back."""
        for index in indices:
            self.running[index].send_signal(signal.SIGTERM)

    def codes(self) -> list[int]:
        """Exit codes, when all have ended."""
        try:
            return [process.wait(PATIENCE_SECONDS) for process in self.running]
        except subprocess.TimeoutExpired:
            self.close()
            raise AssertionError(f"still running:\n{self.log()}") from None

    def close(self) -> None:
        """Leaves no process behind."""
        for process in self.running:
            if process.poll() is None:
                process.kill()
                process.wait()

    def log(self) -> str:
        """What the processes of this start said."""
        return "\n".join(log.read_text() for log in self.logs)

    def truncate_newest_checkpoint(self) -> int | None:
        """Halves its largest file; its step, or None where no other would be left."""
        folder = self.run.checkpoints
        steps = [
            int(each.name)
            for each in (folder.iterdir() if folder.exists() else ())
            if each.name.isdigit() and (each / "commit_success.txt").exists()
        ]
        if len(steps) < 2:
            return None
        files = [file for file in (folder / f"{max(steps)}").rglob("*")]
        largest = max(files, key=lambda file: file.stat().st_size * file.is_file())
        os.truncate(largest, largest.stat().st_size // 2)
        return max(steps)
