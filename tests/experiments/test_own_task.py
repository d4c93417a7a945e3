"""A task written in an experiment file outside the repository, with its own router."""

import json
from pathlib import Path

import pytest

from experiments import sample, train

OWN_TASK = """
from unimod_jax.data import DataConfig
from unimod_jax.layout import IMAGE, Piece, SpecialTokens, Task
from unimod_jax.mod import same_for
from unimod_jax.models import MixtureOfDepths, ModelConfig
from unimod_jax.objectives import NextToken
from unimod_jax.training import Experiment, TrainingConfig

MARKERS = SpecialTokens()


def experiment():
    naming = Task(
        "naming",
        (
            Piece.fixed("begin", MARKERS.begin),
            Piece("scan", IMAGE, part="image", predicted_by="nothing"),
            Piece("name", part="text", written=True),
        ),
    )
    return Experiment(
        objective=NextToken(),
        tasks=(naming,),
        model=ModelConfig(
            width=16, num_layers=1, num_heads=2, num_kv_heads=2, head_dim=8
        ),
        mod=MixtureOfDepths(same_for(("naming",), (0.5,))),
        data=DataConfig(batch_size=4, caption_tokens=9, directory=DIRECTORY),
        training=TrainingConfig(
            steps=20, warmup_steps=2, checkpoint_every=20, log_every=5
        ),
    )
"""


def test_a_task_of_ones_own_trains_and_writes(tmp_path: Path, capsys):
    file = tmp_path / "own_task.py"
    file.write_text(OWN_TASK + f"\nDIRECTORY = {str(tmp_path / 'data')!r}\n")
    run = tmp_path / "run"
    train.main([str(file), "--run-dir", str(run)])
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["step"] == 20
    kept = [value for name, value in last.items() if "/naming/" in name]
    assert last["naming/loss"] < 6.0 and any(0.0 < share < 1.0 for share in kept)
    scan = tmp_path / "scan.png"
    _write_scan(scan)
    capsys.readouterr()
    sample.main([str(run), "--part", f"scan={scan}", "--task", "naming"])
    assert capsys.readouterr().out.startswith("name: ")


def test_a_piece_that_the_task_does_not_have_is_refused(tmp_path: Path, capsys):
    file = tmp_path / "own_task.py"
    changed = OWN_TASK.replace('same_for(("naming"', 'same_for(("nameing"')
    file.write_text(changed + f"\nDIRECTORY = {str(tmp_path / 'data')!r}\n")
    with pytest.raises(SystemExit):
        train.main([str(file), "--run-dir", str(tmp_path / "run")])
    assert "did you mean 'naming'?" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def _write_scan(path: Path) -> None:
    import numpy as np
    from PIL import Image

    Image.fromarray(np.full((8, 8), 255, np.uint8)).save(path)
