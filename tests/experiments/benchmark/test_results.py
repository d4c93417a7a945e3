"""Figures are ratios of what was measured, and results files say what they hold."""

import json

import numpy as np
import pytest

from experiments.benchmark.__main__ import SECONDS, main, run_suites, suite_named
from experiments.benchmark.goals import GOALS
from experiments.benchmark.plots import plot_figures
from experiments.benchmark.results import (
    markdown_table,
    read_results,
    text_table,
    with_table,
    write_results,
)
from experiments.benchmark.routing import SWEEP, routing_figures
from experiments.benchmark.suite import Setting, SuiteResult
from experiments.benchmark.towers import towers_figures
from experiments.benchmark.utilisation import (
    peak_flops_per_second,
    utilisation_figures,
)


def measured(seconds, flops=100, **names):
    return {"step_seconds": seconds, "flops": flops, "peak_bytes": 10 * flops} | names


def routing_records():
    sweep = [
        measured(
            0.5 + keep / 2,
            round(100 * keep),
            system="emu3",
            contender=f"keep_{round(100 * keep)}",
        )
        for keep in SWEEP
    ]
    return [
        measured(2.0, system="show_o", contender="dense"),
        measured(1.8, 80, system="show_o", contender="unimod"),
        measured(1.0, system="emu3", contender="dense"),
        *sweep,
    ]


def test_half_of_the_flops_saved_as_time_is_a_realised_saving_of_a_half():
    figures = routing_figures(routing_records())
    assert figures["routing.show_o.step_ratio"] == pytest.approx(0.9)
    assert figures["routing.show_o.flops_ratio"] == pytest.approx(0.8)
    assert figures["routing.show_o.peak_bytes_ratio"] == pytest.approx(0.8)
    assert figures["routing.show_o.realised_saving"] == pytest.approx(0.5)
    assert figures["routing.emu3.realised_saving"] == pytest.approx(0.5)
    assert figures["routing.emu3.keep_50.step_ratio"] == pytest.approx(0.75)


def test_keeping_everything_saves_nothing_to_be_realised():
    figures = routing_figures(routing_records())
    assert figures["routing.keep_all.step_ratio"] == pytest.approx(1.0)
    assert "routing.keep_all.realised_saving" not in figures


def test_towers_are_compared_with_the_dense_step_of_their_own_rows():
    figures = towers_figures(
        [
            measured(2.0, rows="fixed.k2", contender="dense"),
            measured(2.1, rows="fixed.k2", contender="mot"),
            measured(4.0, rows="interleaved.k2", contender="dense"),
            measured(4.4, rows="interleaved.k2", contender="mot"),
        ]
    )
    expected = {
        "towers.fixed.k2.step_ratio": 1.05,
        "towers.interleaved.k2.step_ratio": 1.1,
    }
    assert figures == pytest.approx(expected)


def test_every_suite_has_a_function_and_every_goal_a_suite():
    for name in SECONDS:
        assert callable(suite_named(name))
    families = {name.split(".")[0] for name in GOALS}
    assert families == {*SECONDS, "gpu"} - {"utilisation"}


def test_the_peaks_are_found_by_part_of_a_name():
    assert peak_flops_per_second("NVIDIA H200") == 989e12
    assert peak_flops_per_second("NVIDIA A100-SXM4-80GB") == 312e12
    assert peak_flops_per_second("cpu") is None


def test_utilisation_is_of_the_peak_and_compared_with_the_dense_step():
    records = [
        {"contender": name, "flops_per_second": share, "peak_flops_per_second": 2.0}
        for name, share in (("dense", 1.2), ("mot", 1.1), ("unimod", 1.16))
    ]
    assert utilisation_figures(records) == pytest.approx(
        {
            "gpu.dense.mfu": 0.6,
            "gpu.mot.mfu": 0.55,
            "gpu.unimod.useful_mfu": 0.58,
            "gpu.unimod.useful_mfu_below_dense": 0.02,
        }
    )


def test_tables_say_which_goals_are_met():
    figures = {"peers.dense.step_ratio": 0.8, "peers.mot.step_ratio": 1.2, "other": 3.0}
    text = text_table(figures, [measured(0.5, suite="peers", contender="dense")])
    assert "goal ≤ 1: met" in text
    assert "goal ≤ 1: missed" in text
    assert "500.0 ms a step" in text
    markdown = markdown_table(figures)
    assert markdown.count("missed") == 1
    assert "other" not in markdown


def test_a_results_file_is_read_back_shown_and_drawn(tmp_path, capsys):
    figures = {"peers.dense.step_ratio": 0.8, "towers.fixed.k2.step_ratio": 1.5}
    results = {
        "date": "2026-11-22T10:00:00+00:00",
        "device_kind": "cpu",
        "figures": figures,
        "records": [],
    }
    file, image = tmp_path / "out.json", tmp_path / "out.png"
    write_results(file, results)
    assert read_results(file) == results
    main(["--json", str(file), "--plot", str(image)])
    assert "towers.fixed.k2.step_ratio" in capsys.readouterr().out
    from matplotlib.image import imread

    assert np.ptp(imread(image)) > 0


def test_what_is_no_results_file_is_refused_in_one_sentence(tmp_path):
    file = tmp_path / "out.json"
    for content in ("not JSON", json.dumps([1]), json.dumps({"figures": 3})):
        file.write_text(content)
        with pytest.raises(SystemExit, match=r"out\.json"):
            main(["--json", str(file)])
    with pytest.raises(SystemExit, match="--suite"):
        main([])


def test_nothing_to_draw_is_refused(tmp_path):
    with pytest.raises(ValueError, match="nothing to draw"):
        plot_figures({"other": 1.0}, "title", tmp_path / "out.png")


def test_the_table_of_a_text_is_replaced_and_its_surroundings_stay(tmp_path):
    start, end = "<!-- benchmark: old.json -->\n", "<!-- end of benchmark -->"
    text = f"before\n{start}| old |\n{end}\nafter\n"
    figures = {"peers.dense.step_ratio": 0.8}
    replaced = with_table(text, "new.json", figures)
    assert replaced.startswith("before\n<!-- benchmark: new.json -->\n| figure ")
    assert replaced.endswith(f"{markdown_table(figures)}\n{end}\nafter\n")
    assert with_table(replaced, "new.json", figures) == replaced
    with pytest.raises(ValueError, match="no place"):
        with_table("before\nafter\n", "new.json", figures)


def test_a_suite_that_fails_or_comes_too_late_does_not_take_the_others_with_it():
    def good(setting):
        return SuiteResult([{"seconds": setting.seconds}], {"towers.x": 1.0})

    def bad(setting):
        raise RuntimeError("out of memory")

    said = []
    setting = Setting("cpu", 0.0, say=said.append)
    results = run_suites({"peers": bad, "towers": good}, setting)
    assert results["figures"] == {"towers.x": 1.0}
    assert results["records"] == [{"suite": "towers", "seconds": SECONDS["towers"]}]
    assert results["not_run"] == {"peers": "RuntimeError: out of memory"}
    assert any("out of memory" in line for line in said)
