"""Checkpoints of a train state: a thin layer over Orbax's `CheckpointManager`.

A checkpoint is complete or absent. A process that is killed while it saves leaves a directory with
a temporary name, which is never read.
"""

import contextlib
import math
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies
from orbax.checkpoint import type_handlers

from jaxseg.errors import InputError
from jaxseg.training import TrainState


class _Manager(ocp.CheckpointManager):
    """Orbax's manager without its preemption query, for which Orbax has no option.

    JAX counts these queries. A second caller would make `jaxseg.parallel.Preemption` miss the
    signal.
    """

    def reached_preemption(self, step: int) -> bool:
        del step
        return False


class Checkpoints:
    """The checkpoints of one run: the latest few, and the best by score.

    Saving continues in the background until `wait` or `close`; leaving the ``with`` block closes.
    An error there, such as a full disk, is raised by the next `save`, `wait` or `close`. Earlier
    checkpoints stay intact.

    With several processes, every process makes the same calls, and they share the directory.

    Args:
        directory: Where checkpoints are stored; created if absent.
        keep: Number of latest checkpoints to keep. The best one by score is kept as well.
        resume: Whether to continue the run whose checkpoints are in the directory.
        read_only: Open for reading only, also while another process saves. Nothing is written.

    Raises:
        InputError: The directory holds checkpoints and neither ``resume`` nor ``read_only`` is
            set, or it cannot be written to.

    Examples:
        >>> import tempfile
        >>> import jax
        >>> import numpy as np
        >>> import optax
        >>> import jaxseg
        >>> from jaxseg.checkpoint import Checkpoints
        >>> model, images = jaxseg.UNet(widths=(4, 8)), np.zeros((1, 8, 8, 1), np.uint8)
        >>> state = jaxseg.TrainState.create(model, optax.adam(1e-3), jax.random.key(0), images)
        >>> with tempfile.TemporaryDirectory() as folder, Checkpoints(folder) as checkpoints:
        ...     checkpoints.save(state, {"images_seen": 0}, score=0.5)
        ...     restored, progress = checkpoints.restore(state, step=0)
        >>> progress
        {'images_seen': 0}
        >>> all(jax.tree.leaves(jax.tree.map(np.array_equal, restored.params, state.params)))
        True
    """

    def __init__(
        self, directory: str | Path, *, keep: int = 2, resume: bool = False, read_only: bool = False
    ):
        self._directory = Path(directory).absolute()
        if not read_only:
            _check_directory(self._directory, resume=resume)
        kept = policies.AnyPreservationPolicy(
            [policies.LatestN(keep), policies.BestN(get_metric_fn=_score, n=1)]
        )
        # By default each device saves a slice of each leaf, and every slice compiles a program.
        whole_leaves = type_handlers.create_type_handler_registry(
            (jax.Array, type_handlers.ArrayHandler(use_replica_parallel=False))
        )
        self._manager = _Manager(
            self._directory,
            item_handlers=ocp.PyTreeCheckpointHandler(type_handler_registry=whole_leaves),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=kept,
                best_fn=_score,
                cleanup_tmp_directories=not read_only,
                read_only=read_only,
            ),
        )

    def save(
        self, state: TrainState, progress: Mapping[str, Any], *, score: float | None = None
    ) -> None:
        """Starts saving a state under its step.

        Args:
            state: State to save. You may donate it to the next step at once.
            progress: Everything else that a resumed run needs, as plain JSON values.
            score: Quality of the state, higher is better. A state without a score (None or NaN)
                is never the best.

        Raises:
            InputError: This checkpoint or the previous one cannot be written, the step is not
                after the latest checkpoint's, or the directory is open for reading only.
        """
        self.wait()
        step, scored = int(state.step), score is not None and not math.isnan(score)
        with self._input_errors():
            saved = self._manager.save(
                step,
                args=ocp.args.PyTreeSave(_without_key_types(state)),
                metrics={"score": score} if scored else {},
                custom_metadata=dict(progress),
            )
        if not saved:
            raise InputError(
                f"{self._directory}: step {step} is not after step {self.latest_step()}, of which "
                "there is a checkpoint, or the directory is read-only. Save in another directory."
            )

    def latest_step(self) -> int | None:
        """Returns the step of the latest checkpoint, or None if there is none."""
        return self._manager.latest_step()

    def best_step(self) -> int | None:
        """Returns the step of the best checkpoint by score, or None if none has a score."""
        best = self._manager.best_step()
        return best if best is not None and self._manager.metrics(best) else None

    def restore(self, like: TrainState, step: int) -> tuple[TrainState, dict[str, Any]]:
        """Reads a checkpoint.

        Args:
            like: A state with the same structure, of arrays or `jax.ShapeDtypeStruct`. Restored
                arrays get its shardings; leaves without one go to the first local device.
            step: Step of the checkpoint.

        Returns:
            The state, bitwise equal to the saved one, and the progress.

        Raises:
            InputError: There is no such checkpoint, or a leaf of it has another shape or dtype
                than in ``like``. The message names the first such leaf.
        """
        self.wait()
        if step not in self._manager.all_steps():
            raise InputError(f"{self._directory}: there is no checkpoint of step {step}")
        target = jax.eval_shape(_without_key_types, like)
        saved, wanted = _leaves(self._manager.item_metadata(step).tree), _leaves(target)
        for name in wanted | saved:
            if saved.get(name) != wanted.get(name):
                raise InputError(
                    f"{self._directory}: step {step} is of another model or optimizer. {name} is "
                    f"{saved.get(name, 'absent')} in the checkpoint and "
                    f"{wanted.get(name, 'absent')} in this run."
                )
        first = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        restore_args = jax.tree.map(
            lambda leaf: ocp.ArrayRestoreArgs(sharding=leaf.sharding or first), like
        )
        restored = self._manager.restore(
            step, args=ocp.args.PyTreeRestore(target, restore_args=restore_args)
        )
        progress = self._manager.metadata(step).custom_metadata
        return jax.tree.map(_with_key_type, restored, like), progress

    def wait(self) -> None:
        """Waits for the save in the background.

        Raises:
            InputError: The checkpoint cannot be written.
        """
        with self._input_errors():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits as `wait` does and ends the background threads."""
        with self._input_errors():
            self._manager.close()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def _input_errors(self) -> Iterator[None]:
        try:
            yield
        # Orbax raises a full disk as any of these.
        except (OSError, ValueError, RuntimeError) as error:
            self._manager.reload()
            # The operating system's words come last.
            reason = str(error).splitlines()[0].rsplit(": ", 1)[-1]
            raise InputError(
                f"{self._directory}: cannot save a checkpoint ({reason}). "
                f"The latest complete one is of step {self.latest_step()}."
            ) from error


def _check_directory(directory: Path, *, resume: bool) -> None:
    """Finds out before training whether checkpoints can be saved there."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=directory).close()
    except OSError as error:
        raise InputError(f"{directory}: cannot be written to ({error.strerror})") from error
    # Before Orbax opens it, which would delete what another run is saving there.
    if not resume and any(ocp.path.step.standard_name_format().find_all(directory)):
        raise InputError(
            f"{directory}: holds checkpoints of another run. "
            "Pass resume=True to continue that run, or use another directory."
        )


def _leaves(tree: Any) -> dict[str, str]:
    """Returns dtype and shape of every leaf by its path, the same for classes and dicts."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): f"{leaf.dtype}{list(leaf.shape)}"
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


def _score(metrics: Mapping[str, float]) -> float:
    return metrics.get("score", -math.inf)


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _without_key_types(state: TrainState) -> TrainState:
    """Replaces typed PRNG keys by their data, which is what Orbax stores."""
    return jax.tree.map(lambda leaf: jax.random.key_data(leaf) if _is_key(leaf) else leaf, state)


def _with_key_type(restored: Any, like: Any) -> Any:
    if not _is_key(like):
        return restored
    return jax.random.wrap_key_data(restored, impl=jax.random.key_impl(jnp.empty((), like.dtype)))
