"""Writes pixels.npz: small pictures through the published preprocessing.

Needs torch, torchvision and transformers, and checkouts of facebookresearch/chameleon
and baaivision/Emu3 on the path:

    PYTHONPATH=chameleon:Emu3 python -m tests.golden.make_pixels

Show-o's transform is torchvision's, as its training/utils.py puts it together.
Pictures are made from a seed by `tests.data.released.pictures`, and are not saved.
"""

from pathlib import Path

import numpy as np

from tests.data.released.pictures import EMU3_RANGE, SIZE, pictures


def show_o(picture):
    """Show-o's image_transform at a small resolution."""
    from torchvision import transforms

    transform = transforms.Compose(
        [
            transforms.Resize(SIZE, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop((SIZE, SIZE)),
            transforms.ToTensor(),
            transforms.Normalize(mean=[0.5, 0.5, 0.5], std=[0.5, 0.5, 0.5]),
        ]
    )
    return transform(picture.convert("RGB")).permute(1, 2, 0).numpy()


def chameleon(picture):
    """Chameleon's ImageTokenizer up to its network, which neither step uses."""
    from chameleon.inference.image_tokenizer import ImageTokenizer

    tokenizer = ImageTokenizer.__new__(ImageTokenizer)
    whitened = tokenizer._whiten_transparency(picture)
    values = tokenizer._vqgan_input_from(whitened, target_image_size=SIZE)
    return values[0].permute(1, 2, 0).numpy()


def emu3(picture):
    """Emu3's own image processor with small bounds on the number of pixels.

    It is given RGB, as in emu3/train/prepare_data.py and as its pinned transformers
    4.44 makes it: later ones put transparency onto white first.
    """
    from emu3.tokenizer.image_processing_emu3visionvq import Emu3VisionVQImageProcessor

    fewest, most = EMU3_RANGE
    process = Emu3VisionVQImageProcessor(min_pixels=fewest, max_pixels=most)
    values = process(picture.convert("RGB"), return_tensors="np")["pixel_values"]
    return values[0].transpose(1, 2, 0)


def main() -> None:
    """Runs every picture through every model that takes it."""
    arrays = {}
    for name, picture in pictures().items():
        for model in (show_o, chameleon, emu3):
            arrays[f"{model.__name__}/{name}"] = model(picture)
    np.savez_compressed(Path(__file__).with_name("pixels.npz"), **arrays)


if __name__ == "__main__":
    main()
