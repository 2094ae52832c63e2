"""Compiles JAX contenders and tells what the compiled program is made of."""

import itertools
import time
from collections.abc import Callable
from typing import Any

import flax
import jax

from benchmarks.peers.setting import Prepared, Setting, films


def prepared(step: Callable[..., Any], state: Any, setting: Setting, parameters: int) -> Prepared:
    """``step(state, images, labels) -> (state, result)``, compiled, its state donated."""
    images, labels = films(setting, 1 if setting.data == "device" else 4)
    began = time.perf_counter()
    program = jax.jit(step, donate_argnums=0).lower(state, images[0], labels[0]).compile()
    compile_seconds = time.perf_counter() - began
    placed = [jax.device_put(batch) for batch in zip(images, labels, strict=True)]
    hosted = list(zip(images, labels, strict=True))
    batches = itertools.cycle(placed if setting.data == "device" else hosted)

    def run() -> None:
        nonlocal state
        state, result = program(state, *next(batches))
        jax.block_until_ready((state, result))

    memory, cost = program.memory_analysis(), program.cost_analysis() or {}
    return Prepared(
        run,
        {
            "parameters": parameters,
            "compile_seconds": compile_seconds,
            "flops": cost.get("flops"),
            "bytes": cost.get("bytes accessed"),
            "temporary_bytes": getattr(memory, "temp_size_in_bytes", None),
            "device": jax.devices()[0].device_kind,
            "versions": {"jax": jax.__version__, "flax": flax.__version__},
        },
    )


def number_of_parameters(tree: Any) -> int:
    """Over all leaves."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))
