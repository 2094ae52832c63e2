"""Films a second of every way that films reach a network, beside tf.data and PyTorch's DataLoader.

    python -m benchmarks.input_pipeline loaders --manual-dir DIR [--data-config NAME] [--size N]
        [--batch N] [--repeats N] [--contenders NAME ...] [--tensorflow-python PYTHON]
    python -m benchmarks.input_pipeline training [arguments of experiments.train]

``loaders``: the stream, the DataLoader and tf.data decode the same PNG pairs in the same order,
resize them, and make uint8 batches in the host's memory; the DataLoader has two worker processes.
The other rows are what jaxseg does besides: preparing the archive, filling and reading the array
cache, gathering batches from films that lie on the device. Each runs in a process of its own; they
take turns; the table has medians, and the most memory that each contender's processes had. It ends
with status 1 where two that should have read the same did not.

``training``: `experiments.train` with films on the device, then streamed, and how much of the wall
time of its loop over an epoch's steps lies between the calls of `experiments.input_path.Steps`.
Inside a call are: taking or placing what the step reads, the compiled program, waiting for it, and
fetching what it measured; a stream's wait for films, but for the first two batches of an epoch, is
inside too. Between them: logs, progress, checkpoints, signals. Validation is neither.
"""

import argparse
import importlib.util
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import record
from benchmarks.loaders import CONTENDERS, Task
from experiments import command
from experiments.runs import RunDirectory
from jaxseg.errors import InputError

PEERS = {"PyTorch DataLoader": "torch", "tf.data": "tensorflow"}
REFERENCE = "PyTorch DataLoader"
WORKERS = 2


class Contender:
    """A contender's process."""

    def __init__(self, name: str, python: str, task: Task):
        self.name, self.seconds = name, []
        self._process = subprocess.Popen(
            [python, "-m", "benchmarks.loaders", name, json.dumps(vars(task))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        ready = self._answer()
        self.read, self.versions = ready["read"], ready["versions"]

    def run(self) -> None:
        """One pass over the films."""
        self.seconds.append(self._ask("pass"))

    def end(self) -> int:
        """Ends the process; the most memory that it had, in bytes."""
        peak = self._ask("end")
        self._process.communicate()
        return peak

    def _ask(self, line: str) -> Any:
        assert self._process.stdin is not None
        print(line, file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        if line := self._process.stdout.readline():
            return json.loads(line)
        raise SystemExit(f"{self.name} ended with status {self._process.wait()}")


def interpreters(names: Sequence[str], tensorflow_python: str | None) -> dict[str, str]:
    """Those that can run here, and the Python of each; a line says which cannot.

    Raises:
        InputError: There is no such interpreter.
    """
    if tensorflow_python is not None and shutil.which(tensorflow_python) is None:
        raise InputError(f"--tensorflow-python: no interpreter {tensorflow_python}")
    found = {}
    for name in names:
        python, needs = sys.executable, PEERS.get(name)
        if needs == "tensorflow" and tensorflow_python is not None:
            python = tensorflow_python
        elif needs is not None and importlib.util.find_spec(needs) is None:
            print(f"{name}: {needs} is not installed, left out", flush=True)
            continue
        found[name] = python
    return found


def write_pictures(builder: Any, folder: Path) -> int:
    """Writes every film's PNG pair, in the order of the arrays; how many there are."""
    from jaxseg.data.stored import StoredImages

    stored = StoredImages(builder)
    for number in range(len(stored)):
        film, mask = stored.files(number)
        (folder / f"film-{number}.png").write_bytes(film)
        (folder / f"mask-{number}.png").write_bytes(mask)
    return len(stored)


def loaders(options: argparse.Namespace, folder: Path) -> bool:
    """Prints the table; whether all that should have read the same did."""
    from jaxseg.data.covid_radiography import prepare

    warnings.simplefilter("ignore")
    pythons = interpreters(options.contenders, options.tensorflow_python)
    data_dir, pictures = options.data_dir or folder / "data", folder / "pictures"
    builder = prepare(options.manual_dir, data_dir, options.data_config)
    pictures.mkdir()
    films = write_pictures(builder, pictures)
    shuffled = np.random.default_rng(0).permutation(films).tolist()
    order = [shuffled[i : i + options.batch] for i in range(0, films, options.batch)]
    task = Task(
        archive=str(options.manual_dir),
        config=options.data_config,
        data_dir=str(data_dir),
        pictures=str(pictures),
        order=order,
        size=options.size,
        workers=WORKERS,
    )
    contenders = []
    for name, python in pythons.items():
        contenders.append(Contender(name, python, task))
        print(f"{name}: ready", flush=True)
    for _ in range(options.repeats):
        for contender in contenders:
            contender.run()
    reference = [c for c in contenders if c.name == REFERENCE]
    rows = []
    for contender in contenders:
        rates = sorted(films / seconds for seconds in contender.seconds)
        ratio = None
        if reference:
            ratio = statistics.median(rates) * statistics.median(reference[0].seconds) / films
        rows.append(
            {
                "": contender.name,
                "films / s": statistics.median(rates),
                "slowest": rates[0],
                "fastest": rates[-1],
                "times the DataLoader's": ratio,
                "peak memory, MB": contender.end() / 1e6,
            }
        )
    formats = ("", ",.0f", ",.0f", ",.0f", ".2f", ",.0f")
    versions = {name: v for contender in contenders for name, v in contender.versions.items()}
    print("\n" + conditions(versions))
    print(f"{films} films of {options.size} x {options.size}, batches of {options.batch}, "
          f"{options.repeats} turns\n")  # fmt: skip
    print(record.table(rows, dict(zip(rows[0], formats, strict=True))))
    return agree([contender for contender in contenders if contender.read["films"]])


def agree(contenders: Sequence[Any]) -> bool:
    """Whether their films and labels are the same, and their images but for rounding."""
    ours = contenders[0].read
    for contender in contenders:
        theirs = contender.read
        if (theirs["films"], theirs["labels"]) != (ours["films"], ours["labels"]) or (
            abs(theirs["images"] / ours["images"] - 1) > 1e-3
        ):
            print(f"{contender.name} read {theirs}, not {ours}")
            return False
    return True


def conditions(versions: Mapping[str, str]) -> str:
    """Device, versions, load and date."""
    facts = record.conditions()
    versions = {"Python": facts["python"], "jax": facts["jax"], **versions}
    return (
        f"{facts['processor']}, {facts['cores']} cores, load {facts['load']:.1f}, "
        + ", ".join(f"{name} {version}" for name, version in versions.items())
        + f", {facts['date']}"
    )


def training(arguments: Sequence[str], folder: Path) -> None:
    """Trains by either path and prints the table."""
    rows = []
    for path in ("device", "stream"):
        run = RunDirectory(folder / path)
        train = [sys.executable, "-m", "experiments.train", *arguments, "--input-path", path]
        subprocess.run(
            [*train, "--data-dir", str(folder / "data"), "--workdir", str(run.path)], check=True
        )
        summary = run.read_summary() or {}
        rows.append(
            {
                "input path": path,
                "steps": len(run.read_steps()),
                "films / s": summary["images_per_second"],
                "seconds": summary["train_seconds"],
            }
        )
    print("\n" + conditions({}) + "\n")
    formats = ("", "d", ".1f", ".2f")
    print(record.table(rows, dict(zip(rows[0], formats, strict=True))))


def main() -> None:
    """Prints one of the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    what = parser.add_subparsers(dest="what", required=True)
    read = what.add_parser("loaders", help="films a second of each way to read them")
    read.add_argument("--manual-dir", type=Path, required=True, help="folder of the archive")
    read.add_argument("--data-config", default="all", help="which classes of films")
    read.add_argument("--data-dir", type=Path, help="where it is prepared; else it is, and removed")
    read.add_argument(
        "--contenders", nargs="+", default=list(CONTENDERS), choices=CONTENDERS, metavar="NAME",
        help="by default all: " + "; ".join(CONTENDERS),
    )  # fmt: skip
    read.add_argument("--size", type=int, default=256, help="side in pixels (default: 256)")
    read.add_argument("--batch", type=int, default=16, help="films a batch (default: 16)")
    read.add_argument("--repeats", type=int, default=5, help="turns of each (default: 5)")
    read.add_argument("--tensorflow-python", help="another interpreter, which has TensorFlow")
    what.add_parser("training", help="time outside compiled calls", add_help=False)
    options, more = parser.parse_known_args()
    if more and options.what == "loaders":
        parser.error(f"no option {more[0]}")
    with tempfile.TemporaryDirectory() as temporary:
        if options.what == "training":
            training(more, Path(temporary))
        elif not loaders(options, Path(temporary)):
            sys.exit(1)


if __name__ == "__main__":
    command.run(main)
