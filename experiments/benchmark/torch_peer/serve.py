"""A process that takes a training step whenever it is asked to, and waits in between.

    python -m experiments.benchmark.torch_peer.serve FOLDER

FOLDER holds `setup.json` and one `.npy` file per array under `parameters` and `batch`.
The first line on stdout says what is ready. Then each line on stdin names a way to take
a step, and one line on stdout answers it; the end of stdin ends the process. All lines
are JSON objects. Whatever libraries print goes to stderr.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]

from experiments.benchmark.torch_peer.model import PeerConfig
from experiments.benchmark.torch_peer.training import PeerRecipe, PeerTraining


def main(folder: Path) -> None:
    """Serves steps of what the folder describes."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    setup = json.loads((folder / "setup.json").read_text(encoding="utf-8"))
    torch.set_num_threads(setup["threads"])
    device = setup["device"]
    training = PeerTraining(
        PeerConfig(**setup["config"] | _tuples(setup["config"])),
        PeerRecipe(**setup["recipe"]),
        _tensors(folder / "parameters"),
        _tensors(folder / "batch"),
        device,
    )
    ready = {
        "torch_version": torch.__version__,
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
        "ways": list(training.ways),
    }
    print(json.dumps(ready), file=answers)
    for line in sys.stdin:
        print(json.dumps(_answer(training, json.loads(line))), file=answers)


def _answer(training: PeerTraining, request: dict[str, Any]) -> dict[str, Any]:
    """What a step measured, or why this way does not work here."""
    try:
        return training.take(request["take"])._asdict()
    except Exception as failure:
        first_line = (str(failure).splitlines() or [""])[0]
        return {"error": f"{type(failure).__name__}: {first_line}"}


def _tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {path.stem: torch.from_numpy(np.load(path)) for path in folder.glob("*.npy")}


def _tuples(config: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(x) for name, x in config.items() if isinstance(x, list)}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
