"""Documents in Chameleon's vocabulary, whose markers stand among its words."""

import dataclasses

import jax
import numpy as np
import pytest

from experiments.checkpoint_tour.tiny_tokenizers import vocabulary_map
from tests.generation.token_by_token import bound_model, with_head_bias
from tests.models.tiny_model import DENSE_DEPTH, QUICK_TO_COMPILE, stack, tiny_spec
from unimod_jax.data.released import chameleon
from unimod_jax.generation import (
    NO_TOKEN,
    Grammar,
    GuidedRows,
    SamplingConfig,
    write_documents,
)
from unimod_jax.layout import (
    IMAGE,
    TEXT,
    InterleavedDocument,
    InterleavedLayout,
    Span,
    lay_out_documents,
)

CODES, ROWS, IMAGE_SLOTS, NUM_DOCUMENTS = 12, 34, 4, 8
AS_PUBLISHED = SamplingConfig(
    text_temperature=0.7, text_top_p=0.9, repetition_penalty=1.2
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = vocabulary_map(tmp_path_factory.mktemp("chameleon"), CODES)
    return chameleon.read(path, rows=ROWS, image_codes=CODES)


@pytest.fixture(scope="module")
def written(tokenizer):
    """Ids of documents, by a model that likes the markers above all."""
    vocabulary = tokenizer.vocabulary
    special, start = vocabulary.special, vocabulary.image_start
    spec = tiny_spec((), DENSE_DEPTH, biases=True)
    spec = dataclasses.replace(spec, vocabulary_size=ROWS, image_tokens=IMAGE_SLOTS)
    layout = InterleavedLayout(
        "interleaved", spec.streams, ((TEXT, 12), (IMAGE, 8)), special=special
    )
    begun = InterleavedDocument((Span(TEXT, [special.begin]),))
    rows = stack([lay_out_documents([begun], layout)] * NUM_DOCUMENTS)
    names = ("<s>", "<pad>", "<unk>", "<eoss>", "<reserved08706>", "<reserved99999>")
    liked = {tokenizer.pieces.token_to_id(name): 50.0 for name in names}
    bound = with_head_bias(
        bound_model(spec, rows), {**liked, special.begin_image: 1.0, special.end: 0.5}
    )
    grammar = Grammar(
        ROWS,
        words=vocabulary.words,
        image=(start, start + CODES),
        image_slots=IMAGE_SLOTS,
        special=special,
    )

    def write():
        key = jax.random.key(0)
        sampler = AS_PUBLISHED.words
        return write_documents(bound, GuidedRows(rows), grammar, sampler, 20, key)

    id_BT = np.asarray(jax.jit(write, compiler_options=QUICK_TO_COMPILE)())
    return [[int(i) for i in id_T if i != NO_TOKEN] for id_T in id_BT]


def test_no_marker_is_written_inside_text(written, tokenizer):
    vocabulary = tokenizer.vocabulary
    special, start = vocabulary.special, vocabulary.image_start
    is_word = tokenizer.is_word
    assert len(vocabulary.words) > 1
    num_words, num_images, num_ended = 0, 0, 0
    for document in written:
        ids = list(document)
        while ids and ids[0] != special.end:
            token = ids.pop(0)
            if token == special.begin_image:
                image, ids = ids[:IMAGE_SLOTS], ids[IMAGE_SLOTS:]
                assert all(start <= code < start + CODES for code in image)
                assert ids.pop(0) == special.end_image
                num_images += 1
            else:
                assert is_word[token]
                num_words += 1
        assert ids in ([], [special.end])
        num_ended += bool(ids)
    # There is some of everything.
    assert num_words > 8 and num_images > 2 and num_ended > 2


def test_words_come_from_every_run_of_the_vocabulary(written, tokenizer):
    ids = {token for document in written for token in document}
    for start, end in tokenizer.vocabulary.words:
        assert ids & set(range(start, end))
