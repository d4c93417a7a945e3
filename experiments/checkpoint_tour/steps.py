"""The steps of the tour; each says in a few words what it found, or raises."""

import dataclasses
import functools
import json
import math
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from PIL import Image

from experiments.checkpoint_tour.tiny_release import Release, write_release
from unimod_jax.convert import open_tensor_files
from unimod_jax.data import Image as ImagePart
from unimod_jax.data import RowTemplates, document
from unimod_jax.evaluation import Sampler, TrainedRun, open_run
from unimod_jax.layout import TokenGroup, with_segments
from unimod_jax.mod import last_half
from unimod_jax.models import MixtureOfDepths
from unimod_jax.released_models import (
    AS_RELEASED,
    FAMILIES,
    WarmStart,
    convert_model,
    export_model,
)
from unimod_jax.training import (
    Experiment,
    RunDirectory,
    StartingPoint,
    train,
)

TRAINING_STEPS = 20
_PROMPTS = ("the digit seven", "a one")
_LARGEST_DIFFERENCE = 1e-5


@dataclasses.dataclass
class Journey:
    """What the steps of one family leave to each other.

    Attributes:
      family: its name.
      folder: where everything is written.
    """

    family: str
    folder: Path

    @functools.cached_property
    def release(self) -> Release:
        """The published files."""
        return write_release(self.family, self.folder / "release")

    def converted(self, name: str, warm_start: WarmStart = AS_RELEASED) -> TrainedRun:
        """The release, converted into a folder of that name if it is not there."""
        directory = self.folder / name
        if not directory.exists():
            convert_model(
                FAMILIES[self.family],
                self.release.files,
                directory,
                warm_start,
                self.release.image_size,
                _small,
            )
        return open_run(directory)

    def drawn(self) -> np.ndarray:
        """Two pictures by the dense model, uint8 [2, side, side, 3]."""
        return _sampler(self.converted("dense")).draw(_PROMPTS, seed=0)


def _small(experiment: Experiment) -> Experiment:
    """Short rows of the handwritten digits, in float32, with everything kept."""
    shares = sum(task.share for task in experiment.tasks)
    return dataclasses.replace(
        experiment,
        model=dataclasses.replace(experiment.model, compute_dtype="float32"),
        mod=_keeping(experiment.mod, 1.0),
        data=dataclasses.replace(
            experiment.data,
            name="handwritten_digits",
            parts=("image", "text=captions"),
            caption_tokens=64,
            batch_size=2 * shares,
        ),
        training=dataclasses.replace(
            experiment.training,
            steps=TRAINING_STEPS,
            warmup_steps=2,
            learning_rate=3e-3,
            log_every=1,
        ),
        # Negative prompts are longer than these rows.
        sampling=dataclasses.replace(
            experiment.sampling, num_steps=4, negative_prompt=""
        ),
    )


def _keeping(routing: MixtureOfDepths, ratio: float) -> MixtureOfDepths:
    depth = max((len(of_task.keep_ratios) for of_task in routing.plan), default=0)
    return routing.with_ratios(last_half(depth, ratio))


def _sampler(trained: TrainedRun) -> Sampler:
    return Sampler(trained, batch_size=len(_PROMPTS))


# --- The steps ------------------------------------------------------------------------


def write_the_release(journey: Journey) -> str:
    """All published files, small and random."""
    tensors = open_tensor_files(journey.release.files.weights)
    return f"{len(tensors.names)} tensors in {tensors.path.name}"


def convert(journey: Journey) -> str:
    """The dense model, with both tokenizers."""
    trained = journey.converted("dense")
    held = sum(leaf.size for leaf in jax.tree.leaves(trained.variables["params"]))
    return f"{held:,} parameters"


def draw_from_text(journey: Journey) -> str:
    """Pictures of two prompts, as PNG."""
    for number, image in enumerate(journey.drawn()):
        Image.fromarray(image).save(journey.folder / f"drawn_{number}.png")
    return f"2 pictures of {journey.release.image_size} pixels a side"


def describe_a_picture(journey: Journey) -> str:
    """What it says to the pictures that it drew."""
    paths = sorted(journey.folder.glob("drawn_*.png"))
    images = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
    texts = _sampler(journey.converted("dense")).caption(images)
    _check(len(texts) == 2, f"{len(texts)} texts for 2 pictures")
    return f"{sum(map(len, texts))} characters"


def export_it_unchanged(journey: Journey) -> str:
    """The published files again, byte for byte."""
    folder = journey.folder / "exported"
    _export(journey.converted("dense"), folder)
    return f"{_same_files(journey.release.files.weights, folder)} bytes are equal"


def start_towers(journey: Journey) -> str:
    """Mixture-of-Transformers computes what the dense model does."""
    return _compare(journey, "towers", WarmStart(towers=True))


def start_routes(journey: Journey) -> str:
    """UniMoD that keeps everything computes what the dense model does."""
    return _compare(journey, "routes", WarmStart(routes=True))


def start_both(journey: Journey) -> str:
    """And so do both together."""
    return _compare(journey, "both", WarmStart(towers=True, routes=True))


def train_both(journey: Journey) -> str:
    """Some steps from the dense weights, with towers and routes."""
    start = StartingPoint.open(journey.folder / "dense")
    both = journey.converted("both").experiment
    experiment = start.adopted_by(
        dataclasses.replace(both, mod=_keeping(both.mod, 0.5))
    )
    run = train(experiment, journey.folder / "trained", start=start)
    losses = _losses(run)
    _check(len(losses) == TRAINING_STEPS, f"only {len(losses)} steps were logged")
    _check(losses[-1] < losses[0], f"the loss went from {losses[0]} to {losses[-1]}")
    return f"loss {losses[0]:.2f} to {losses[-1]:.2f}"


def export_the_trained_one(journey: Journey) -> str:
    """The text towers as a published dense model, which is converted once more."""
    trained = open_run(journey.folder / "trained")
    folder = journey.folder / "exported_trained"
    _export(trained, folder, tower="text")
    published = open_tensor_files(journey.release.files.weights)
    written = open_tensor_files(folder)
    _check(written.names == published.names, "other tensors than were published")
    for name in written.names:
        same = written.shape(name) == published.shape(name)
        _check(same and written.dtype(name) == published.dtype(name), name)
    changed = sum(
        written.read(name).tobytes() != published.read(name).tobytes()
        for name in written.names
    )
    _check(changed > 0, "nothing was trained")
    return f"{changed} of {len(written.names)} tensors have changed"


def convert_the_export(journey: Journey) -> str:
    """The exported files are read as a release again, with the trained values."""
    files = dataclasses.replace(
        journey.release.files, weights=journey.folder / "exported_trained"
    )
    for name in ("config.json", "tokenizer.json", "text_tokenizer.json"):
        source = journey.release.files.folder / name
        if source.exists():
            (files.weights / name).write_bytes(source.read_bytes())
    for source in journey.release.files.folder.glob("emu3*"):
        (files.weights / source.name).write_bytes(source.read_bytes())
    directory = journey.folder / "converted_again"
    family, size = FAMILIES[journey.family], journey.release.image_size
    convert_model(family, files, directory, image_size=size, change=_small)
    _export(open_run(directory), journey.folder / "exported_again")
    equal = _same_files(files.weights, journey.folder / "exported_again")
    return f"{equal} bytes are equal"


STEPS: tuple[Callable[[Journey], str], ...] = (
    write_the_release,
    convert,
    draw_from_text,
    describe_a_picture,
    export_it_unchanged,
    start_towers,
    start_routes,
    start_both,
    train_both,
    export_the_trained_one,
    convert_the_export,
)


# --- What they need -------------------------------------------------------------------


def _check(holds: bool, otherwise: str) -> None:
    if not holds:
        raise AssertionError(otherwise)


def _export(trained: TrainedRun, folder: Path, tower: str | None = None) -> None:
    params = trained.variables["params"]
    export_model(trained.run, params, trained.assembly.spec, folder, tower)


def _same_files(published: Path, written: Path) -> int:
    """Bytes of all tensor files, if they are equal."""
    total = 0
    for file in sorted(written.glob("*.safetensors")):
        ours, theirs = file.read_bytes(), (published / file.name).read_bytes()
        _check(ours == theirs, f"{file.name} is not what was published")
        total += len(ours)
    _check(total > 0, "no file was written")
    return total


def _compare(journey: Journey, name: str, warm_start: WarmStart) -> str:
    """The largest difference of logits from the dense model's, if it is rounding."""
    dense, other = journey.converted("dense"), journey.converted(name, warm_start)
    images = journey.drawn()
    wanted = _logits(dense, images)
    difference = np.abs(_logits(other, images) - wanted).max()
    largest = float(difference / np.abs(wanted).max())
    _check(largest < _LARGEST_DIFFERENCE, f"logits differ by {largest:.1e}")
    return f"logits differ by {largest:.0e} of the largest"


def _rows(trained: TrainedRun, images: np.ndarray) -> TokenGroup:
    """Rows of pictures with a caption."""
    layout, data = trained.layout("image_to_text"), trained.experiment.data
    shown = zip(_PROMPTS, images, trained.codec.encode(images), strict=True)
    documents = [
        document(
            {"image": ImagePart(image, codes=code_N), "caption": prompt},
            layout,
            data,
            trained.tokenizer,
        )
        for prompt, image, code_N in shown
    ]
    return RowTemplates(layout).stack(documents)


def _logits(trained: TrainedRun, images: np.ndarray) -> np.ndarray:
    """Logits of the caption's tokens of all rows, in the order of the sequence."""
    rows = _rows(trained, images)
    stream, start, num_slots = with_segments(rows.layout).slot_range("caption")
    caption = slice(start, start + num_slots)

    def run(variables: dict, rows: TokenGroup) -> jax.Array:
        output = trained.bound(variables)(rows)
        return output.head.logits(output.hidden[stream][:, caption])

    is_token = np.asarray(rows.streams[stream].position_BT)[:, caption] >= 0
    return np.asarray(jax.jit(run)(trained.variables, rows))[is_token]


def _losses(run: RunDirectory) -> list[float]:
    rows = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    _check(all(map(math.isfinite, losses)), "a loss is not finite")
    return losses
