"""A trace of three train steps, for TensorBoard's profiler or Perfetto.

``python -m experiments.train --profile DIR`` writes ``DIR/plugins/profile/<date>/``. Open
``perfetto_trace.json.gz`` in ui.perfetto.dev, or run ``tensorboard --logdir DIR`` with its plugin
xprof. Each process traces its own devices.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax

from experiments import command

STEPS = range(3, 6)
"""The traced steps of this process, counted from 1. The first step compiles."""


class Trace:
    """Traces a few steps; does nothing without a directory."""

    def __init__(self, directory: Path | None):
        self._directory, self._step, self.is_running = directory, 0, False
        if directory is not None:
            directory.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Wraps a step, whose result the caller waits for within the block if it `is_running`."""
        self._step += 1
        if self._directory is not None and self._step == STEPS.start:
            jax.profiler.start_trace(str(self._directory), create_perfetto_trace=True)
            self.is_running = True
        with jax.profiler.StepTraceAnnotation("train", step_num=number):
            yield
        if self._step == STEPS.stop - 1:
            self.close()

    def close(self) -> None:
        """Ends the trace, if one is running."""
        if self.is_running:
            self.is_running = False
            jax.profiler.stop_trace()
            command.say(f"traced {self._step - STEPS.start + 1} train steps: {self._directory}")
        elif self._directory is not None and self._step < STEPS.start:
            command.say(f"--profile: fewer than {STEPS.start} steps, so none was traced")
