"""A stand-in for gcloud, kubectl, sbatch and their like: it plays a scene.

Installed under their names at the front of the PATH by `rehearsal.py`. The scene is a
list of cues: a regular expression over the command line, and what to reply to the
first, the second, ... command that matches it; the last reply repeats. The first cue
that matches is played; a command without a cue succeeds in silence. Every command is
written down. Runs without this project's packages, and quickly.
"""

import json
import os
import re
import subprocess
import sys


def play(folder: str, command: list[str]) -> int:
    """Writes the command down, prints what its cue says, and returns the status."""
    with open(f"{folder}/scene.json", encoding="utf-8") as file:
        scene = json.load(file)
    calls = f"{folder}/calls.jsonl"
    with open(calls, encoding="utf-8") as file:
        earlier = [" ".join(json.loads(line)) for line in file]
    with open(calls, "a", encoding="utf-8") as file:
        file.write(json.dumps(command) + "\n")
    if scene["trouble_from"] is not None and len(earlier) >= scene["trouble_from"]:
        print("ERROR: unforeseen trouble", file=sys.stderr)
        return 1
    line = " ".join(command)
    for pattern, replies in scene["cues"]:
        if re.search(pattern, line):
            times = sum(bool(re.search(pattern, other)) for other in earlier)
            reply = replies[min(times, len(replies) - 1)]
            break
    else:
        reply = {}
    if reply.get("really"):  # as ssh would: the remote command, in the home directory
        (remote,) = (w.partition("=")[2] for w in command if w.startswith("--command="))
        home = os.environ["HOME"]
        return subprocess.run(["bash", "-c", remote], cwd=home, check=False).returncode
    if command[0] == "sudo":  # it is piped into: what is not read would break the pipe
        sys.stdin.read()
    sys.stdout.write(reply.get("out", ""))
    sys.stderr.write(reply.get("err", ""))
    return reply.get("status", 0)


if __name__ == "__main__":
    sys.exit(
        play(os.environ["STAND_IN"], [os.path.basename(sys.argv[0]), *sys.argv[1:]])
    )
