"""Every task of every shipped experiment: rows, leaks, oracles, resuming.

The list is made from the experiments themselves, so a task that is added is covered.
"""

import dataclasses
import functools
import itertools

import jax
import numpy as np
import pytest

from experiments.command_line import experiment_names, load_experiment
from tests.models.perturbed_rows import unaware
from tests.models.tiny_model import QUICK_TO_COMPILE, by_position, random_variables
from unimod_jax.data import DataConfig, TextTokenizer, prepare
from unimod_jax.data.example_rows import first_rows
from unimod_jax.data.mixture import skip_batches, training_batches
from unimod_jax.data.textbook import DATA_SET as TEXTBOOK
from unimod_jax.data.tfds_source import open_split
from unimod_jax.layout import TaskLayout, visible_matrix
from unimod_jax.mod import same_for
from unimod_jax.models import MixtureOfDepths, ModelConfig, UnifiedModel
from unimod_jax.training import Assembly, Experiment, reduced_twin


@functools.cache
def distinct_tasks() -> dict[str, Experiment]:
    """Name of an experiment and task -> a tiny experiment of that task alone.

    Tasks that are equal are taken once; the textbooks need files that nobody ships.
    """
    found: dict[object, str] = {}
    experiments = {}
    for name in experiment_names():
        experiment = load_experiment(name)
        for task in experiment.tasks:
            key = (type(experiment.objective), dataclasses.replace(task, share=1))
            if key in found or experiment.data.name == TEXTBOOK:
                continue
            label = f"{name}:{task.name}"
            found[key] = label
            experiments[label] = _alone(experiment, task)
    return experiments


def _alone(experiment: Experiment, task) -> Experiment:
    tasks = tuple(
        dataclasses.replace(each, share=int(each == task)) for each in experiment.tasks
    )
    small = dataclasses.replace(experiment, tasks=tasks)
    if experiment.data.name == "own_records":
        small = reduced_twin(small)
    model = ModelConfig(
        width=16,
        num_layers=2,
        num_heads=2,
        num_kv_heads=1,
        head_dim=8,
        feed_forward_hidden=24,
        remat="nothing",
        modalities=experiment.model.modalities,
    )
    data = dataclasses.replace(small.data, batch_size=4)
    return dataclasses.replace(
        small, model=model, mod=_routing(task.name), data=data, mot=experiment.mot
    )


def _routing(task: str):
    return MixtureOfDepths(same_for((task,), (0.6, 0.6)))


@pytest.fixture(scope="session")
def directory(tmp_path_factory) -> str:
    folder = str(tmp_path_factory.mktemp("data"))
    prepare(DataConfig(directory=folder))
    return folder


@functools.cache
def prepared(label: str, directory: str):
    """(assembly, records, tokenizer) of a task."""
    experiment = distinct_tasks()[label]
    data = dataclasses.replace(experiment.data, directory=directory)
    assembly = Assembly(dataclasses.replace(experiment, data=data))
    records = open_split(data, data.train_split)
    texts = [text for record in records for text in record.texts]
    return assembly, records, TextTokenizer.train(texts, assembly.vocabulary)


LABELS = sorted(distinct_tasks())


@pytest.mark.parametrize("label", LABELS)
def test_windows_are_those_of_the_tasks_pieces(label, directory):
    """The oracle: who sees whom, from the pieces alone, token by token."""
    assembly, records, tokenizer = prepared(label, directory)
    ((_, layout),) = assembly.layouts.items()
    if not isinstance(layout, TaskLayout):
        pytest.skip("rows of documents have an oracle in tests/data")
    config = assembly.experiment.data
    batch = first_rows(config, assembly.layouts, assembly.rows, records, tokenizer)
    group = batch[layout.task]
    for row in range(group.num_rows):
        held = {}
        for segment in layout.segments:
            stream, start, size = layout.slot_range(segment.name)
            place_T = np.asarray(group.streams[stream].position_BT)[row]
            held[segment.name] = int((place_T[start : start + size] >= 0).sum())
        names = [s.name for s in layout.segments for _ in range(held[s.name])]
        spans = [layout.segment(name).span for name in names]
        joined = np.concatenate(
            [[0], np.cumsum([a != b for a, b in itertools.pairwise(spans)])]
        )
        prefix = layout.prefix_segment
        last = max((i for i, n in enumerate(names) if n == prefix), default=-1)
        index = np.arange(len(names))
        same = (joined[:, None] == joined[None]) & (np.array(spans)[:, None] != "")
        wanted = (index[None] <= index[:, None]) | same | (index[None] <= last)
        where = [
            (
                np.asarray(s.position_BT)[row],
                np.asarray(s.window_start_BT)[row],
                np.asarray(s.window_end_BT)[row],
            )
            for s in group.streams.values()
        ]
        position, start, end = (
            np.concatenate(part) for part in zip(*where, strict=True)
        )
        order = np.argsort(np.where(position < 0, 10**6, position))[: len(names)]
        seen = visible_matrix(start[order], end[order], position[order])
        np.testing.assert_array_equal(seen, wanted)


@pytest.mark.parametrize("label", LABELS)
def test_rows_go_on_where_they_were_stopped_in_any_number_of_shares(label, directory):
    assembly, records, tokenizer = prepared(label, directory)
    config, layouts, rows = assembly.experiment.data, assembly.layouts, assembly.rows

    def batches(**share):
        return iter(
            training_batches(config, layouts, rows, records, tokenizer, **share)
        )

    whole = batches()
    wanted = [next(whole) for _ in range(3)]
    resumed = batches()
    skip_batches(resumed, 2)
    _assert_equal(next(resumed), wanted[2])
    shares = [batches(process_index=n, process_count=2) for n in range(2)]
    halves = [next(share) for share in shares]
    _assert_equal(jax.tree.map(_in_turns, *halves), wanted[0])


def _in_turns(*parts: np.ndarray) -> np.ndarray:
    """The rows of two processes, one of each after another."""
    count = sum(map(len, parts))
    return np.stack(parts, axis=1).reshape(count, *parts[0].shape[1:])


def _assert_equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize("label", LABELS)
def test_no_token_notices_what_it_may_not_see(label, directory):
    """The leak test: later tokens change nothing of those whose windows end before."""
    assembly, records, tokenizer = prepared(label, directory)
    ((task, layout),) = assembly.layouts.items()
    if any(not layout.is_causal(name) for name in layout.stream_names):
        pytest.skip("rows that are there as a whole have no later tokens")
    if assembly.experiment.mot.expert_towers:
        pytest.skip("experts choose among whole rows")
    config = assembly.experiment.data
    batch = first_rows(config, assembly.layouts, {task: 1}, records, tokenizer)
    group = jax.tree.map(lambda leaf: np.repeat(leaf, 3, axis=0), batch[task])
    length = max(int(s.window_end_BT.max()) for s in group.streams.values())
    last_B = np.array([length // 4, length // 2, length - 2])
    changed = _perturbed(group, last_B, assembly.spec.vocabulary_size)
    variables = random_variables(assembly.spec, {task: group})
    apply = jax.jit(
        UnifiedModel(assembly.spec).apply, compiler_options=QUICK_TO_COMPILE
    )
    before, after = (
        _said(group, apply(variables, {task: each})[0][task])
        for each in (group, changed)
    )
    difference_BT = np.abs(before - after).max(axis=-1)
    unaware_BT = unaware(group, last_B)
    assert (difference_BT * unaware_BT).max() < 1e-4
    assert unaware_BT.any() and difference_BT.max() > 1e-3


def _said(group, output):
    said = [output.logits, output.patches]
    arrays = [by_position(group, each) for each in said if each]
    return np.concatenate(arrays, axis=-1)


def _perturbed(group, last_B, vocabulary_size):
    rng = np.random.default_rng(0)
    patch_BNP = np.array(group.patch_BNP)
    for name, stream in group.streams.items():
        later_BT = np.asarray(stream.position_BT) > last_B[:, None]
        old_BT = np.asarray(stream.token_id_BT)
        shift_BT = rng.integers(1, vocabulary_size, old_BT.shape)
        new_BT = np.where(later_BT, (old_BT + shift_BT) % vocabulary_size, old_BT)
        group = group.with_stream(name, token_id_BT=new_BT.astype(np.int32))
        if group.layout.holds_patches(name):
            row, slot = np.nonzero(later_BT & (np.asarray(stream.patch_index_BT) >= 0))
            patch = np.asarray(stream.patch_index_BT)[row, slot]
            patch_BNP[row, patch] += rng.normal(size=(len(row), patch_BNP.shape[2]))
    return dataclasses.replace(group, patch_BNP=patch_BNP)
