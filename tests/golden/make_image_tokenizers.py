"""Writes tests/golden/image_tokenizers from the published PyTorch code.

    python -m tests.golden.make_image_tokenizers \
        --show-o DIR --chameleon DIR --emu3 DIR

Needs torch, transformers and diffusers, and checkouts of showlab/Show-o,
facebookresearch/chameleon and baaivision/Emu3. For each tokenizer it writes

- NAME.npz: what a tiny model with the weights of `random_tensors.py` makes of images
  (latents before quantisation, code ids) and of codes or latents (pixels);
- NAME.tensors.txt: name, dtype and shape of every tensor of the published size.

Arrays have channels last. Ids are decisions, so every model here must decide each by a
margin far above rounding.
"""

import argparse
import contextlib
import importlib
import pathlib
import sys
import types
import typing

import numpy as np
import torch
from torch import nn

from tests.golden.random_tensors import random_images, random_tensor

OUTPUT = pathlib.Path(__file__).parent / "image_tokenizers"
SIZES = ((2, 16, 16), (1, 24, 8))
MARGIN = 1e-4


def randomise(model: nn.Module, prefix: str = "") -> nn.Module:
    """Every tensor drawn from its name, but for those that the quantiser derives."""
    state = model.state_dict()
    for name, tensor in state.items():
        if name not in ("quantize.embedding", "quantize.power_vals"):
            drawn = random_tensor(prefix + name, tuple(tensor.shape))
            tensor.copy_(torch.from_numpy(np.asarray(drawn)))
    return model.eval()


def channels_first(array: np.ndarray) -> torch.Tensor:
    """[B, Y, X, C] -> [B, C, Y, X]."""
    return torch.from_numpy(array).permute(0, 3, 1, 2).contiguous()


def channels_last(tensor: torch.Tensor) -> np.ndarray:
    """[B, C, Y, X] -> [B, Y, X, C]."""
    return tensor.permute(0, 2, 3, 1).contiguous().numpy()


def check_margin(latent: np.ndarray, codebook: np.ndarray) -> None:
    """The nearest code vector is nearer than the second by more than MARGIN."""
    flat = latent.reshape(-1, 1, latent.shape[-1]).astype(np.float64)
    distance = np.sort(np.square(flat - codebook[None]).sum(-1), axis=1)
    assert (distance[:, 1] - distance[:, 0]).min() > MARGIN, "draw other weights"


def write(name: str, arrays: dict[str, np.ndarray]) -> None:
    """One compressed file."""
    OUTPUT.mkdir(exist_ok=True)
    np.savez_compressed(OUTPUT / f"{name}.npz", **arrays)


def write_tensors(name: str, model: nn.Module, prefix: str = "") -> None:
    """Name, dtype and shape of every tensor of a model, one a line."""
    lines = []
    for key, tensor in sorted(model.state_dict().items()):
        dtype = str(tensor.dtype).removeprefix("torch.")
        lines.append(" ".join([prefix + key, dtype, *map(str, tensor.shape)]))
    (OUTPUT / f"{name}.tensors.txt").write_text("\n".join(lines) + "\n")


def chameleon(directory: str) -> None:
    """facebookresearch/chameleon, and transformers' encoder as a second opinion."""
    sys.path.insert(0, directory)
    reference = importlib.import_module("chameleon.inference.vqgan")
    from transformers import ChameleonVQVAEConfig
    from transformers.models.chameleon.modeling_chameleon import ChameleonVQVAE

    def sizes(ch: int, mult: tuple[int, ...], blocks: int, latent: int) -> dict:
        return {
            "double_z": False,
            "z_channels": latent,
            "resolution": 512,
            "in_channels": 3,
            "out_ch": 3,
            "ch": ch,
            "ch_mult": mult,
            "num_res_blocks": blocks,
            "attn_resolutions": [],
            "dropout": 0.0,
        }

    with torch.device("meta"):
        full = reference.VQModel(sizes(128, (1, 1, 2, 2, 4), 2, 256), 8192, 256)
        second = ChameleonVQVAE(ChameleonVQVAEConfig())
    write_tensors("chameleon_vqgan", full)
    write_tensors("chameleon_vqgan_transformers", second, "model.vqmodel.")
    theirs = {key: tuple(value.shape) for key, value in second.state_dict().items()}
    ours = {key: tuple(value.shape) for key, value in full.state_dict().items()}
    assert theirs.items() <= ours.items(), "vqgan.yaml's sizes are not transformers'"

    model = randomise(reference.VQModel(sizes(32, (1, 1, 2), 1, 8), 64, 6))
    codebook = model.quantize.embedding.weight.numpy()
    arrays = {}
    for index, size in enumerate(SIZES):
        image = channels_first(random_images((*size, 3)))
        latent = channels_last(model.quant_conv(model.encoder(image)))
        check_margin(latent, codebook)
        quantised, _, (_, _, code) = model.encode(image)
        grid = latent.shape[:3]
        looked_up = model.quantize.get_codebook_entry(code, (*grid, 6))
        assert torch.allclose(looked_up, quantised, atol=1e-5)
        arrays[f"latent_{index}"] = latent
        arrays[f"code_{index}"] = code.reshape(grid).numpy().astype(np.int32)
        arrays[f"pixel_{index}"] = channels_last(model.decode(looked_up))
    write("chameleon_vqgan", arrays)


def import_magvit(directory: str) -> types.ModuleType:
    """Show-o's models/modeling_magvitv2.py without the libraries it does not use."""

    def stand_in(name: str, **attributes: object) -> None:
        module = types.ModuleType(name)
        module.__dict__.update(attributes)
        sys.modules[name] = module

    nothing = object
    stand_in("einops", rearrange=nothing, repeat=nothing)
    stand_in("einops.layers")
    stand_in("einops.layers.torch", Rearrange=nothing)
    stand_in("models", __path__=[str(pathlib.Path(directory) / "models")])
    mixin = type("ConfigMixin", (), {})
    stand_in(
        "models.modeling_utils",
        ConfigMixin=mixin,
        ModelMixin=nn.Module,
        register_to_config=lambda function: function,
    )
    stand_in("models.misc", List=typing.List)  # noqa: UP006
    return importlib.import_module("models.modeling_magvitv2")


def show_o(directory: str) -> None:
    """showlab/Show-o's MAGVIT-v2."""
    reference = import_magvit(directory)
    with torch.device("meta"):
        full = reference.MAGVITv2()
    write_tensors("magvit_v2", full)

    bits = 5
    model = reference.MAGVITv2.__new__(reference.MAGVITv2)
    nn.Module.__init__(model)
    model.encoder = reference.VQGANEncoder(32, [1, 2, 2], [2, 1, 2], z_channels=bits)
    model.decoder = reference.VQGANDecoder(32, [1, 1, 2], [1, 2, 1], z_channels=bits)
    model.quantize = reference.LFQuantizer(codebook_dim=bits)
    randomise(model)
    arrays = {
        "quantize.embedding": model.quantize.embedding.numpy(),
        "quantize.power_vals": model.quantize.power_vals.numpy(),
    }
    for index, size in enumerate(SIZES):
        image = channels_first(random_images((*size, 3)))
        latent = channels_last(model.encoder(image))
        assert np.abs(latent).min() > MARGIN, "draw other weights"
        code = model.get_code(image)
        grid = latent.shape[:3]
        pixel = model.decode_code(code, shape=grid[1:])
        arrays[f"latent_{index}"] = latent
        arrays[f"code_{index}"] = code.reshape(grid).numpy().astype(np.int32)
        arrays[f"pixel_{index}"] = channels_last(pixel)
    write("magvit_v2", arrays)


def emu3(directory: str) -> None:
    """baaivision/Emu3's tokenizer, and transformers', whose tensors differ."""
    folder = pathlib.Path(directory) / "emu3" / "tokenizer"
    package = types.ModuleType("emu3_tokenizer")
    package.__path__ = [str(folder)]
    sys.modules[package.__name__] = package
    model_file = importlib.import_module("emu3_tokenizer.modeling_emu3visionvq")
    config_file = importlib.import_module("emu3_tokenizer.configuration_emu3visionvq")
    from transformers import Emu3VQVAEConfig
    from transformers.models.emu3.modeling_emu3 import Emu3VQVAE

    with torch.device("meta"):
        full = model_file.Emu3VisionVQModel(config_file.Emu3VisionVQConfig())
        second = Emu3VQVAE(Emu3VQVAEConfig())
    write_tensors("movqgan", full)
    write_tensors("movqgan_transformers", second, "model.vqmodel.")

    config = config_file.Emu3VisionVQConfig(
        codebook_size=256, ch=32, ch_mult=[1, 2], num_res_blocks=1, attn_resolutions=[1]
    )
    model = randomise(model_file.Emu3VisionVQModel(config))
    write("movqgan", _emu3_arrays(model, model.encode))

    config = Emu3VQVAEConfig(
        codebook_size=256,
        base_channels=32,
        channel_multiplier=[1, 2],
        num_res_blocks=1,
        attn_resolutions=[1],
        hidden_size=64,
    )
    model = randomise(Emu3VQVAE(config), "model.vqmodel.")

    def encode(image: torch.Tensor) -> torch.Tensor:
        sizes = torch.tensor([image.shape[2:]] * image.shape[0])
        return torch.stack(model.encode(image, sizes).image_tokens)

    write("movqgan_transformers", _emu3_arrays(model, encode))


def _emu3_arrays(model: nn.Module, encode) -> dict[str, np.ndarray]:
    arrays = {}
    for index, size in enumerate(SIZES):
        image = channels_first(random_images((*size, 3)))
        frames = image[:, None].repeat(1, 4, 1, 1, 1)
        moments = model.quant_conv(model.encoder(frames).permute(0, 2, 1, 3, 4))
        latent = channels_last(moments[:, :, 0])
        check_margin(latent, model.quantize.embedding.weight.numpy())
        code = encode(image)
        arrays[f"latent_{index}"] = latent
        arrays[f"code_{index}"] = code.numpy().astype(np.int32)
        arrays[f"pixel_{index}"] = channels_last(model.decode(code))
    return arrays


def autoencoder_kl() -> None:
    """diffusers' AutoencoderKL."""
    from diffusers import AutoencoderKL

    def build(channels: tuple[int, ...], blocks: int) -> nn.Module:
        levels = len(channels)
        return AutoencoderKL(
            block_out_channels=channels,
            layers_per_block=blocks,
            latent_channels=4,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
        )

    with torch.device("meta"):
        full = build((128, 256, 512, 512), 2)
    write_tensors("autoencoder_kl", full)
    model = randomise(build((32, 64, 64), 1))
    arrays = {}
    for index, size in enumerate(SIZES):
        image = channels_first(random_images((*size, 3)))
        latent = model.encode(image).latent_dist
        arrays[f"mean_{index}"] = channels_last(latent.mean)
        arrays[f"log_variance_{index}"] = channels_last(latent.logvar)
        arrays[f"pixel_{index}"] = channels_last(model.decode(latent.mean).sample)
    write("autoencoder_kl", arrays)


def main() -> None:
    """Writes what the given checkouts allow; diffusers' is always written."""
    parser = argparse.ArgumentParser(description=__doc__)
    makers = {"show_o": show_o, "chameleon": chameleon, "emu3": emu3}
    for name in makers:
        parser.add_argument(f"--{name.replace('_', '-')}")
    given = vars(parser.parse_args())
    OUTPUT.mkdir(exist_ok=True)
    with torch.no_grad(), contextlib.redirect_stdout(sys.stderr):
        for name, make in makers.items():
            if given[name]:
                make(given[name])
        autoencoder_kl()


if __name__ == "__main__":
    main()
