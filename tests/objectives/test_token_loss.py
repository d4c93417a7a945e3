"""Cross-entropy of the targets, against NumPy, and the sum over tasks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.known_output import output_with
from tests.models.tiny_model import (
    SIZES,
    VOCABULARY_SIZE,
    random_batch,
    random_group,
    tiny_spec,
)
from tests.task_rows import family_of, layouts
from unimod_jax.layout import IMAGE, TEXT, Document, Stream, lay_out
from unimod_jax.objectives import (
    ImageDiffusion,
    MaskedImage,
    NextToken,
    task_loss,
    total_loss,
)
from unimod_jax.objectives.token_loss import token_loss, token_sums

TASKS = ("text_to_image", "image_to_text", "text_only")
ONE_STREAM = (Stream.of(TEXT, IMAGE),)
TWO_STREAMS = (Stream.of(TEXT), Stream.of(IMAGE))


def random_output(group, seed=0, patch_size=0):
    rng = np.random.default_rng(seed)
    logits, patches = {}, {}
    for name, stream in group.streams.items():
        shape = stream.position_BT.shape
        if group.layout.predicts(name):
            logits[name] = 3 * rng.normal(size=(*shape, VOCABULARY_SIZE))
        if patch_size and name == IMAGE:
            patches[name] = rng.normal(size=(*shape, patch_size))
    return output_with(
        logits, {n: jnp.asarray(x, jnp.float32) for n, x in patches.items()}
    )


def numpy_losses(group, output):
    """Modality -> cross-entropy of each of its targets, in float64."""
    losses = {TEXT: [], IMAGE: []}
    for name, logits_BTV in output.logits.items():
        stream = group.streams[name]
        for row, slot in np.ndindex(stream.position_BT.shape):
            modality = int(stream.target_modality_BT[row, slot])
            if modality < 0:
                continue
            logits = np.asarray(logits_BTV[row, slot], np.float64)
            target = int(stream.target_id_BT[row, slot])
            surprise = np.log(np.exp(logits).sum()) - logits[target]
            losses[(TEXT, IMAGE)[modality]].append(surprise)
    return {name: np.array(values) for name, values in losses.items()}


@pytest.mark.parametrize("streams", [ONE_STREAM, TWO_STREAMS], ids=len)
def test_next_token_loss_is_the_weighted_mean_over_targets(streams):
    objective = NextToken(image_weight=0.25)
    layout = layouts(objective, SIZES, streams)["text_to_image"]
    group = random_group(layout, num_rows=3)
    output = random_output(group)
    sums = objective.loss_sums(group, output, None)
    loss, metrics = task_loss(objective, sums)
    text, image = (numpy_losses(group, output)[name] for name in (TEXT, IMAGE))
    assert len(image) == 3 * SIZES.image_codes
    weight = len(text) + 0.25 * len(image)
    expected = (text.sum() + 0.25 * image.sum()) / weight
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(metrics["text_loss"], text.mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["image_loss"], image.mean(), rtol=1e-5)


@pytest.mark.parametrize("order", [(TEXT, IMAGE), (IMAGE, TEXT)])
def test_weights_go_by_name_whatever_the_order_of_streams(order):
    layout = layouts(NextToken(), SIZES, (Stream.of(*order),))["text_to_image"]
    group = random_group(layout, num_rows=3)
    stream = next(iter(group.streams))
    output = random_output(group)
    sums = token_sums(group, output)
    images, weighed = (
        token_loss(sums, weights) for weights in ({TEXT: 0.0}, {TEXT: 0.0, IMAGE: 3.0})
    )
    # A modality that is not named weighs 1; one that is alone weighs the same at any.
    np.testing.assert_allclose(images, sums["image_loss"].mean, rtol=1e-6)
    np.testing.assert_allclose(weighed, images, rtol=1e-6)
    target_BT = np.asarray(group.streams[stream].target_modality_BT)
    assert (target_BT == order.index(IMAGE)).sum() == 3 * SIZES.image_codes


@pytest.mark.parametrize("streams", [ONE_STREAM, TWO_STREAMS], ids=len)
@pytest.mark.parametrize(
    "objective",
    [NextToken(), MaskedImage(), ImageDiffusion()],
    ids=lambda objective: type(objective).__name__,
)
def test_slots_that_never_predict_are_left_out_without_a_trace(objective, streams):
    """Against all logits of all slots, and the gradients that JAX finds for them."""
    for task, layout in layouts(objective, SIZES, streams).items():
        group = random_group(layout, num_rows=3)
        weights = {TEXT: 1.0, IMAGE: 0.5}

        def of_all_slots(output, group=group, weights=weights):
            total, weight = jnp.zeros(()), jnp.zeros(())
            for name, logits_BTV in output.logits.items():
                stream = group.streams[name]
                target_BT1 = stream.target_id_BT[..., None]
                share_BTV = jax.nn.log_softmax(logits_BTV)
                loss_BT1 = -jnp.take_along_axis(share_BTV, target_BT1, axis=-1)
                for index, modality in enumerate(group.layout.modalities):
                    is_target_BT = stream.target_modality_BT == index
                    weight_BT = weights[modality] * is_target_BT.astype(jnp.float32)
                    total += jnp.sum(weight_BT * loss_BT1[..., 0])
                    weight += jnp.sum(weight_BT)
            return total / weight

        def of_their_slots(output, group=group, weights=weights):
            return token_loss(token_sums(group, output), weights)

        output = random_output(group)
        (loss, gradient), (expected, exact) = (
            jax.value_and_grad(each)(output) for each in (of_their_slots, of_all_slots)
        )
        np.testing.assert_allclose(loss, expected, rtol=1e-6)
        for found, leaf in zip(
            jax.tree.leaves(gradient), jax.tree.leaves(exact), strict=True
        ):
            np.testing.assert_allclose(found, leaf, atol=1e-6, err_msg=task)
        assert any(np.any(leaf) for leaf in jax.tree.leaves(gradient))


def test_every_held_token_but_the_first_is_a_next_token_target():
    of_task = layouts(NextToken(), SIZES, TWO_STREAMS)
    for task, not_predicted in (
        ("text_to_image", 1),
        ("image_to_text", 2),
        ("text_only", 1),
    ):
        group = random_group(of_task[task], num_rows=4)
        held = targets = 0
        for stream in group.streams.values():
            held += int(jnp.sum((stream.position_BT >= 0).astype(jnp.int32)))
            targets += int(jnp.sum((stream.target_modality_BT >= 0).astype(jnp.int32)))
        assert targets == held - 4 * not_predicted


def test_what_empty_slots_predict_does_not_matter():
    layout = layouts(NextToken(), SIZES, ONE_STREAM)["text_only"]
    group = random_group(layout)
    output = random_output(group)
    logits_BTV = output.logits["text+image"]
    empty_BT = group.streams["text+image"].position_BT < 0
    assert empty_BT.any()
    changed = output_with(
        {"text+image": jnp.where(empty_BT[..., None], 1e4, logits_BTV)}
    )
    objective = NextToken()
    losses = [
        objective.loss_of(objective.loss_sums(group, out, None))
        for out in (output, changed)
    ]
    assert losses[0] == losses[1]


def test_rows_without_targets_have_a_finite_loss_of_zero():
    layout = layouts(NextToken(), SIZES, ONE_STREAM)["text_only"]
    row = lay_out(Document({"begin": [1]}), layout)
    stream = row.streams["text+image"]
    batched = {
        field: jnp.asarray(getattr(stream, field))[None]
        for field in stream.__dataclass_fields__
    }
    group = random_group(layout, 1).with_stream("text+image", **batched)
    sums = NextToken().loss_sums(group, random_output(group), None)
    loss, metrics = task_loss(NextToken(), sums)
    assert loss == 0.0
    assert metrics == {"text_loss": 0.0}


@pytest.mark.parametrize(
    ("objective", "metrics"),
    [
        (
            NextToken(),
            {
                "text_to_image": {"text_loss", "image_loss"},
                "image_to_text": {"text_loss", "image_loss"},
                "text_only": {"text_loss"},
            },
        ),
        (
            MaskedImage(),
            {
                "text_to_image": {"image_loss"},
                "image_to_text": {"text_loss"},
                "text_only": {"text_loss"},
            },
        ),
        (
            ImageDiffusion(),
            {
                "text_to_image": {"text_loss", "image_loss"},
                "image_to_text": {"text_loss", "image_loss"},
                "text_only": {"text_loss"},
            },
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_total_is_the_weighted_sum_of_tasks_and_names_its_parts(objective, metrics):
    patch_size = 3 if objective.continuous_images else 0
    spec = tiny_spec(patch_size=patch_size)
    batch = random_batch(objective, spec)
    noise = {
        task: jnp.ones_like(group.patch_BNP)
        for task, group in batch.items()
        if objective.continuous_images and task != "text_only"
    }
    outputs = {
        task: random_output(group, patch_size=patch_size)
        for task, group in batch.items()
    }
    weights = {task.name: task.loss_weight for task in family_of(objective).values()}
    assert weights == dict(zip(TASKS, (1.0, 1.0, 0.1), strict=True))  # Show-o's
    total, reported = total_loss(objective, batch, noise, outputs, weights)
    parts = [float(reported[f"{task}/loss"]) for task in TASKS]
    np.testing.assert_allclose(total, parts[0] + parts[1] + 0.1 * parts[2], rtol=1e-6)
    named = {f"{task}/{part}" for task in TASKS for part in metrics[task] | {"loss"}}
    assert set(reported) == named
    assert min(parts) > 0


def test_task_weights_scale_their_own_task_only():
    spec = tiny_spec()
    batch = random_batch(NextToken(), spec, tasks=("text_to_image", "text_only"))
    outputs = {task: random_output(group) for task, group in batch.items()}
    weights = {"text_to_image": 0.5, "image_to_text": 7.0, "text_only": 2.0}
    total, reported = total_loss(NextToken(), batch, {}, outputs, weights)
    drawn, written = (reported[f"{task}/loss"] for task in batch)
    np.testing.assert_allclose(total, 0.5 * drawn + 2.0 * written, rtol=1e-6)
