"""Where metrics go: one JSON row per logged step, and TensorBoard events."""

import json
from collections.abc import Mapping
from pathlib import Path

from unimod_jax.training.run_directory import RunDirectory, write_atomically


class MetricWriter:
    """Appends rows to a run's metrics.jsonl and to its TensorBoard directory."""

    def __init__(self, run: RunDirectory, first_step: int):
        """Opens both, dropping rows that a resumed run is about to write again.

        Args:
          run: the run directory.
          first_step: the last step already taken; later rows are dropped.
        """
        from tensorboardX import SummaryWriter

        if run.metrics.exists():
            kept = [
                row for row in read_metrics(run.metrics) if row["step"] <= first_step
            ]
            text = "".join(json.dumps(row) + "\n" for row in kept)
            write_atomically(run.metrics, text)
        self._file = run.metrics.open("a")
        self._events = SummaryWriter(str(run.tensorboard), purge_step=first_step + 1)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Writes one row."""
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._events.add_scalar(name, value, step)

    def close(self) -> None:
        """Closes both."""
        self._file.close()
        self._events.close()


def read_metrics(path: Path) -> list[dict[str, float]]:
    """All whole rows of a metrics.jsonl; a last row cut off by a crash is left out."""
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows
