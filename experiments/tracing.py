"""A trace of a few training steps, for TensorBoard's profiler or Perfetto.

    python -m experiments.train --profile DIR

leaves ``DIR/plugins/profile/<date>/``: ``perfetto_trace.json.gz`` to open in ui.perfetto.dev, and
``*.xplane.pb`` for ``tensorboard --logdir DIR`` with its plugin xprof. Of several processes each
traces its own devices.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax

from experiments import command
from jaxseg.types import InputError

CALLS = 3
"""Calls of the compiled steps that are traced, one after another."""

WARM_UP = 2
"""Calls of the same program before them, the first of which compiles."""


class Trace:
    """Records calls once their program is compiled and has run; does nothing without a folder."""

    def __init__(self, directory: Path | None):
        """Makes the folder.

        Raises:
            InputError: It cannot be written to.
        """
        self._directory = directory
        self._before: Counter[int] = Counter()
        self._traced: int | None = None
        if directory is not None:
            try:
                directory.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputError(f"--profile: {directory} cannot be written to") from error

    @contextmanager
    def call(self, step: int, count: int) -> Iterator[None]:
        """Around a call that does ``count`` steps from step number ``step`` and waits for them."""
        self._before[count] += 1
        warm = self._before[count] > WARM_UP
        if self._directory is not None and self._traced is None and warm:
            jax.profiler.start_trace(self._directory, create_perfetto_trace=True)
            self._traced = 0
        if self._traced is None or self._traced == CALLS:
            yield
            return
        with jax.profiler.StepTraceAnnotation("train", step_num=step):
            yield
        self._traced += 1
        if self._traced == CALLS:
            self._stop()

    def close(self) -> None:
        """Ends a trace that has begun; says so where there was none, or fewer calls than meant."""
        if self._directory is None or self._traced == CALLS:
            return
        if self._traced is None:
            command.say(f"--profile: no program ran {WARM_UP + 1} times, nothing was traced")
        else:
            self._stop()

    def _stop(self) -> None:
        jax.profiler.stop_trace()
        command.say(f"traced {self._traced} calls of the train step: {self._directory}")
