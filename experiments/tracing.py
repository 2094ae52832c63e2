"""A trace of a few training steps, for TensorBoard's profiler or Perfetto.

    python -m experiments.train --profile DIR

leaves ``DIR/plugins/profile/<date>/``: ``perfetto_trace.json.gz`` to open in ui.perfetto.dev, and
``*.xplane.pb`` for ``tensorboard --logdir DIR`` with its plugin xprof. Of several processes each
traces its own devices.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax

from experiments import command
from jaxseg.errors import InputError

TRACED_STEPS = 3
"""Steps that are traced, one after another."""

WARM_UP_STEPS = 2
"""Steps before them, the first of which compiles."""


class Trace:
    """Traces a few steps after a warm-up; without a directory it does nothing."""

    def __init__(self, directory: Path | None):
        """Makes the directory.

        Raises:
            InputError: It cannot be written to.
        """
        self._directory = directory
        self._steps = 0
        if directory is not None:
            try:
                directory.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputError(f"--profile: {directory} cannot be written to") from error

    @property
    def _is_on(self) -> bool:
        traced = self._steps - WARM_UP_STEPS
        return self._directory is not None and 0 < traced <= TRACED_STEPS

    @contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Wraps a step."""
        self._steps += 1
        if not self._is_on:
            yield
            return
        if self._steps == WARM_UP_STEPS + 1:
            jax.profiler.start_trace(str(self._directory), create_perfetto_trace=True)
        with jax.profiler.StepTraceAnnotation("train", step_num=number):
            yield
        if self._steps == WARM_UP_STEPS + TRACED_STEPS:
            self._stop(TRACED_STEPS)

    def wait_for(self, measured: Any) -> None:
        """Waits for a step's result if the step is traced, so that the trace is complete."""
        if self._is_on:
            jax.block_until_ready(measured)

    def close(self) -> None:
        """Stops a trace that is running. Says if there were fewer steps than it needs."""
        traced = self._steps - WARM_UP_STEPS
        if self._directory is None or traced >= TRACED_STEPS:
            return
        if traced <= 0:
            command.say(f"--profile: fewer than {WARM_UP_STEPS + 1} steps, so none was traced")
        else:
            self._stop(traced)

    def _stop(self, traced: int) -> None:
        jax.profiler.stop_trace()
        command.say(f"traced {traced} train steps: {self._directory}")
