"""Runs that are killed, or told to end, and go on: do they end with the unbroken run's bits?

    python -m benchmarks.survival [kill] [sigterm] [--kills 20] [--seed 0]

``kill``: kill -9 at random moments, every second one while a checkpoint is being written, each in
a run of its own that then goes on to the end. ``sigterm``: a run of two processes with four
devices each, of which one is sent SIGTERM. Drawn films, a small network; about 20 s a kill on two
cores. Exit status 1 where a bit differs.
"""

import argparse
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from experiments import command, trained
from experiments.run_directory import CLOCKED, RunDirectory
from jaxseg.data import phantom

ROOT = Path(__file__).parents[1]
FILMS = {"COVID": 10, "Lung_Opacity": 6, "Normal": 14, "Viral Pneumonia": 10}
RUN = ["phantom", "--size", "32", "--widths", "4", "8", "--epochs", "12", "--batch-size", "8"]
RUN += ["--dropout", "0.3", "--norm", "batch"]


def start(options: list[str], workdir: Path, *more: str, devices: int = 1) -> subprocess.Popen[str]:
    """Starts a run of experiments.train, or goes on with it."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    command = [sys.executable, "-m", "experiments.train", *options, *more]
    return subprocess.Popen(
        [*command, "--workdir", str(workdir), "--resume"],
        cwd=ROOT, env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def free_address() -> str:
    """HOST:PORT on this machine that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def start_two(options: list[str], workdir: Path) -> list[subprocess.Popen[str]]:
    """Starts a run of two processes with four devices each."""
    more = ["--coordinator", free_address(), "--num-processes", "2", "--process-id"]
    return [start(options, workdir, *more, str(i), devices=4) for i in range(2)]


def end(*processes: subprocess.Popen[str], status: int = 0) -> float:
    """Waits until the processes have ended as they should; seconds that took."""
    began = time.monotonic()
    for process in processes:
        output, _ = process.communicate(timeout=3600)
        if process.returncode != status:
            raise SystemExit(f"exit status {process.returncode}, not {status}:\n{output}")
    return time.monotonic() - began


def difference(one: RunDirectory, other: RunDirectory) -> str | None:
    """What differs first between two finished runs: a leaf, a row of metrics, the test scores."""
    states = [trained.load(run).state for run in (one, other)]
    states = [state.replace(key=jax.random.key_data(state.key)) for state in states]
    for (path, a), (_, b) in zip(*map(jax.tree.leaves_with_path, states), strict=True):
        if np.asarray(a).tobytes() != np.asarray(b).tobytes():
            return jax.tree_util.keystr(path)
    rows = [
        [{**row, **dict.fromkeys(CLOCKED, 0)} for row in run.read_metrics()] for run in (one, other)
    ]
    if rows[0] != rows[1]:
        return "metrics.jsonl"
    if one.read_steps() != other.read_steps():
        return "steps.jsonl"
    scores = [(run.read_summary() or {}).get("test") for run in (one, other)]
    return None if scores[0] == scores[1] and scores[0] is not None else "summary.json"


def wait_for(condition: Callable[[], object], process: subprocess.Popen[str]) -> bool:
    """Waits until something is so; False where the process ended before."""
    while not condition():
        if process.poll() is not None:
            return False
        time.sleep(0.002)
    return True


def saving(run: RunDirectory) -> bool:
    """Whether a checkpoint is being written, or was when the run was killed."""
    return any("orbax-checkpoint-tmp" in path.name for path in run.checkpoints.glob("*"))


def on_phantoms(folder: Path) -> list[str]:
    """Options of a run on films drawn into the folder."""
    phantom.write_archive(folder, images=FILMS, seed=1)
    return [*RUN, "--manual-dir", str(folder), "--data-dir", str(folder / "data")]


def kill(folder: Path, options: list[str], kills: int, seed: int) -> bool:
    """Kills runs at random moments, lets them go on, and compares; whether all were equal."""
    unbroken = RunDirectory(folder / "unbroken")
    first = start(options, unbroken.path)
    wait_for(unbroken.read_metrics, first)
    seconds = end(first)
    draw, killed, equal = random.Random(seed), 0, 0
    while killed < kills:
        run, moment = RunDirectory(folder / f"killed-{killed}"), draw.uniform(0.0, seconds)
        process = start(options, run.path)
        wait_for(run.read_metrics, process)
        time.sleep(moment)
        if killed % 2:
            wait_for(lambda run=run: saving(run), process)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if process.returncode == 0:
            # This one was faster than the unbroken run that the moments were drawn for.
            shutil.rmtree(run.path)
            continue
        rows, half_written = len(run.read_metrics()), saving(run)
        end(start(options, run.path))
        differs = difference(run, unbroken)
        killed, equal = killed + 1, equal + (differs is None)
        print(
            f"  {killed:2d}: killed {moment:.1f} s on, after {rows} epochs"
            f"{', in mid-save' if half_written else ''}: "
            + ("equal to the bit" if differs is None else f"{differs} differs"),
            flush=True,
        )
    print(f"  {equal} of {kills} resumed runs end with the unbroken run's bits")
    return equal == kills


def sigterm(folder: Path, options: list[str]) -> bool:
    """Sends SIGTERM to one of two processes, goes on, and compares; whether all was equal."""
    unbroken, run = (RunDirectory(folder / f"{name}-two") for name in ("unbroken", "told"))
    end(*start_two(options, unbroken.path))
    processes = start_two(options, run.path)
    wait_for(lambda: len(run.read_metrics()) >= 3, processes[0])
    processes[1].send_signal(signal.SIGTERM)
    seconds = end(*processes, status=command.PREEMPTED)
    rows = len(run.read_metrics())
    end(*start_two(options, run.path))
    differs = difference(run, unbroken)
    print(
        f"  both processes ended with status {command.PREEMPTED} within {seconds:.1f} s, "
        f"after {rows} epochs; resumed: "
        + ("equal to the bit" if differs is None else f"{differs} differs")
    )
    return differs is None and seconds < 30


def main() -> None:
    """Runs the parts named on the command line, or both."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="part", help="kill or sigterm")
    parser.add_argument("--kills", type=int, default=20, help="how many runs are killed")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()
    parts = options.parts or ["kill", "sigterm"]
    if unknown := set(parts) - {"kill", "sigterm"}:
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    jax.config.update("jax_platforms", "cpu")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        run = on_phantoms(folder)
        good = True
        if "sigterm" in parts:
            print("SIGTERM to one of two processes")
            good &= sigterm(folder, run)
        if "kill" in parts:
            print("kill -9")
            good &= kill(folder, run, options.kills, options.seed)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
