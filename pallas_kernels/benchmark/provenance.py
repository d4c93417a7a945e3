"""Where and when numbers were measured, kept beside them."""

import datetime
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from pallas_kernels.device import current_device


def provenance(module: str, arguments: Sequence[str]) -> dict[str, Any]:
    """Date, device, versions, git commit (None outside a checkout) and command.

    Args:
      module: that ran, such as "pallas_kernels.benchmark".
      arguments: of its command line.
    """
    device = current_device()
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device_kind": device.kind,
        "platform": device.platform,
        "jax": jax.__version__,
        "git_commit": _git("rev-parse", "HEAD"),
        "git_changes": bool(_git("status", "--porcelain")),
        "command": " ".join(["python -m", module, *arguments]),
    }


def _git(*arguments: str) -> str | None:
    folder = Path(__file__).parent
    try:
        answer = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None
