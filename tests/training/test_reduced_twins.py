"""Every preset and every variant train, as reduced twins.

Every preset trains in four variants: dense, and each paper alone and with the other. A
paper's further variants train on the presets that it compares them on; what they change
(routes, or which parameters are untied) does not meet what other presets change.
Presets that differ in size only have the same twin, which is trained once.
"""

from collections.abc import Iterator

import jax
import numpy as np
import pytest

from experiments.published import published
from tests.training.tiny_twin import NUM_STEPS, tiny_batch, tiny_twin
from unimod_jax.layout import SPEECH
from unimod_jax.mod import every_other, last_half, runs
from unimod_jax.presets import PRESETS, VARIANTS
from unimod_jax.training import Assembly, Experiment, make_trainer, reduced_twin

NEEDS_SPEECH = {"leave_one_out_text", "leave_one_out_image", "leave_one_out_speech"}

APPLICABLE = [
    (preset, variant)
    for preset, each in PRESETS.items()
    for variant in VARIANTS
    if variant not in NEEDS_SPEECH or SPEECH in each.model.modalities
]

TWIN_OF = {pair: tiny_twin(*pair) for pair in APPLICABLE}

ON_EVERY_PRESET = {"dense", "mot", "unimod", "mot_unimod"}
COMPARED_ON = {True: {"show_o_256", "emu3"}, False: {"chameleon_37m"}}
"""Whether a variant routes -> the presets that the papers compare it on."""


def is_trained(preset: str, variant: str) -> bool:
    routes = bool(published(preset, variant).mod.plan)
    return (
        variant in ON_EVERY_PRESET
        or preset in COMPARED_ON[routes]
        or (variant in NEEDS_SPEECH and preset == "chameleon_37m_speech")
    )


FIRST_OF: dict[Experiment, str] = {}
for (preset, variant), twin in TWIN_OF.items():
    if is_trained(preset, variant):
        FIRST_OF.setdefault(twin, f"{preset}-{variant}")


@pytest.fixture(autouse=True)
def quick_to_compile() -> Iterator[None]:
    """Each program runs three times: compiling it well would take longer."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def by_path(tree: object) -> dict[str, np.ndarray]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
        for path, leaf in leaves
    }


def untrained(assembly: Assembly) -> tuple[str, ...]:
    """Beginnings of the names of parameters that no gradient reaches.

    They are layers that every task of the batch skips, predictors of rows that are
    there as a whole (top-k chooses), and routers of the last layer whose streams
    predict nothing: how strongly such a token is processed there is read by nobody.
    """
    names, designs = [], runs(assembly.spec.designs)
    for index, (design, _) in enumerate(designs):
        run = f"transformer/run_{index}/"
        routes = {task: design.route_of(task) for task in assembly.rows}
        if all(route is not None and route.skips_layer for route in routes.values()):
            names.append(run)
        for task, layout in assembly.layouts.items():
            if not any(layout.is_causal(stream) for stream in layout.stream_names):
                names.append(f"{run}choices_{task}/predictor/")
            if index == len(designs) - 1:
                names += [
                    f"{run}routers_{task}/{stream}"
                    for stream in layout.stream_names
                    if not (layout.predicts(stream) or layout.holds_patches(stream))
                ]
    return tuple(names)


@pytest.mark.parametrize("twin", FIRST_OF, ids=FIRST_OF.values())
def test_a_twin_trains_every_parameter(twin: Experiment):
    assembly = Assembly(twin)
    batch = tiny_batch(assembly)
    trainer = make_trainer(assembly, iter([batch] * NUM_STEPS), batch)
    before = by_path(trainer.state.params)
    for batch in trainer.batches:
        trainer.state, metrics = trainer.step(trainer.state, batch)
        assert np.isfinite(float(metrics["loss"]))
    after = by_path(trainer.state.params)
    assert int(trainer.state.step) == NUM_STEPS
    assert all(np.isfinite(leaf).all() for leaf in after.values())
    still = {name for name in before if np.array_equal(before[name], after[name])}
    assert still == {name for name in before if name.startswith(untrained(assembly))}


def test_every_preset_and_every_variant_is_trained():
    for preset in PRESETS:
        for variant in ON_EVERY_PRESET:
            assert TWIN_OF[preset, variant] in FIRST_OF
    trained = {variant for (_, variant), twin in TWIN_OF.items() if twin in FIRST_OF}
    assert trained == set(VARIANTS)


@pytest.mark.parametrize("name", ["show_o_512", "emu3", "chameleon_37m"])
def test_a_twin_of_another_depth_routes_the_same_half_of_its_layers(name: str):
    for variant, half in (
        ("unimod", last_half(4, 1.0)),
        ("early_exit", last_half(4, 0.0)),
        ("task_routers_interleaved", every_other(4, 1.0)),
        ("skip_interleaved", every_other(4, 0.0)),
    ):
        full = published(name, variant)
        twin = reduced_twin(full)
        assert twin.mod.tasks == full.mod.tasks != ()
        for of_task in twin.mod.plan:
            assert tuple(ratio and 1.0 for ratio in of_task.keep_ratios) == half


def test_a_variant_that_needs_speech_is_refused_without():
    for preset, each in PRESETS.items():
        for variant in NEEDS_SPEECH:
            if SPEECH not in each.model.modalities:
                with pytest.raises(ValueError, match="use a preset with speech"):
                    published(preset, variant)
