"""Plays `compile_check` (given --json) or `train` (given --run-dir) in milliseconds.

What it plays is in --data.name, a text that every experiment accepts. Each start is a
line of points/starts.txt: point and process.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

OPTIONS = dict(zip(sys.argv[2::2], sys.argv[3::2], strict=True))
PLAY = OPTIONS.get("--data.name", "well")
ROWS = int(OPTIONS.get("--data.batch_size", 18))
OUT = Path(OPTIONS.get("--json") or OPTIONS["--run-dir"])
STARTS = OUT.parents[1] / "starts.txt"

CHECK = {
    "topology": OPTIONS.get("--topology"),
    "num_chips": 64,
    "fits": PLAY != "over",
    "hbm_bytes_per_chip": 24e9,
    "usable_bytes_per_chip": 20e9,
    "bytes_per_chip": {
        "parameters": 1e9,
        "optimizer": 2e9,
        "activations": (ROWS - 3) * 1e9,
        "total": ROWS * 1e9,
    },
    "options": ["--mesh.fsdp", "64"],
    "flops_per_chip": 1e12 * ROWS,
    "collective_bytes_per_chip": {"all-reduce": 1e9, "all-gather": 3e9},
    "roofline_step_seconds": 0.01 * ROWS,
}


def write(text: str) -> None:
    """What the real command writes: the check, or the metrics of a run."""
    if "--json" in OPTIONS:
        OUT.write_text(text)
    else:
        OUT.mkdir(exist_ok=True)
        rows = [
            {"step": 1, "loss": 9.0, "step_seconds": 30.0},
            {"step": 10, "loss": 7.0, "step_seconds": 2.0},
            {"step": 20, "loss": ROWS / 10, "step_seconds": 4.0, "a/loss": 1.5},
        ]
        text = "\n".join(json.dumps(row) for row in rows) if text.endswith("}") else ""
        (OUT / "metrics.jsonl").write_text(text)


with STARTS.open("a") as file:
    file.write(f"{OUT.parent.name} {os.getpid()}\n")
(OUT.parent / "arguments.json").write_text(json.dumps(sys.argv[1:]))
starts = STARTS.read_text().count(f"{OUT.parent.name} ")

if PLAY == "breaks" or (PLAY == "heals" and starts == 1):
    raise KeyError("a bug")
if PLAY == "refuses":
    sys.exit("some log line\nerror: 18 rows are too many; take 9.")
if PLAY == "slow":
    time.sleep(60)
if PLAY == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("ready", flush=True)
    time.sleep(60)
if PLAY == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if PLAY == "saved":
    sys.exit(75)
if PLAY == "nothing":
    sys.exit(0)
if PLAY == "garbage":
    write('{"fits": tr')
    sys.exit(0)
if PLAY == "pause":
    time.sleep(0.3)
if PLAY != "over_in_compiling":
    write(json.dumps(CHECK))
if PLAY.startswith("over"):
    print("error: it needs 30 GB a chip of 20; raise --mesh.fsdp.")
    sys.exit(3)
