"""The search finds what is clearly faster; the table changes where it is told to."""

import json

import pytest

from pallas_kernels import tune
from pallas_kernels.benchmark.block_search import BlockTimer, search
from pallas_kernels.benchmark.contenders import exact_results, make_problem
from pallas_kernels.benchmark.timing import Budget
from pallas_kernels.benchmark.visibility_cases import Heads, causal_case
from pallas_kernels.device import Device
from pallas_kernels.routed_attention import block_sizes as table_module
from pallas_kernels.routed_attention.block_sizes import Blocks, BlockSizes
from pallas_kernels.routed_attention.reference import reference

VALUES = {"key": (32, 64, 128), "query": (32, 64, 128)}
CHIP = Device("gpu", "NVIDIA Imaginary")
ALIKE = BlockSizes(*[Blocks(64, 64)] * 3)
TABLE = tune.table_path().read_text(encoding="utf-8")


def kernel(*arguments, scale, dropout=None, blocks: BlockSizes | None = None):
    """A kernel of which only forward blocks of at least 64 queries compile."""
    if blocks is not None and blocks.forward.query < 64:
        raise ValueError("32 queries leave lanes empty\nand more")
    return reference(*arguments, scale=scale, dropout=dropout)


def uniform_kernel(*arguments, scale, blocks: Blocks | BlockSizes | None = None):
    """One cut for all passes."""
    assert isinstance(blocks, Blocks)
    return reference(*arguments, scale=scale)


def wrong_kernel(*arguments, scale, blocks: BlockSizes | None = None):
    return arguments[0]


def kernel_of_another_chip(*arguments, scale, blocks: BlockSizes | None = None):
    raise NotImplementedError("this is no TPU.")


def timer_of(cost):
    return lambda candidates: {
        blocks: cost(blocks) for blocks in candidates if cost(blocks) is not None
    }


def timer_of_blocks(function, which):
    problem, budget = tiny_problem(), Budget(100.0)
    exact = exact_results(problem)
    return BlockTimer(function, problem, ALIKE, which, budget, exact=exact, repeats=2)


def tiny_problem():
    return make_problem(causal_case("tiny", 8, Heads(1, 1, 8)), "float32")


def test_the_search_finds_the_fastest_of_each_field():
    def cost(blocks):
        return 1.0 + abs(blocks.key - 32) + abs(blocks.query - 128)

    best, measured = search(Blocks(64, 64), VALUES, timer_of(cost))
    assert best == Blocks(128, 32)
    assert measured[best] == 1.0


def test_a_field_is_tried_again_around_the_best_of_the_others():
    def cost(blocks):
        return {(128, 128): 1.0, (128, 64): 2.0, (64, 64): 3.0}.get(blocks[:2], 9.0)

    best, _ = search(Blocks(64, 64), VALUES, timer_of(cost))
    assert best == Blocks(128, 128)


def test_noise_does_not_change_the_table():
    def cost(blocks):
        return 1.0 if blocks == Blocks(64, 64) else 0.99

    best, _ = search(Blocks(64, 64), VALUES, timer_of(cost))
    assert best == Blocks(64, 64)


def test_candidates_that_do_not_run_are_passed_over():
    def cost(blocks):
        return None if blocks.key < 128 else 1.0 / blocks.query

    best, measured = search(Blocks(64, 64), VALUES, timer_of(cost))
    assert best == Blocks(128, 128)
    assert all(blocks.key == 128 for blocks in measured)
    assert search(Blocks(64, 64), VALUES, timer_of(lambda blocks: None)) == (None, {})


def test_candidates_that_fail_keep_their_reason():
    timer = timer_of_blocks(kernel, "forward")
    failing, running = Blocks(32, 64), Blocks(128, 64)
    seconds = timer.measure([failing, running])
    assert list(seconds) == [running] and seconds[running] > 0
    assert timer.failures == {failing: "ValueError: 32 queries leave lanes empty"}


def test_fast_and_wrong_is_no_candidate():
    timer = timer_of_blocks(wrong_kernel, "forward")
    assert timer.measure([Blocks(64, 64)]) == {}
    assert "the results are wrong" in timer.failures[Blocks(64, 64)]


@pytest.mark.parametrize("which", ["query_gradient", "key_gradient"])
def test_the_backward_pass_is_timed_without_the_forward(which):
    timer = timer_of_blocks(kernel, which)
    assert timer.measure([Blocks(32, 64)])[Blocks(32, 64)] > 0


def test_a_spent_budget_compiles_nothing_new_and_says_so():
    budget = Budget(0.0)
    with pytest.raises(NotImplementedError, match="the budget was spent"):
        tune.tune(kernel, tiny_problem(), ALIKE, VALUES, budget)
    assert len(budget.dropped) > 0


def test_one_cut_for_all_passes_is_written_for_all():
    tuned = tune.tune(
        uniform_kernel, tiny_problem(), ALIKE, {"key": (64,)}, Budget(100.0)
    )
    assert len(set(tuned.sizes)) == 1
    assert set(tuned.measured) == {"forward"}


def test_the_format_of_the_table_is_the_file():
    assert tune.format_table(json.loads(TABLE)) == TABLE


def test_writing_adds_one_line_per_class_and_touches_no_other(tmp_path, monkeypatch):
    path = tmp_path / "table.json"
    path.write_text(TABLE, encoding="utf-8")
    tuned = tune.Tuned(ALIKE._replace(forward=Blocks(128, 32)), {}, {}, True)
    entry = tune.table_entry(tuned, ("key", "query"), tiny_problem(), CHIP)
    tune.write_entry(path, "triton", CHIP, "few.e64.16bit", entry)
    tune.write_entry(path, "triton", CHIP, "long.e64.16bit", entry)
    written = path.read_text(encoding="utf-8")

    old, new = TABLE.splitlines(), written.splitlines()
    assert [line for line in new if "Imaginary" in line and "source" not in line] == [
        '  "NVIDIA Imaginary": {'
    ]
    without_commas = {line.rstrip(",") for line in new}
    assert {line.rstrip(",") for line in old} <= without_commas
    # The chip's braces, and a line for each class.
    assert len(new) == len(old) + 4
    assert tune.format_table(json.loads(written)) == written

    monkeypatch.setattr(table_module, "_table", lambda: json.loads(written))
    found = table_module.block_sizes("triton", CHIP, "few.e64.16bit")
    assert found == tuned.sizes
    others = Device("gpu", "NVIDIA A100")
    before = json.loads(TABLE)["triton"]["any"]["few.e64.16bit"]["forward"]
    after = table_module.block_sizes("triton", others, "few.e64.16bit")
    assert after.forward == Blocks(**before)


def test_an_entry_says_when_and_where_it_was_measured():
    tuned = tune.Tuned(ALIKE, {}, {}, False)
    entry = tune.table_entry(tuned, ("query", "key"), tiny_problem(), CHIP)
    assert entry["forward"] == {"query": 64, "key": 64}
    assert entry["source"].startswith("measured 20")
    assert "NVIDIA Imaginary" in entry["source"] and "T 8, S 8" in entry["source"]
    assert entry["source"].endswith("the budget cut the search short")


def test_the_command_measures_and_writes_only_when_asked(tmp_path, monkeypatch, capsys):
    path = tmp_path / "table.json"
    path.write_text(TABLE, encoding="utf-8")
    monkeypatch.setattr(tune, "table_path", lambda: path)
    monkeypatch.setattr(tune, "implementation_function", lambda name: uniform_kernel)
    monkeypatch.setitem(tune.VALUES, "cpu", {"query": (64,)})
    monkeypatch.setitem(tune.LENGTHS, "few", tune._Length(1, 4, 16))
    arguments = ["--implementation", "triton", "--shape", "few.e64.32bit"]
    tune.main(arguments)
    assert path.read_text(encoding="utf-8") == TABLE
    assert "<- chosen" in capsys.readouterr().out
    tune.main([*arguments, "--write"])
    table = json.loads(path.read_text(encoding="utf-8"))
    entry = table["triton"]["cpu"]["few.e64.32bit"]
    assert entry["forward"] == {"query": 64}
    assert "measured" in entry["source"]


@pytest.mark.parametrize(
    ("function", "reason"),
    [(kernel_of_another_chip, "this is no TPU"), (reference, "takes no blocks")],
)
def test_where_nothing_can_be_measured_one_sentence_says_so(
    monkeypatch, function, reason
):
    monkeypatch.setattr(tune, "implementation_function", lambda name: function)
    with pytest.raises(SystemExit, match=reason) as stopped:
        tune.main(["--implementation", "mosaic_tpu", "--shape", "few.e64.16bit"])
    assert str(stopped.value).startswith("There is nothing to measure for mosaic_tpu")


def test_classes_are_those_that_attention_looks_up():
    looked_up = {
        table_module.shape_class(length.num_queries, length.num_keys, head_dim, size)
        for length in tune.LENGTHS.values()
        for head_dim in (64, 128)
        for size in (2, 4)
    }
    assert set(tune.shape_classes()) == looked_up
    with pytest.raises(ValueError, match="no class 'tall'"):
        tune.shape_problem("tall", "cpu")


def test_a_class_is_measured_with_the_last_queries_of_causal_rows(monkeypatch):
    monkeypatch.setitem(tune.LENGTHS, "few", tune._Length(8, 4, 16))
    problem = tune.shape_problem("few.e64.32bit", "cpu")
    assert problem.q_BTHE.shape == (1, 4, 2, 64)
    assert problem.case.visible_TS(0).sum(axis=1).tolist() == [13, 14, 15, 16]
