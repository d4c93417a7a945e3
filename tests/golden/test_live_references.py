"""The reference models load what we export, and compute what we do with it.

Needs torch and transformers, so that a normal run skips it; `make parity` runs it. Each
reference is saved by its library, read here, changed in one place, exported, and loaded
by its library again.
"""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.convert.golden_models import assert_close, logits_of
from tests.models.tiny_model import stack
from unimod_jax.convert import (
    LAYOUTS,
    PublishedLayout,
    open_tensor_files,
    read_config,
    read_weights,
    recognised,
    write_weights,
)
from unimod_jax.layout import (
    TEXT,
    InterleavedDocument,
    InterleavedLayout,
    Span,
    TokenGroup,
    lay_out_documents,
)
from unimod_jax.models import ModelSpec
from unimod_jax.models.config import DENSE

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from safetensors.torch import load_file, save_file  # noqa: E402

from tests.golden import tiny_references  # noqa: E402

LENGTHS = (16, 11, 3)
CODES = len(tiny_references.IMAGE_IDS)
UNSEEN = np.finfo(np.float32).min
"""What transformers' Chameleon makes of the logits of image codes."""


@dataclasses.dataclass(frozen=True)
class Reference:
    """A model of transformers, tiny and with random weights.

    Attributes:
      make: the model.
      layout: how we call its files.
      dtype: of its files.
      first_names: whether its library calls tensors as in its first files; it reads
        both.
      unseen: how many tokens it never writes.
    """

    make: Callable
    layout: str
    dtype: str = "bfloat16"
    first_names: bool = False
    unseen: int = 0

    def save(self, directory: Path) -> None:
        model = self.make().to(getattr(torch, self.dtype))
        model.save_pretrained(directory, save_original_format=self.first_names)

    def load(self, directory: Path):
        loaded, told = type(self.make()).from_pretrained(
            directory,
            dtype=torch.float32,
            attn_implementation="eager",
            output_loading_info=True,
        )
        assert not any(told.values()), told
        return loaded


class ShowO(Reference):
    """Phi inside of a module of its own, which asks for exactly its tensors."""

    def save(self, directory: Path) -> None:
        model = self.make()
        model.config.save_pretrained(directory)
        whole = torch.nn.ModuleDict({"showo": model})
        save_file(whole.state_dict(), directory / "model.safetensors")

    def load(self, directory: Path):
        whole = torch.nn.ModuleDict({"showo": self.make()})
        whole.load_state_dict(load_file(directory / "model.safetensors"), strict=True)
        return whole["showo"]


REFERENCES = {
    "chameleon": Reference(
        lambda: tiny_references.chameleon(False), "chameleon", unseen=CODES
    ),
    "swin": Reference(
        lambda: tiny_references.chameleon(True), "chameleon", unseen=CODES
    ),
    "emu3": Reference(tiny_references.emu3, "emu3"),
    "emu3 hf": Reference(tiny_references.emu3_hf, "emu3_hf"),
    "emu3 hf, first names": Reference(
        tiny_references.emu3_hf, "emu3_hf_old", first_names=True
    ),
    "phi": Reference(tiny_references.phi, "phi", "float16"),
    "phi, qk norms": Reference(tiny_references.show_o, "phi", "float32"),
    "show-o": ShowO(tiny_references.show_o, "show_o", "float32"),
}


def random_rows(of: ModelSpec) -> tuple[np.ndarray, TokenGroup]:
    """Text of three lengths, padded at the end: for the reference, and for us."""
    random = np.random.default_rng(11)
    id_BT = random.integers(1, 40, (len(LENGTHS), max(LENGTHS)))
    layout = InterleavedLayout("interleaved", of.streams, ((TEXT, max(LENGTHS)),))
    documents = [
        InterleavedDocument((Span(TEXT, ids[:length].tolist(), False),))
        for ids, length in zip(id_BT, LENGTHS, strict=True)
    ]
    return id_BT, stack([lay_out_documents([each], layout) for each in documents])


def changed_export(
    layout: PublishedLayout, given: Path, out: Path
) -> tuple[np.ndarray, np.ndarray]:
    """Reads files, changes one value, and exports; random ids, and our logits."""
    held = open_tensor_files(given)
    config = layout.model_config(read_config(given) or {})
    config = dataclasses.replace(config, compute_dtype="float32", remat="nothing")
    of = ModelSpec(config, *DENSE, config.vocabulary_size, image_tokens=4)
    id_BT, group = random_rows(of)
    table, layouts = layout.weights(config, 1), {"interleaved": group.layout}
    variables = read_weights(held, table, of, layouts, elsewhere=layout.elsewhere)
    block = variables["params"]["transformer"]["run_0"]["block"]
    kernel = block["value"]["shared"]["kernel"]
    block["value"]["shared"]["kernel"] = kernel.at[1, 0, 0].set(3.0)
    write_weights(variables["params"], of, table, held.manifest, out, rest=held)
    shutil.copy(given / "config.json", out)
    return id_BT, logits_of(of, variables, group)


def reference_logits(model, id_BT: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model(input_ids=torch.from_numpy(id_BT)).logits.numpy()


@pytest.mark.parametrize("name", REFERENCES)
def test_the_reference_loads_what_we_export_and_computes_the_same(name, tmp_path):
    reference, given, out = REFERENCES[name], tmp_path / "given", tmp_path / "out"
    reference.save(given)
    layout = LAYOUTS[reference.layout]
    assert recognised(open_tensor_files(given).names) is layout
    id_BT, ours = changed_export(layout, given, out)
    before = reference_logits(reference.load(given), id_BT)
    theirs = reference_logits(reference.load(out), id_BT)
    seen = (theirs > UNSEEN).all(axis=(0, 1))
    assert (~seen).sum() == reference.unseen
    for row, length in enumerate(LENGTHS):
        expected = theirs[row, :length][:, seen]
        assert_close(ours[row, :length][:, seen], expected)
        assert np.abs(expected - before[row, :length][:, seen]).max() > 1e-3
