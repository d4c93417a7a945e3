"""A run directory: what is where, and the refusal to mix two configurations in one.

config.json       the experiment, every field
tokenizer.json    the text tokenizer trained on its captions
checkpoints/      Orbax: state and random key; the step says where the data stand
weights/          Orbax: parameters of a converted model, which has no checkpoints
image_tokenizer/  a learned image tokenizer as it was published, if the run has one
other_tensors/    tensors of the published files that no model of ours has
published.json    the published files that a converted model came from
metrics.jsonl     one row per logged step
tensorboard/      the same for TensorBoard
time.json         where the time of the last start went
profile/          the trace of `--profile`
summary.json      results of `evaluate`
report.html       the picture of it all
"""

import dataclasses
import json
import os
import shutil
from pathlib import Path

from unimod_jax.parallel import MeshAxes
from unimod_jax.training.experiment import Experiment


class RunError(Exception):
    """A problem a user can solve, told in one sentence; see `endings` for others."""

    exit_code = 2


BOOKKEEPING = {
    "training.checkpoint_every",
    "training.keep_checkpoints",
    "training.log_every",
    "training.held_out_every",
    "training.held_out_rows",
    "training.skip_budget",
    "training.accumulation_steps",
    "data.codes_directory",
}
LAYOUT = ("mesh.", "sharding.")
"""These and `BOOKKEEPING` may differ when a run is resumed: what is computed stays the
same, to rounding where devices or the order of a sum change."""


@dataclasses.dataclass(frozen=True)
class RunDirectory:
    """Paths inside a run directory."""

    path: Path

    @property
    def config(self) -> Path:
        """The experiment as JSON."""
        return self.path / "config.json"

    @property
    def tokenizer(self) -> Path:
        """The text tokenizer."""
        return self.path / "tokenizer.json"

    @property
    def checkpoints(self) -> Path:
        """Orbax's directory."""
        return self.path / "checkpoints"

    @property
    def weights(self) -> Path:
        """Parameters of a converted model."""
        return self.path / "weights"

    @property
    def image_tokenizer(self) -> Path:
        """A learned image tokenizer in its published form."""
        return self.path / "image_tokenizer"

    @property
    def other_tensors(self) -> Path:
        """Published tensors that are no parameters of any model here."""
        return self.path / "other_tensors"

    @property
    def published(self) -> Path:
        """Layout and manifest of the files that a converted model came from."""
        return self.path / "published.json"

    @property
    def metrics(self) -> Path:
        """One JSON row per logged step."""
        return self.path / "metrics.jsonl"

    @property
    def tensorboard(self) -> Path:
        """TensorBoard events."""
        return self.path / "tensorboard"

    @property
    def time(self) -> Path:
        """Seconds of each part of the last start."""
        return self.path / "time.json"

    @property
    def profile(self) -> Path:
        """The trace of `--profile`."""
        return self.path / "profile"

    @property
    def summary(self) -> Path:
        """Results of evaluation."""
        return self.path / "summary.json"

    @property
    def report(self) -> Path:
        """The HTML report."""
        return self.path / "report.html"

    def claim(self, experiment: Experiment) -> None:
        """Writes the configuration, or checks that the one here is the same.

        Raises:
          RunError: naming the fields in which they differ.
        """
        if not self.config.exists():
            self.path.mkdir(parents=True, exist_ok=True)
            write_atomically(self.config, experiment_to_json(experiment))
            return
        here = _flatten(json.loads(experiment_to_json(self.read_experiment())))
        wanted = _flatten(json.loads(experiment_to_json(experiment)))
        differing = [
            f"{name} is {here.get(name)!r} there but {wanted.get(name)!r} here"
            for name in sorted(here.keys() | wanted.keys())
            if here.get(name) != wanted.get(name)
            and name not in BOOKKEEPING
            and not name.startswith(LAYOUT)
        ]
        if differing:
            raise RunError(
                f"{self.path} belongs to another configuration "
                f"({'; '.join(differing)}); "
                f"choose another --run-dir, or give the same options."
            )

    def copy_image_tokenizer(self, source: Path) -> None:
        """Takes a copy of a published image tokenizer, unless there is one.

        Args:
          source: a .safetensors file, or a folder, of which pickles stay behind.

        Raises:
          RunError: if there is nothing to copy.
        """
        if self.image_tokenizer.exists():
            return
        inside = sorted(source.glob("*")) if source.is_dir() else [source]
        files = [f for f in inside if f.suffix in (".safetensors", ".json")]
        if not any(f.is_file() and f.suffix == ".safetensors" for f in files):
            raise RunError(
                f"{source} holds no .safetensors file; give the folder of a published "
                "image tokenizer."
            )
        partial = self.image_tokenizer.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        for file in files:
            shutil.copyfile(file, partial / file.name)
        partial.rename(self.image_tokenizer)

    def read_experiment(self) -> Experiment:
        """The experiment this directory belongs to; RunError if it cannot be read."""
        try:
            return experiment_from_json(self.config.read_text())
        except FileNotFoundError as error:
            raise RunError(
                f"{self.path} is not a run directory: it has no config.json; give the "
                f"--run-dir of a training run."
            ) from error
        except Exception as error:
            raise RunError(
                f"{self.config} cannot be read as an experiment of this version "
                f"({type(error).__name__}); restore the file or start another run."
            ) from error


def experiment_to_json(experiment: Experiment) -> str:
    """Every field of an experiment, as indented JSON."""
    return json.dumps(_converter().unstructure(experiment, Experiment), indent=2) + "\n"


def experiment_from_json(text: str) -> Experiment:
    """The experiment a JSON text describes; unknown or missing names are errors."""
    return _converter().structure(json.loads(text), Experiment)


def _converter():
    """A strict cattrs converter; the objective is tagged with its class name."""
    import cattrs
    from cattrs.strategies import configure_tagged_union

    converter = cattrs.Converter(forbid_extra_keys=True)
    for names in (tuple[int, ...] | str, MeshAxes):
        converter.register_structure_hook(
            names, lambda value, _: tuple(value) if isinstance(value, list) else value
        )
        converter.register_unstructure_hook(
            names, lambda value: list(value) if isinstance(value, tuple) else value
        )
    objective = Experiment.__annotations__["objective"]
    configure_tagged_union(objective, converter, tag_name="kind")
    return converter


def _flatten(tree: object, prefix: str = "") -> dict[str, object]:
    """Nested dictionaries as one, with dotted names.

    A list of named dictionaries (tasks, pieces) becomes its names, in order, and the
    fields of each under its name.
    """
    flat: dict[str, object] = {}
    if isinstance(tree, list) and all(
        isinstance(x, dict) and "name" in x for x in tree
    ):
        flat[prefix] = [e["name"] for e in tree]
        tree = {e["name"]: e for e in tree}
    if not isinstance(tree, dict):
        return {prefix: tree}
    for name, value in tree.items():
        flat |= _flatten(value, f"{prefix}.{name}" if prefix else name)
    return flat


def write_atomically(path: Path, text: str) -> None:
    """Writes a whole file or nothing: to a temporary name, then renamed."""
    temporary = path.with_name(path.name + ".partial")
    try:
        temporary.write_text(text)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
