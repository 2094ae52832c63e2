"""Several train steps as one program over films that lie on the device, beside single calls.

    python -m benchmarks.steps_as_one_program [--steps K ...] [--batch N] [--size N] [--dtype D]
    python -m benchmarks.steps_as_one_program --recipe

Each call takes film indices in and gives metrics out, as training does. On CPUs the steps' code is
repeated, since a loop there is many times slower; elsewhere it is a loop. ``--recipe`` runs the
seed's whole training, 2,531 films for 30 epochs, for machines that do so in seconds.
"""

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from benchmarks import record
from benchmarks.peers.ours import unet
from benchmarks.peers.setting import EPSILON, LEARNING_RATE, Setting, films
from jaxseg import TrainState, losses, make_train_step, parallel

RECIPE_FILMS, RECIPE_EPOCHS = 2531, 30

COLUMNS = {
    "steps_a_call": "d",
    "compile_seconds": ".1f",
    "seconds_a_step": ".4f",
    "images_per_second": ".1f",
    "ratio_to_single_calls": ".2f",
}


class Program:
    """k steps of training compiled as one, and the films that they take."""

    def __init__(self, setting: Setting, steps: int, count: int) -> None:
        mesh = parallel.make_mesh()
        model, tx = unet(setting), optax.adam(LEARNING_RATE, eps=EPSILON)
        images, labels = films(Setting(batch=count, size=setting.size), 1)
        arrays = {"images": (255 * images[0]).astype(np.uint8), "labels": labels[0]}
        self._films = parallel.replicate(arrays, mesh)
        state = TrainState.create(model, tx, jax.random.key(0), arrays["images"])
        self._state = parallel.replicate(state, mesh)
        self._shape = (steps, setting.batch)
        self._rng = np.random.default_rng(0)
        self._count = count
        train = parallel.jit_many_steps(make_train_step(model, tx, losses.cross_entropy), mesh)
        self._rows = parallel.over_rows(mesh, axis=1)
        began = time.perf_counter()
        self._call = train.lower(self._state, self._films, self._indices()).compile()
        self.compile_seconds = time.perf_counter() - began

    def _indices(self) -> Any:
        drawn = self._rng.integers(0, self._count, self._shape, np.int32)
        return parallel.place(drawn, self._rows)

    def seconds(self) -> float:
        """Of one call, its indices and metrics included."""
        began = time.perf_counter()
        self._state, measured = self._call(self._state, self._films, self._indices())
        jax.device_get(measured)
        jax.block_until_ready(self._state)
        return time.perf_counter() - began


def sweep(setting: Setting, steps: list[int], rounds: int) -> list[dict[str, Any]]:
    """Programs of so many steps each, in turns; the first is what ratios refer to."""
    programs = {k: Program(setting, k, 8 * setting.batch) for k in steps}
    seconds: dict[int, list[float]] = {k: [] for k in steps}
    for turn in range(rounds + 1):
        for k, program in programs.items():
            taken = program.seconds() / k
            if turn:
                seconds[k].append(taken)
    first = statistics.median(seconds[steps[0]])
    return [
        {
            "steps_a_call": k,
            "compile_seconds": programs[k].compile_seconds,
            "seconds_a_step": statistics.median(seconds[k]),
            "images_per_second": setting.batch / statistics.median(seconds[k]),
            "ratio_to_single_calls": first / statistics.median(seconds[k]),
        }
        for k in steps
    ]


def recipe(setting: Setting, steps: int) -> list[dict[str, Any]]:
    """The seed's training in full, compile apart."""
    program = Program(setting, steps, RECIPE_FILMS)
    calls = -(-RECIPE_EPOCHS * -(-RECIPE_FILMS // setting.batch) // steps)
    program.seconds()
    seconds = sum(program.seconds() for _ in range(calls))
    return [
        {
            "steps_a_call": steps,
            "compile_seconds": program.compile_seconds,
            "seconds": seconds,
            "seconds_a_step": seconds / (calls * steps),
            "images_per_second": calls * steps * setting.batch / seconds,
        }
    ]


def main() -> None:
    """Prints the table."""
    accelerator = jax.default_backend() != "cpu"
    default = Setting()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.steps_as_one_program")
    parser.add_argument("--steps", type=int, nargs="+", metavar="K")
    parser.add_argument("--batch", type=int, default=default.batch, metavar="N")
    parser.add_argument("--size", type=int, default=default.size, metavar="N")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default=default.dtype)
    parser.add_argument("--rounds", type=int, default=10 if accelerator else 3, metavar="N")
    parser.add_argument("--recipe", action="store_true", help="the seed's 30 epochs in full")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    if options.batch % (devices := jax.device_count()):
        parser.error(f"--batch: {options.batch} films are no even share for {devices} devices")
    setting = Setting(batch=options.batch, size=options.size, dtype=options.dtype)
    if options.recipe:
        rows = recipe(setting, (options.steps or [50 if accelerator else 1])[0])
        columns = {"seconds": ".1f", **COLUMNS}
    else:
        steps = options.steps or ([1, 10, 50] if accelerator else [1, 2])
        rows, columns = sweep(setting, steps, options.rounds), COLUMNS
    print(record.table(rows, columns))
    if options.json:
        record.write(options.json, {"conditions": record.conditions(), "results": rows})


if __name__ == "__main__":
    main()
