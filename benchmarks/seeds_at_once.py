"""Several seeds' train steps on one device: vectorised as one program, or one after another.

    python -m benchmarks.seeds_at_once [--seeds N] [--batch N] [--size N] [--widths W,W,...]

Vectorised, every convolution has a kernel for each seed. `--seeds` of `experiments.train` trains
one after another on a device.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

from benchmarks import record
from benchmarks.peers.ours import unet
from benchmarks.peers.setting import EPSILON, LEARNING_RATE, Setting, films
from jaxseg import TrainState, losses, make_train_step

COLUMNS = {"seeds": "", "compile_seconds": ".1f", "seconds": ".3f", "ratio": ".2f"}


def programs(setting: Setting, seeds: int) -> dict[str, tuple[float, Callable[[], Any]]]:
    """Both ways by name: seconds of compiling, and a function that does a step of every seed."""
    model, tx = unet(setting), optax.adam(LEARNING_RATE, eps=EPSILON)
    images, labels = films(setting, seeds)
    batches = {"images": jnp.asarray(images), "labels": jnp.asarray(labels)}
    step = make_train_step(model, tx, losses.cross_entropy)
    states = [
        TrainState.create(model, tx, jax.random.key(seed), images[0]) for seed in range(seeds)
    ]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    own = [{name: array[seed] for name, array in batches.items()} for seed in range(seeds)]
    alone, alone_seconds = _compiled(step, states[0], own[0])
    together, together_seconds = _compiled(jax.vmap(step), stacked, batches)
    return {
        "one after another": (
            alone_seconds,
            lambda: [
                jax.block_until_ready(alone(*given)) for given in zip(states, own, strict=True)
            ],
        ),
        "vectorised": (
            together_seconds,
            lambda: jax.block_until_ready(together(stacked, batches)),
        ),
    }


def _compiled(step: Callable[..., Any], *arguments: Any) -> tuple[Callable[..., Any], float]:
    began = time.perf_counter()
    compiled = jax.jit(step).lower(*arguments).compile()
    return compiled, time.perf_counter() - began


def main() -> None:
    """Prints the table."""
    default = Setting()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.seeds_at_once")
    parser.add_argument("--seeds", type=int, default=2, metavar="N")
    parser.add_argument("--batch", type=int, default=default.batch, metavar="N")
    parser.add_argument("--size", type=int, default=128, metavar="N")
    parser.add_argument("--widths", default=",".join(map(str, default.widths)), metavar="W,W,...")
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    widths = tuple(map(int, options.widths.split(",")))
    setting = Setting(batch=options.batch, size=options.size, widths=widths)
    both = programs(setting, options.seeds)
    seconds: dict[str, list[float]] = {name: [] for name in both}
    for turn in range(options.rounds + 1):
        for name, (_, run) in both.items():
            began = time.perf_counter()
            run()
            if turn:
                seconds[name].append(time.perf_counter() - began)
    first = statistics.median(seconds["one after another"])
    rows = [
        {
            "seeds": f"{options.seeds}, {name}",
            "compile_seconds": compiling,
            "seconds": statistics.median(seconds[name]),
            "ratio": statistics.median(seconds[name]) / first,
        }
        for name, (compiling, _) in both.items()
    ]
    print(record.table(rows, COLUMNS))
    if options.json:
        record.write(options.json, {"conditions": record.conditions(), "results": rows})


if __name__ == "__main__":
    main()
