"""In causal rows nothing after a token decides whether, or how, it is processed.

Each row of one batch is the first row with other tokens after some position, so one
forward pass checks several positions.
"""

import dataclasses
import functools

import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.tiny_model import (
    CODE_IDS,
    PATCH_SIZE,
    SIZES,
    TEXT_IDS,
    by_position,
    forward,
    random_document,
    random_variables,
    routed_in,
    stack,
    tiny_spec,
)
from tests.task_rows import layouts
from unimod_jax.layout import IMAGE, TEXT, Document, lay_out
from unimod_jax.mot import COMPONENTS
from unimod_jax.objectives import ImageDiffusion, NextToken

ROUTED = routed_in((0, 1), ("text_to_image", "image_to_text"), keep_ratio=0.6)
MODALITIES = (TEXT, IMAGE)
# begin, four of four prompt tokens, begin_image, four codes, end_image.
ROW_LENGTH = 11
PERTURBED_AFTER = (0, 2, 4, 5, 7, 9)


def next_token_group(spec, **layout_options):
    """Row 0, then row 0 with every token after each position replaced."""
    layout = layouts(NextToken(), SIZES, spec.streams)["text_to_image"]
    layout = dataclasses.replace(layout, **layout_options)
    rng = np.random.default_rng(0)
    base = random_document(layout, rng).tokens | {
        "prompt": rng.choice(TEXT_IDS, SIZES.text_tokens).tolist()
    }
    rows = [lay_out(Document(base), layout)]
    for last_common in PERTURBED_AFTER:
        position, tokens = 0, {}
        for segment in layout.segments:
            ids = TEXT_IDS if segment.modality == TEXT else CODE_IDS
            tokens[segment.name] = []
            for token in base[segment.name]:
                changed = position > last_common
                tokens[segment.name].append(int(rng.choice(ids)) if changed else token)
                position += 1
        rows.append(lay_out(Document(tokens), layout))
    assert position == ROW_LENGTH
    return stack(rows)


@functools.cache
def next_token_run(untied, reads_whole_row=False):
    """(kept [layers, B, T], logits [B, T, V]), both in sequence order."""
    spec = tiny_spec(untied, ROUTED)
    group = next_token_group(spec, reads_whole_row=reads_whole_row)
    batch = {"text_to_image": group}
    variables = random_variables(spec, batch)
    outputs, (report,) = forward(spec)(variables, batch)
    kept = [
        by_position(
            group, {n: r.kept_BT[layer] for n, r in report["text_to_image"].items()}
        )
        for layer in range(2)
    ]
    return np.stack(kept), by_position(group, outputs["text_to_image"].logits)


def rows_that_looked_ahead(kept_LBT):
    """The positions after which a change moved an earlier token in or out."""
    return [
        last
        for row, last in enumerate(PERTURBED_AFTER, start=1)
        if (kept_LBT[:, row, : last + 1] != kept_LBT[:, 0, : last + 1]).any()
    ]


@pytest.mark.parametrize("untied", [(), COMPONENTS], ids=["one stream", "two streams"])
def test_later_tokens_change_neither_what_is_kept_nor_the_logits(untied):
    kept_LBT, logits_BTV = next_token_run(untied)
    assert rows_that_looked_ahead(kept_LBT) == []
    for row, last in enumerate(PERTURBED_AFTER, start=1):
        np.testing.assert_allclose(
            logits_BTV[row, : last + 1], logits_BTV[0, : last + 1], atol=1e-5
        )
        # The perturbation itself is seen.
        assert np.abs(logits_BTV[row] - logits_BTV[0]).max() > 0.1


@pytest.mark.parametrize("untied", [(), COMPONENTS], ids=["one stream", "two streams"])
def test_the_gate_keeps_some_tokens_and_skips_others(untied):
    kept_LBT, _ = next_token_run(untied)
    share = kept_LBT.mean(axis=(1, 2))
    assert (share > 0.2).all()
    assert (share < 0.8).all()


@pytest.mark.parametrize("untied", [(), COMPONENTS], ids=["one stream", "two streams"])
def test_top_k_does_look_ahead_where_the_layout_allows_it(untied):
    # The same windows and parameters; only the selection may see the whole row.
    kept_LBT, logits_BTV = next_token_run(untied, reads_whole_row=True)
    leaks = rows_that_looked_ahead(kept_LBT)
    assert leaks
    row = PERTURBED_AFTER.index(leaks[0]) + 1
    earlier = slice(0, leaks[0] + 1)
    assert np.abs(logits_BTV[row, earlier] - logits_BTV[0, earlier]).max() > 1e-3


@pytest.mark.parametrize("untied", [(), COMPONENTS], ids=["one stream", "two streams"])
def test_a_patch_changes_its_own_image_and_later_text_but_nothing_before(untied):
    spec = tiny_spec(untied, ROUTED, patch_size=PATCH_SIZE)
    layout = layouts(ImageDiffusion(), SIZES, spec.streams)["text_to_image"]
    base = random_document(layout, np.random.default_rng(0))
    patches = base.patch_NP.copy()
    patches[-1] += 1.0
    group = stack(
        [
            lay_out(Document(base.tokens, values), layout)
            for values in (base.patch_NP, patches)
        ]
    )
    batch = {"text_to_image": group}
    outputs, (report,) = forward(spec)(random_variables(spec, batch), batch)
    output = outputs["text_to_image"]
    num_before = 2 + len(base.tokens["prompt"])
    logits = by_position(group, output.logits)
    np.testing.assert_allclose(
        logits[1, :num_before], logits[0, :num_before], atol=1e-5
    )
    for routing in report["text_to_image"].values():
        assert jnp.any(routing.kept_BT)
    noise = by_position(group, output.patches)
    change = np.abs(noise[1] - noise[0]).max(axis=-1)
    image = slice(num_before, num_before + SIZES.image_patches)
    assert (change[image] > 0).sum() > 1
    np.testing.assert_allclose(change[:num_before], 0.0, atol=1e-5)
