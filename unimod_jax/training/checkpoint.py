"""Orbax checkpoints of a run: state, random key and data iterator, saved whole or not.

Restoring takes the newest checkpoint that loads; one that does not is named and passed
over, never deleted.
"""

import contextlib
import errno
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from unimod_jax.training.experiment import TrainingConfig
from unimod_jax.training.run_directory import RunError
from unimod_jax.training.state import TrainState

logger = logging.getLogger(__name__)


class RunCheckpoints:
    """The checkpoints of one run directory."""

    def __init__(
        self, directory: Path, config: TrainingConfig, *, read_only: bool = False
    ):
        """Opens (or makes) the directory.

        Args:
          directory: holds one folder per checkpoint.
          config: how often to save, and how many to keep.
          read_only: leaves half-written checkpoints alone, because the run that writes
            them may still be going; a training run removes what an earlier one left.
        """
        from orbax.checkpoint import v1 as ocp

        self._directory = directory
        self._every = config.checkpoint_every
        keep = ocp.training.preservation_policies.LatestN(config.keep_checkpoints)
        self._checkpointer = ocp.training.Checkpointer(
            str(directory.absolute()),
            # Orbax's policies name another checkpoint class than its own protocol does.
            preservation_policy=keep,  # pyright: ignore[reportArgumentType]
            cleanup_tmp_directories=not read_only,
        )

    def steps(self) -> list[int]:
        """Steps with a checkpoint, oldest first."""
        return sorted(checkpoint.step for checkpoint in self._checkpointer.checkpoints)

    def is_due(self, step: int, last_step: int) -> bool:
        """Whether a checkpoint is taken after this step."""
        return step == last_step or step % self._every == 0

    def save(self, step: int, state: TrainState, iterator: object) -> None:
        """Saves the state after a step, with the iterator about to give the next batch.

        A checkpoint of the same step can only be one that did not load: it is replaced.

        Raises:
          OSError: ENOSPC where the disk is full.
        """
        parts = {"state": state, "data": iterator}
        with _full_disk_by_its_name():
            self._checkpointer.save_checkpointables(
                step, parts, force=True, overwrite=True
            )

    def restore(
        self, state: TrainState, iterator: object | None = None
    ) -> tuple[TrainState, int] | None:
        """The newest whole checkpoint, in the shapes and shardings of a given state.

        Args:
          state: a fresh state, or its shapes with shardings.
          iterator: set to give the batch after the checkpoint; None leaves data alone.

        Returns:
          (the state, its step), or None if there is no checkpoint at all.

        Raises:
          RunError: if there are checkpoints but none can be loaded.
        """
        wanted: dict[str, object] = {"state": jax.tree.map(_abstract, state)}
        if iterator is not None:
            wanted["data"] = iterator
        broken = []
        for step in reversed(self.steps()):
            if (loaded := self._load_if_whole(step, wanted)) is not None:
                return loaded["state"], step
            broken.append(step)
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
            logger.warning(
                "checkpoint %d in %s cannot be read (%s); trying the one before it",
                step,
                self._directory,
                type(error).__name__,
            )
            return None

    def close(self) -> None:
        """Waits for what is being written; OSError (ENOSPC) where the disk is full."""
        with _full_disk_by_its_name():
            self._checkpointer.close()


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
