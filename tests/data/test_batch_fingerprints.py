"""Batches of the digits are, bit for bit, those from before tasks were data.

The hashes were taken at commit 07b00a0, over three batches of each task.
"""

import dataclasses
import hashlib

import jax
import numpy as np
import pytest

from experiments.command_line import load_experiment
from unimod_jax.data import TextTokenizer, open_split, training_batches
from unimod_jax.training import Assembly

BEFORE = {
    "toy/demo": {
        "text_to_image": "043269a961dca7c8",
        "image_to_text": "664d3516fc7e5a6b",
        "text_only": "33dd2a30708cfef0",
    },
    "toy/digits_next_token": {
        "text_to_image": "900faf57307745b9",
        "image_to_text": "b7433894da7998b8",
        "text_only": "0ea77cec76c7ad80",
    },
    "toy/digits_diffusion": {
        "text_to_image": "4abfe50599b125ba",
        "image_to_text": "733e2032175d10c1",
        "text_only": "93535a416181d068",
    },
    "toy/digits_masked_image": {
        "text_to_image": "7741b024c9bd0c0c",
        "image_to_text": "beb8cdf0f2f59f3d",
        "text_only": "8c565388427502e0",
    },
    "toy/spoken_digits": {
        "text_to_image": "f56a9bec88bb27d2",
        "image_to_text": "a6f00963c7b4da9c",
    },
}


@pytest.mark.parametrize("name", BEFORE)
def test_batches_are_those_from_before_tasks_were_data(name, digits):
    experiment = load_experiment(name)
    data = dataclasses.replace(experiment.data, directory=digits.directory)
    assembly = Assembly(dataclasses.replace(experiment, data=data))
    records = open_split(data, data.train_split)
    texts = [text for record in records for text in record.texts]
    tokenizer = TextTokenizer.train(texts, assembly.vocabulary)
    batches = iter(
        training_batches(data, assembly.layouts, assembly.rows, records, tokenizer)
    )
    digests = {task: hashlib.sha256() for task in assembly.layouts}
    for batch in (next(batches) for _ in range(3)):
        for task, group in batch.items():
            for path, leaf in jax.tree_util.tree_leaves_with_path(group):
                digests[task].update(jax.tree_util.keystr(path).encode())
                digests[task].update(f"{leaf.dtype}{leaf.shape}".encode())
                digests[task].update(np.ascontiguousarray(leaf).tobytes())
    found = {task: digest.hexdigest()[:16] for task, digest in digests.items()}
    assert {task: found[task] for task in BEFORE[name]} == BEFORE[name]
