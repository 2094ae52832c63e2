"""A trace of three train steps, for TensorBoard's profiler or Perfetto.

``python -m experiments.train --profile DIR`` writes ``DIR/plugins/profile/<date>/``. Open
``perfetto_trace.json.gz`` in ui.perfetto.dev, or run ``tensorboard --logdir DIR`` with its plugin
xprof. Each process traces its own devices.
"""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from experiments import command

FIRST, LAST = 3, 5
"""The traced calls, counted from 1. The first call compiles."""


def traced(step: Callable[..., Any], directory: Path | None) -> Callable[..., Any]:
    """Returns a step that traces some of its calls and waits for their results."""
    if directory is None:
        return step
    directory.mkdir(parents=True, exist_ok=True)
    calls = itertools.count(1)

    def traced_step(*arguments: Any) -> Any:
        call = next(calls)
        if not FIRST <= call <= LAST:
            return step(*arguments)
        if call == FIRST:
            jax.profiler.start_trace(str(directory), create_perfetto_trace=True)
        with jax.profiler.StepTraceAnnotation("train", step_num=call):
            result = jax.block_until_ready(step(*arguments))
        if call == LAST:
            jax.profiler.stop_trace()
            command.say(f"traced train steps {FIRST} to {LAST}: {directory}")
        return result

    return traced_step
