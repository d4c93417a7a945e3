"""What packed documents typically look like, from the counts of a row alone.

A layout of packed rows knows how many slots it has, not where documents begin. These
stand in for them where a layout has to foresee what a row costs.
"""

from collections.abc import Sequence

import numpy as np

from unimod_jax.layout.modality import IMAGE

_GOLDEN_RATIO = (5**0.5 - 1) / 2


def typical_documents(
    slots: Sequence[tuple[str, int]], num_documents: int, image_length: int
) -> list[list[tuple[str, int]]]:
    """Deals the slots of a full row to documents.

    Images are of one length. Everything else is of uneven length, from half to one and
    a half times the mean in the low-discrepancy sequence of the golden ratio, so that
    no document ends on a block's boundary by design. Within a document each image takes
    its turn with a share of everything else.

    Args:
      slots: modality and slots, of every modality of the row.
      num_documents: at least 1.
      image_length: tokens of an image, dividing the image slots; 0 if each document has
        one image, however long.

    Returns:
      The spans of each document: modality and number of tokens, which add up to slots.
    """
    weight_D = 0.5 + np.arange(1, num_documents + 1) * _GOLDEN_RATIO % 1
    share: dict[str, np.ndarray] = {}
    for modality, count in slots:
        size = max(image_length, 1) if modality == IMAGE else 1
        weights_D = np.ones(num_documents) if modality == IMAGE else weight_D
        share[modality] = size * _dealt(count // size, weights_D)
    documents = []
    for document in range(num_documents):
        num_images = 1
        if image_length and IMAGE in share:
            num_images = max(1, int(share[IMAGE][document]) // image_length)
        turns = {
            modality: _dealt(int(share[modality][document]), np.ones(num_images))
            for modality, _ in slots
        }
        documents.append(
            [
                (modality, int(turns[modality][turn]))
                for turn in range(num_images)
                for modality, _ in slots
            ]
        )
    return documents


def _dealt(count: int, weight_D: np.ndarray) -> np.ndarray:
    """Whole numbers in proportion to the weights, which add up to the count."""
    ends_D = np.cumsum(weight_D) / np.sum(weight_D)
    return np.diff(np.round(count * ends_D).astype(int), prepend=0)
