"""Checkpoints of a train state: a thin wrapper around Orbax.

A checkpoint is complete or absent: what a killed process leaves half-written has another name and
is never read.
"""

import contextlib
import math
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers, type_handlers

from jaxseg.training import TrainState
from jaxseg.types import InputError

UNSCORED = -math.inf


class _Manager(ocp.CheckpointManager):
    """Orbax's, but that it does not ask whether a preemption is near.

    JAX has one counter for all who ask, and whoever asks by another count than
    `jaxseg.parallel.Preemption` makes it miss the signal.
    """

    def reached_preemption(self, step: int) -> bool:
        del step
        return False


class Checkpoints:
    """The numbered checkpoints of one run: the latest few, and the best by score.

    Saving goes on in the background; `close`, or leaving the ``with`` block, ends it. What goes
    wrong there (a full disk) is raised at the next `save` or at `close`; checkpoints that were
    complete before stay good.

    With several processes all take part, and the directory lies on a disk that they share.

    Args:
        directory: Where they lie; made if absent.
        keep: How many of the latest are kept. The best scored one is kept besides.
        read_only: Only to read, also while another process saves there; nothing is written.

    Raises:
        InputError: The directory cannot be written to, unless only to read.

    Examples:
        >>> import tempfile
        >>> import jax
        >>> import numpy as np
        >>> import optax
        >>> import jaxseg
        >>> from jaxseg.checkpoint import Checkpoints
        >>> model, films = jaxseg.UNet(widths=(4, 8)), np.zeros((1, 8, 8, 1), np.uint8)
        >>> state = jaxseg.TrainState.create(model, optax.adam(1e-3), jax.random.key(0), films)
        >>> with tempfile.TemporaryDirectory() as folder, Checkpoints(folder) as checkpoints:
        ...     checkpoints.save(state, {"films_seen": 0}, score=0.5)
        ...     restored, progress = checkpoints.restore(state, step=0)
        >>> progress
        {'films_seen': 0}
        >>> all(jax.tree.leaves(jax.tree.map(np.array_equal, restored.params, state.params)))
        True
    """

    def __init__(self, directory: str | Path, *, keep: int = 2, read_only: bool = False):
        kept = checkpoint_managers.AnyPreservationPolicy(
            [
                checkpoint_managers.LatestN(keep),
                checkpoint_managers.BestN(get_metric_fn=_score, n=1),
            ]
        )
        # By default each leaf is saved in slices, one per device that holds it, and every slice
        # costs a compilation at the first save.
        whole_leaves = type_handlers.create_type_handler_registry(
            (jax.Array, type_handlers.ArrayHandler(use_replica_parallel=False))
        )
        self._directory = Path(directory).absolute()
        if not read_only:
            _check_writable(self._directory)
        # Else the processes of two runs side by side would wait for each other's saves.
        together = ocp.options.MultiprocessingOptions(
            barrier_sync_key_prefix="-".join(self._directory.parts[-2:])
        )
        self._saving: int | None = None
        self._manager = _Manager(
            self._directory,
            item_handlers={
                "state": ocp.PyTreeCheckpointHandler(
                    type_handler_registry=whole_leaves, multiprocessing_options=together
                ),
                "progress": ocp.JsonCheckpointHandler(multiprocessing_options=together),
            },
            options=ocp.CheckpointManagerOptions(
                preservation_policy=kept,
                best_fn=_score,
                cleanup_tmp_directories=True,
                # Cleans nothing up either: it may be of a save under way.
                read_only=read_only,
                multiprocessing_options=together,
            ),
        )

    def save(
        self, state: TrainState, progress: Mapping[str, Any], *, score: float | None = None
    ) -> None:
        """Starts to save the state under its step.

        Args:
            state: What to save; it may be donated to the next step at once.
            progress: What else a resumed run needs, as plain JSON values.
            score: How good the state is, higher being better; None or NaN leaves it out of the
                contest.

        Raises:
            InputError: This save, or the one before, cannot be written; or a checkpoint of this
                step or of a later one is there, as where a run goes on from an earlier one.
        """
        self.wait()
        step = int(state.step)
        if (latest := self.latest_step()) is not None and step <= latest:
            raise InputError(
                f"{self._directory}: step {step} is not after step {latest}, of which there is a "
                "checkpoint; save in another folder"
            )
        self._saving = step
        with self._naming_write_errors():
            self._manager.save(
                self._saving,
                args=ocp.args.Composite(
                    state=ocp.args.PyTreeSave(_without_typed_keys(state)),
                    progress=ocp.args.JsonSave(dict(progress)),
                ),
                metrics={"score": UNSCORED if score is None or math.isnan(score) else score},
            )

    def latest_step(self) -> int | None:
        """The step of the newest complete checkpoint; None where there is none."""
        return self._manager.latest_step()

    def best_step(self) -> int | None:
        """The step of the best scored checkpoint; None where none has a score."""
        best = self._manager.best_step()
        measured = None if best is None else self._manager.metrics(best)
        return None if measured is None or measured["score"] == UNSCORED else best

    def restore(self, like: TrainState, step: int) -> tuple[TrainState, dict[str, Any]]:
        """Reads a checkpoint.

        Args:
            like: A state of the same structure, arrays or `jax.ShapeDtypeStruct`s; the restored
                arrays get their shardings, and lie on the first device where there is none.
            step: Which one.

        Returns:
            The state, the very bits that were saved, and the progress.

        Raises:
            InputError: There is no such checkpoint, or it is another model's or optimiser's; the
                message names the first leaf that differs.
        """
        self.wait()
        if step not in self._manager.all_steps():
            raise InputError(f"{self._directory}: there is no checkpoint of step {step}")
        target = jax.tree.map(_placed, _without_typed_keys(like))
        self._check_same_leaves(target, step)
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.PyTreeRestore(
                    target,
                    restore_args=ocp.checkpoint_utils.construct_restore_args(target),
                ),
                progress=ocp.args.JsonRestore(),
            ),
        )
        return jax.tree.map(_of_the_kind, restored["state"], like), restored["progress"]

    def wait(self) -> None:
        """Waits for a save in progress.

        Raises:
            InputError: It could not be written.
        """
        with self._naming_write_errors():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits as `wait` does, and ends the threads that save."""
        try:
            self.wait()
        finally:
            # Closing waits too and would raise the same error again.
            with contextlib.suppress(OSError, ValueError, RuntimeError):
                self._manager.close()

    def _check_same_leaves(self, target: TrainState, step: int) -> None:
        saved = _leaves(self._manager.item_metadata(step)["state"].tree)
        wanted = _leaves(target)
        for name in [*wanted, *saved]:
            if saved.get(name) != wanted.get(name):
                there, here = saved.get(name, "absent"), wanted.get(name, "absent")
                raise InputError(
                    f"{self._directory}: the checkpoint of step {step} is another model's: "
                    f"{name} is {there} there and {here} here"
                )

    @contextlib.contextmanager
    def _naming_write_errors(self) -> Iterator[None]:
        try:
            yield
        # Orbax raises what its storage raises: often a ValueError with the system's message in it.
        except (OSError, ValueError, RuntimeError) as error:
            if not isinstance(error, OSError) and "rror writing" not in str(error):
                raise
            self._manager.reload()
            # The system's own words come last.
            reason = str(error).splitlines()[0].rsplit(": ", 1)[-1]
            raise InputError(
                f"{self._directory}: the checkpoint of step {self._saving} could not be saved "
                f"({reason}); the last good one is of step "
                f"{self._manager.latest_step()}"
            ) from error

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _check_writable(directory: Path) -> None:
    """Tries what saving will do, so that a run need not train first to find out."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise InputError(f"{directory}: cannot be written to ({error.strerror})") from error


def _leaves(tree: Any) -> dict[str, str]:
    """Shape and dtype of every leaf by its path, whether classes or dicts lead to it."""
    leaves, _ = jax.tree.flatten_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): f"{leaf.dtype}{list(leaf.shape)}"
        for path, leaf in leaves
    }


def _score(metrics: Mapping[str, float]) -> float:
    return metrics["score"]


def _without_typed_keys(state: TrainState) -> TrainState:
    """Orbax stores plain arrays only, so keys go as their data."""

    def plain(leaf: Any) -> Any:
        if not _is_key(leaf):
            return leaf
        if isinstance(leaf, jax.ShapeDtypeStruct):
            return jax.eval_shape(jax.random.key_data, leaf)
        return jax.random.key_data(leaf)

    return jax.tree.map(plain, state)


def _placed(leaf: Any) -> Any:
    """A described array with a place; arrays have one."""
    if not isinstance(leaf, jax.ShapeDtypeStruct) or leaf.sharding is not None:
        return leaf
    first = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=first)


def _of_the_kind(restored: Any, like: Any) -> Any:
    """A key again where one is wanted."""
    if not _is_key(like):
        return restored
    return jax.random.wrap_key_data(restored, impl=jax.random.key_impl(jnp.empty((), like.dtype)))


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
