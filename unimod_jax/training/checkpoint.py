"""Orbax checkpoints of a run: state and random key, saved whole or not at all.

Saves run in the background while the next steps are taken: arrays are copied to the
host first, files are written by threads, and a checkpoint appears by one rename. Where
the data stand is the step itself, so a run may go on with other devices, another mesh
or another number of processes.

Restoring takes the newest checkpoint that all processes can load; one that is damaged
is named and passed over, never deleted. A list of its files and their sizes lies in
each, so that damage is seen before any process starts to load.
"""

import contextlib
import errno
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from unimod_jax.training.experiment import TrainingConfig
from unimod_jax.training.processes import ALONE, Processes
from unimod_jax.training.run_directory import RunError
from unimod_jax.training.state import TrainState

logger = logging.getLogger(__name__)

_SIZES = "file_sizes.json"
_REWRITTEN = {_SIZES, "_CHECKPOINT_METADATA"}
"""Files that may change after the sizes were noted."""


class RunCheckpoints:
    """The checkpoints of one run directory; all processes call the same methods."""

    def __init__(
        self,
        directory: Path,
        config: TrainingConfig,
        *,
        read_only: bool = False,
        processes: Processes = ALONE,
    ):
        """Opens (or makes) the directory.

        Args:
          directory: holds one folder per checkpoint.
          config: how often to save, and how many to keep.
          read_only: leaves half-written checkpoints alone, because the run that writes
            them may still be going; a training run removes what an earlier one left.
          processes: of the run.
        """
        from orbax.checkpoint import v1 as ocp

        self._directory = directory.absolute()
        self._every = config.checkpoint_every
        self._processes = processes
        self._saving: Any = None
        self._saving_step = -1
        self._damaged: set[int] = set()
        keep = NewestWhole(config.keep_checkpoints, lambda step: step in self._damaged)
        context = ocp.Context()
        # Orbax copies its options deeply: a method would bring a copy of this.
        context.async_options.post_finalization_callback = lambda: self._note_sizes()
        # Float32 hardly gets smaller, and saving would take ten times as long.
        context.array.saving.use_compression = False
        self._checkpointer = ocp.training.Checkpointer(
            str(self._directory),
            context=context,
            preservation_policy=keep,
            cleanup_tmp_directories=not read_only,
        )

    def steps(self) -> list[int]:
        """Steps with a checkpoint, oldest first."""
        return sorted(checkpoint.step for checkpoint in self._checkpointer.checkpoints)

    def is_due(self, step: int, last_step: int) -> bool:
        """Whether a checkpoint is taken after this step."""
        return step == last_step or step % self._every == 0

    def save(self, step: int, state: TrainState) -> None:
        """Starts to save the state after a step; returns when it may be donated.

        Waits for the save before, and raises what became of it. A checkpoint of the
        same step can only be one that did not load: it is replaced.

        Raises:
          OSError: ENOSPC where the disk is full.
        """
        self.wait()
        self._saving_step = step
        self._damaged.discard(step)
        self._say("starts to save checkpoint %d", step)
        with _full_disk_by_its_name():
            self._saving = self._checkpointer.save_checkpointables_async(
                step, {"state": state}, force=True, overwrite=True
            )

    def wait(self) -> None:
        """Waits for the save in the background; raises what became of it."""
        saving, self._saving = self._saving, None
        if saving is not None:
            self._say("waits for checkpoint %d", self._saving_step)
            with _full_disk_by_its_name():
                saving.result()
            self._say("has saved checkpoint %d", self._saving_step)

    def restore(self, state: TrainState) -> tuple[TrainState, int] | None:
        """The newest whole checkpoint, in the shapes and shardings of a given state.

        Args:
          state: a fresh state, or its shapes with shardings: of any mesh.

        Returns:
          (the state, its step), or None if there is no checkpoint at all.

        Raises:
          RunError: if there are checkpoints but none can be loaded.
        """
        wanted = {"state": jax.tree.map(_abstract, state)}
        broken = []
        for step in reversed(self._processes.gather("checkpoints", self.steps())[0]):
            whole = self._has_its_files(step)
            if self._processes.gather(f"files of checkpoint {step}", whole)[0]:
                loaded = self._load_if_whole(step, wanted)
                mine = loaded is not None
                if all(self._processes.gather(f"checkpoint {step} is loaded", mine)):
                    assert loaded is not None
                    return loaded["state"], step
            broken.append(step)
            self._damaged.add(step)
        if broken:
            raise RunError(
                f"none of the checkpoints {broken} in {self._directory} can be read; "
                f"remove that directory to start over, or restore it from a copy."
            )
        return None

    def _load_if_whole(
        self, step: int, wanted: dict[str, object]
    ) -> dict[str, Any] | None:
        try:
            return self._checkpointer.load_checkpointables(step, wanted)
        except Exception as error:
            self._pass_over(step, type(error).__name__)
            return None

    def _has_its_files(self, step: int) -> bool:
        """Whether all files have the size that was noted; true if none was noted."""
        folder = self._directory / str(step)
        try:
            noted = json.loads((folder / _SIZES).read_text())
        except FileNotFoundError:
            return True
        except ValueError:
            noted = {_SIZES: -1}
        found = _sizes(folder)
        wrong = [name for name, size in noted.items() if found.get(name) != size]
        if wrong:
            self._pass_over(step, f"{wrong[0]} is truncated or missing")
        return not wrong

    def _say(self, what: str, step: int) -> None:
        """A line before and after Orbax's barriers, where processes may wait."""
        if self._processes.count > 1:
            logger.info("process %d " + what, self._processes.index, step)

    def _pass_over(self, step: int, why: str) -> None:
        logger.warning(
            "checkpoint %d in %s cannot be read (%s); trying the one before it",
            step,
            self._directory,
            why,
        )

    def _note_sizes(self) -> None:
        """Called by Orbax when all files of a save are written, before the rename."""
        if not self._processes.is_first:
            return
        for folder in self._directory.iterdir():
            if folder.name.split(".")[0] == str(self._saving_step):
                (folder / _SIZES).write_text(json.dumps(_sizes(folder)))

    def close(self) -> None:
        """Waits for what is being written; OSError (ENOSPC) where the disk is full."""
        try:
            self.wait()
        finally:
            with _full_disk_by_its_name():
                self._checkpointer.close()


class NewestWhole:
    """Orbax's rule of what to keep: the newest whole checkpoints, and those in between.

    A damaged one does not count: else the last whole one could be removed for it.
    """

    def __init__(self, count: int, is_damaged: Callable[[int], bool]):
        """Keeps `count` checkpoints that are not damaged."""
        self._count, self._is_damaged = count, is_damaged

    def should_preserve(
        self, checkpoints: Sequence[Any], *, context: object
    ) -> list[bool]:
        """For each checkpoint, oldest first, whether it is kept."""
        kept: list[bool] = []
        left = self._count
        for checkpoint in reversed(checkpoints):
            kept.append(left > 0)
            left -= not self._is_damaged(checkpoint.step)
        return kept[::-1]


def _sizes(folder: Path) -> dict[str, int]:
    """Bytes of every file in a checkpoint that does not change once it is written."""
    return {
        str(file.relative_to(folder)): file.stat().st_size
        for file in folder.rglob("*")
        if file.is_file() and file.name not in _REWRITTEN
    }


@contextlib.contextmanager
def _full_disk_by_its_name() -> Iterator[None]:
    """Makes an OSError of the ValueError that TensorStore raises on a full disk."""
    try:
        yield
    except ValueError as error:
        if "No space left on device" in str(error):
            raise OSError(errno.ENOSPC, str(error)) from error
        raise


def _abstract(leaf: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
