"""Stops commands at random moments: do they end in time, and do runs resume bit for bit?

    python -m benchmarks.survival [signals] [processes] [--count 20]

- ``signals``: SIGTERM, Ctrl-C and kill -9 in train, evaluate and predict. The exit status must be
  75, 130 or that of a killed process, within 10 s. Every second signal to train is sent while a
  checkpoint is being written. Each stopped run is resumed and compared with an unbroken one.
- ``processes``: SIGTERM to one of two processes with four devices each.

It uses synthetic images and a small network. The exit status is 1 if anything fails.
"""

import itertools
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging

from benchmarks import protocol, report
from experiments.command import INTERRUPTED, PREEMPTED
from experiments.runs import CLOCKED, RunDirectory, load_trained
from jaxseg.data import phantom
from jaxseg.data.archive import FOLDER_NAME

IMAGES = {"COVID": 10, "Lung_Opacity": 6, "Normal": 14, "Viral Pneumonia": 10}
RUN = ["--size", "32", "--widths", "4", "8", "--epochs", "12", "--batch-size", "8"]
RUN += ["--dropout", "0.3", "--norm", "batch"]

LIMIT = 10.0
"""Seconds in which a command must end after a signal."""
STATUS = {
    signal.SIGTERM: PREEMPTED,
    signal.SIGINT: INTERRUPTED,
    signal.SIGKILL: -signal.SIGKILL,
}
COLUMNS = ("name", "count", "ended_before", "wrong_status", "longest_seconds", "resumed")
Process = subprocess.Popen[str]


def start(name: str, *arguments: object, devices: int = 1, cache: Path | None = None) -> Process:
    """Starts a command, with a folder of compiled programs if one is given."""
    # Compiling takes half as long without optimization.
    flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
    compiled = {} if cache is None else {"JAX_COMPILATION_CACHE_DIR": str(cache)}
    return subprocess.Popen(
        [sys.executable, "-m", f"experiments.{name}", *map(str, arguments)],
        cwd=report.ROOT, env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, **compiled},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def free_address() -> str:
    """Returns HOST:PORT on this machine with a free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def end(*processes: Process, status: int = 0) -> float:
    """Waits until the processes have ended with this status; returns the seconds."""
    began = time.monotonic()
    for process in processes:
        output, _ = process.communicate(timeout=3600)
        if process.returncode != status:
            raise SystemExit(f"exit status {process.returncode}, not {status}:\n{output}")
    return time.monotonic() - began


def wait_for(condition: Callable[[], object], process: Process) -> None:
    """Waits until a condition holds, or the process has ended."""
    while not condition() and process.poll() is None:
        time.sleep(0.002)


def difference(one: RunDirectory, other: RunDirectory) -> str | None:
    """Returns the first difference of two finished runs: a leaf, a log or the test scores."""
    states = [load_trained(run).state for run in (one, other)]
    states = [state.replace(key=jax.random.key_data(state.key)) for state in states]
    for (path, a), (_, b) in zip(*map(jax.tree.leaves_with_path, states), strict=True):
        if np.asarray(a).tobytes() != np.asarray(b).tobytes():
            return jax.tree_util.keystr(path)
    unclocked = dict.fromkeys(CLOCKED, 0)
    logs: dict[str, Callable[[RunDirectory], Any]] = {
        "metrics.jsonl": lambda run: [row | unclocked for row in run.read_metrics()],
        "steps.jsonl": lambda run: run.read_steps(),
        "summary.json": lambda run: run.finished_summary()["test"],
    }
    return next((name for name, read in logs.items() if read(one) != read(other)), None)


def is_saving(run: RunDirectory) -> bool:
    """Returns whether a checkpoint is being written, or was when the run was killed."""
    return any("orbax-checkpoint-tmp" in path.name for path in run.checkpoints.glob("*"))


class Stops:
    """A folder with data, an unbroken run, and random moments."""

    def __init__(self, folder: Path):
        self.folder, self.random = folder, random.Random(0)
        archive = phantom.write_archive(folder, images=IMAGES, seed=1)
        zipfile.ZipFile(archive).extractall(folder / "unpacked")
        self.options = ["phantom", *RUN, "--manual-dir", folder, "--data-dir", folder / "data"]
        self.unbroken = RunDirectory(folder / "unbroken")
        self.seconds = end(self.train(self.unbroken))
        end(self.train(RunDirectory(folder / "again"), cached=True))

    def train(
        self, run: RunDirectory, *more: object, devices: int = 1, cached: bool = False
    ) -> Process:
        """Starts a run, or resumes it; ``cached`` compiles nothing that was compiled before."""
        options = [*self.options, "--workdir", run.path, "--resume", *more]
        cache = self.folder / "compiled" if cached else None
        return start("train", *options, devices=devices, cache=cache)

    def resumed(self, run: RunDirectory) -> bool:
        """Resumes a run; returns whether it equals the unbroken one, and prints a difference."""
        end(self.train(run, cached=True))
        if differs := difference(run, self.unbroken):
            print(f"{run.path.name}: {differs} differs", flush=True)
        return differs is None

    def signals(self, count: int) -> Iterator[dict[str, Any]]:
        """Sends signals to commands at random moments, from the start of the process on."""
        images = self.folder / "unpacked" / FOLDER_NAME / "Normal" / "images"
        arguments = {
            "evaluate": [self.unbroken.path, "--out"],
            "predict": [self.unbroken.path, images, "--out"],
        }
        seconds = {
            name: end(start(name, *arguments[name], self.folder / name)) for name in arguments
        }
        for name, sent in itertools.product(("train", *arguments), STATUS):
            training = name == "train"
            statuses, slowest, resumed = [], 0.0, 0
            for number in range(count):
                run = RunDirectory(self.folder / f"{name}-{sent.name}-{number}")
                process = self.train(run) if training else start(name, *arguments[name], run.path)
                time.sleep(self.random.uniform(0.5, seconds.get(name, self.seconds)))
                if training and number % 2:
                    wait_for(lambda run=run: is_saving(run), process)
                process.send_signal(sent)
                began = time.monotonic()
                output, _ = process.communicate(timeout=600)
                statuses.append(process.returncode)
                if process.returncode:
                    slowest = max(slowest, time.monotonic() - began)
                if process.returncode not in (0, STATUS[sent]):
                    print(f"{name}, {sent.name}: exit status {process.returncode}:\n{output}")
                resumed += training and self.resumed(run)
            finished = statuses.count(0)
            wrong = count - finished - statuses.count(STATUS[sent])
            good = not wrong and slowest < LIMIT and resumed == count * training
            yield {
                "name": f"{name}, {sent.name}", "count": count, "ended_before": finished,
                "wrong_status": wrong, "longest_seconds": slowest, "resumed": resumed, "good": good,
            }  # fmt: skip

    def processes(self, _: int) -> Iterator[dict[str, Any]]:
        """Sends SIGTERM to one of two processes and resumes."""

        def start_two(run: RunDirectory) -> list[Process]:
            more = ["--coordinator", free_address(), "--num-processes", 2, "--process-id"]
            return [self.train(run, *more, i, devices=4) for i in range(2)]

        unbroken, run = (RunDirectory(self.folder / f"two-{i}") for i in range(2))
        end(*start_two(unbroken))
        processes = start_two(run)
        wait_for(lambda: len(run.read_metrics()) >= 3, processes[0])
        processes[1].send_signal(signal.SIGTERM)
        seconds = end(*processes, status=PREEMPTED)
        end(*start_two(run))
        same = difference(run, unbroken) is None
        row = {"name": "train in two processes, SIGTERM to one", "count": 1, "resumed": int(same)}
        yield row | {"longest_seconds": seconds, "good": same and seconds < 30}


def main() -> None:
    """Runs what the command line names, or everything."""
    parser = protocol.parser(__doc__)
    kinds = ("signals", "processes")
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=" or ".join(kinds))
    parser.add_argument("--count", type=int, default=20, help="signals of each kind (20)")
    options = parser.parse_args()
    if unknown := set(options.kinds) - set(kinds):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    jax.config.update("jax_platforms", "cpu")
    logging.set_verbosity(logging.ERROR)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        stops = Stops(Path(folder))
        for kind in options.kinds or kinds:
            for row in getattr(stops, kind)(options.count):
                rows.append(row)
                print(row, flush=True)
    report.publish(report.make("survival", {"count": options.count}, rows), COLUMNS, options.json)
    sys.exit(not all(row["good"] for row in rows))


if __name__ == "__main__":
    main()
