"""Opening a run, drawing, captioning and routing maps."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

from unimod_jax import mod
from unimod_jax.data import DataError, RowTemplates, SplitRecords
from unimod_jax.evaluation import Sampler, TrainedRun, open_run, routing_maps
from unimod_jax.evaluation.routing_maps import count_kept
from unimod_jax.evaluation.sampler import in_batches
from unimod_jax.layout import IMAGE, Document, SegmentSpec, Stream, TaskLayout
from unimod_jax.models import LayerDesign, RoutingReport
from unimod_jax.mot import UntyingMap
from unimod_jax.training import RunError

PROMPTS = ["a handwritten seven", "the digit 3", "the digit four"]


def test_the_newest_checkpoint_is_opened(trained: TrainedRun):
    assert trained.step == trained.experiment.training.steps


def test_drawings_are_images_of_the_data_set(trained: TrainedRun, sampler: Sampler):
    images = sampler.draw(PROMPTS, seed=0)
    assert images.shape == (3, 8, 8, 1)
    assert images.dtype == np.uint8


def test_the_same_seed_draws_the_same_and_another_does_not(sampler: Sampler):
    first, again, other = (sampler.draw(PROMPTS, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_what_fills_the_last_batch_does_not_show(sampler: Sampler):
    five = sampler.draw([PROMPTS[0]] * 5, seed=0)
    eight = sampler.draw([PROMPTS[0]] * 8, seed=0)
    np.testing.assert_array_equal(five, eight[:5])


def test_no_prompts_draw_no_images(sampler: Sampler):
    assert sampler.draw([], seed=0).shape == (0, 8, 8, 1)


def test_captions_do_not_depend_on_their_neighbours(
    sampler: Sampler, held_out: SplitRecords
):
    images = [record.images[0].pixels for record in held_out[:6]]
    together = sampler.caption(images)
    assert together == [sampler.caption([image])[0] for image in images]


def test_captions_are_greedy_unless_the_run_samples_them(
    trained: TrainedRun, sampler: Sampler, held_out: SplitRecords
):
    images = [record.images[0].pixels for record in held_out[:4]]
    assert sampler.caption(images, seed=0) == sampler.caption(images, seed=1)
    sampling = dataclasses.replace(trained.experiment.sampling, text_temperature=5.0)
    experiment = dataclasses.replace(trained.experiment, sampling=sampling)
    warm = Sampler(dataclasses.replace(trained, experiment=experiment), batch_size=4)
    first, again, other = (warm.caption(images, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first != other


class Negatives:
    """A codec whose codes are the grey levels of an image's negative."""

    def __init__(self, levels):
        self._levels = levels

    def encode(self, images):
        return self._levels.encode(255 - images)

    def decode(self, codes):
        return 255 - self._levels.decode(codes)


def test_images_go_through_the_codec_of_the_run(
    trained: TrainedRun, sampler: Sampler, held_out: SplitRecords
):
    other = dataclasses.replace(trained, codec=Negatives(trained.codec))
    negatives = Sampler(other, batch_size=4)
    drawn = negatives.draw(PROMPTS, seed=0)
    np.testing.assert_array_equal(drawn, 255 - sampler.draw(PROMPTS, seed=0))
    images = [record.images[0].pixels for record in held_out[:4]]
    captions = negatives.caption([255 - image for image in images])
    assert captions == sampler.caption(images)


def test_guidance_leads_away_from_the_negative_prompt(
    trained: TrainedRun, sampler: Sampler
):
    """Away from the prompt itself leads nowhere: the images are those without."""

    def drawn(guidance: float, negative_prompt: str) -> np.ndarray:
        sampling = dataclasses.replace(
            trained.experiment.sampling,
            guidance=guidance,
            negative_prompt=negative_prompt,
        )
        experiment = dataclasses.replace(trained.experiment, sampling=sampling)
        guided = dataclasses.replace(trained, experiment=experiment)
        return Sampler(guided, batch_size=2).draw([PROMPTS[0]] * 2, seed=0)

    same = drawn(3.0, PROMPTS[0])
    np.testing.assert_array_equal(same, drawn(1.0, PROMPTS[0]))
    assert (drawn(3.0, PROMPTS[1]) != same).any()


def test_batches_are_full_and_know_how_many_items_are_real():
    assert list(in_batches([1, 2, 3], 2)) == [([1, 2], 2), ([3, 3], 1)]


def test_routing_maps_are_shares_that_add_up_to_the_capacity(
    trained: TrainedRun, held_out: SplitRecords
):
    maps = routing_maps(trained, held_out[:6], batch_size=4)
    assert [(m.layer, m.task) for m in maps] == [
        (layer, task) for layer in (0, 1) for task in ("image_to_text", "text_to_image")
    ]
    for routing_map in maps:
        assert routing_map.share_N.shape == (64,)
        assert routing_map.share_N.dtype == np.float32
        assert routing_map.share_N.min() >= 0 and routing_map.share_N.max() <= 1
        # Both streams of images are ranked whole: ceil(0.4 * 64) of each.
        np.testing.assert_allclose(routing_map.share_N.sum(), 26, rtol=1e-6)
        assert routing_map.picture(1).shape == (8, 8)


def test_a_prompt_that_is_too_long_is_refused(sampler: Sampler):
    with pytest.raises(DataError, match=r"the 'prompt' segment .* 9 slots; shorten it"):
        sampler.draw(["seven " * 20], seed=0)


def test_a_directory_without_a_run_is_refused(tmp_path: Path):
    with pytest.raises(RunError, match=r"no config\.json"):
        open_run(tmp_path)


def test_a_run_without_a_checkpoint_is_refused(run_path: Path, tmp_path: Path):
    shutil.copy(run_path / "config.json", tmp_path)
    with pytest.raises(RunError, match="no checkpoint yet"):
        open_run(tmp_path)


def test_a_damaged_checkpoint_is_passed_over(
    run_path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    copy = shutil.copytree(run_path, tmp_path / "copy")
    shutil.rmtree(copy / "checkpoints" / "4" / "state")
    assert open_run(copy).step == 2
    assert "checkpoint 4" in caplog.text


def test_layers_are_counted_over_all_runs_of_the_plan():
    tied = UntyingMap.tied((IMAGE,))
    routed = LayerDesign((mod.Route("drawing", 0.5),), tied)
    designs = (LayerDesign((), tied), routed, routed)
    kept_LBT = np.array([[[True, False, True]] * 2, [[False, True, False]] * 2])
    layout = TaskLayout(
        "drawing", (SegmentSpec("image", IMAGE, 3),), (Stream.of(IMAGE),)
    )
    batch = {"drawing": RowTemplates(layout).stack([Document({})] * 2)}
    kept = {(layer, "drawing"): np.zeros(3) for layer in range(3)}
    nothing = np.zeros(2, np.float32)
    report = RoutingReport(kept_LBT, auxiliary_loss=nothing, disagreement=nothing)
    count_kept([{}, {"drawing": {"image": report}}], batch, 1, designs, kept)
    np.testing.assert_array_equal(
        np.stack([*kept.values()]), [[0, 0, 0], [1, 0, 1], [0, 1, 0]]
    )
