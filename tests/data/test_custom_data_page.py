"""The programs printed in docs/custom_data.md run, and its sample row is real."""

import os
import re
import subprocess
import sys
from pathlib import Path

from PIL import Image

from unimod_jax.data import describe

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "custom_data.md").read_text(encoding="utf-8")


def test_the_printed_programs_build_and_read_a_data_set(tmp_path):
    scans = tmp_path / "scans"
    scans.mkdir()
    for place in range(13):
        Image.new("RGB", (9, 11), (place, 0, 0)).save(scans / f"{place:02d}.png")
        (scans / f"{place:02d}.txt").write_text(f"red {place}\nnearly black\n")
    builder, reader = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    output = subprocess.run(
        [sys.executable, "-c", builder + reader],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "3 records" in output
    assert "        | nearly black" in output
    assert "uint8 [8, 8, 3]" in output


def test_the_printed_sample_row_is_the_first_record(train_records):
    assert f"```\n{describe(train_records[0])}\n```" in PAGE
