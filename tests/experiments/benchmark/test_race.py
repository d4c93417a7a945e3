"""What is timed is the real training step on full rows."""

import jax
import numpy as np
import pytest

from experiments.benchmark.race import prepare_on_random_rows, race
from experiments.benchmark.random_rows import random_batch
from experiments.benchmark.towers import three_modalities
from experiments.benchmark.workload import Size, sized
from unimod_jax.layout import PartSizes, SpecialTokens, rows_of_task
from unimod_jax.presets import PRESETS
from unimod_jax.training import Assembly

ROWS = {"text_to_image": 1, "image_to_text": 2}
TINY = Size(ROWS, width=16, num_layers=2, head_dim=8, image_side=4, dtype="float32")


def test_sizes_change_and_the_plan_stays():
    whole, small = sized("emu3", "unimod", Size(ROWS)), sized("emu3", "unimod", TINY)
    assert whole.model.width == 4096 and small.model.width == 16
    assert whole.model.num_layers == 32
    assert small.mod == whole.mod.at_depth(small.model.num_layers)
    assert small.model.num_kv_heads == 1  # of 2 heads, as 8 of 32
    assert small.data.image_line == 4
    for experiment in (whole, small):
        assert not experiment.model.has_dropout
        assert Assembly(experiment).rows == ROWS


def test_rows_for_a_task_that_there_is_not_are_refused():
    with pytest.raises(ValueError, match=r"no tasks \['text_to_imag'\] among .*name"):
        sized("emu3", "unimod", Size({"text_to_imag": 1}))


@pytest.mark.parametrize(
    "name", ["show_o_256", "chameleon_37m_speech", "transfusion_163m"]
)
def test_every_slot_of_a_random_row_is_filled(name):
    interleaved = "interleaved" in PRESETS[name].mean_tasks
    rows = {"interleaved": 1} if interleaved else ROWS
    assembly = Assembly(sized(name, "mot", Size(rows, width=16, head_dim=8)))
    spec = assembly.spec
    batch = random_batch(assembly)
    for task, group in batch.items():
        assert group.num_rows == rows[task]
        assert not group.patch_BNP.size or np.ptp(group.patch_BNP) > 0
        for stream in group.streams.values():
            assert np.all(np.asarray(stream.position_BT) >= 0)
            ids = np.asarray(stream.token_id_BT)
            assert ids.max() < spec.vocabulary_size
            if not group.patch_BNP.size:
                assert not np.isin(ids, [0, *SpecialTokens().ids]).any()


def test_rows_of_three_modalities_hold_all_three():
    sizes = PartSizes(text_tokens=3, image_codes=4)
    spec = Assembly(sized("chameleon_37m_speech", "mot", Size({"interleaved": 1}))).spec
    layout = rows_of_task(three_modalities(3), sizes, spec.streams)
    assert {name: layout.num_tokens(name) for name in layout.stream_names} == {
        "text": 5,
        "image": 4,
        "speech": 3,
    }


def test_a_step_trains_and_is_described():
    step = prepare_on_random_rows(sized("emu3", "mot_unimod", TINY))
    before = jax.tree.map(np.asarray, step.state.params)
    records = race({"routed": step}, seconds=0.0, fewest=2)
    changed = jax.tree.map(
        lambda old, new: bool(np.any(old != np.asarray(new))), before, step.state.params
    )
    assert sum(jax.tree.leaves(changed)) > 10
    record = records["routed"]
    assert record["samples"] == 2
    assert int(step.state.step) == 4  # two to warm up
    assert record["flops"] == step.assembly.flops_per_step > 0
    assert record["peak_bytes"] > record["state_bytes"] > 0
