"""The same training in one process and in two: same films, same losses, each test film once.

    python -m benchmarks.two_processes [seed|lungs] --manual-dir DIR --adam-epsilon 1e-4
        [--steps 20] [train's options]

One process with one device, then two with four devices each. Prints how far the losses of the first
steps lie apart, and the Dice of both. Exit status 1 where films differ or are counted twice, or a
loss differs by more than 1e-4 of itself, as it does with Adam's own epsilon: that makes whole steps
of gradients that are rounding alone.
"""

import argparse
import csv
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.survival import end, start, start_two
from experiments.run_directory import RunDirectory

TOLERANCE = 1e-4


def test_films(run: RunDirectory) -> list[str]:
    """The films that were scored, sorted."""
    with run.test_scores.open() as file:
        return sorted(row["id"] for row in csv.DictReader(file))


def main() -> None:
    """Trains twice and compares."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("configuration", nargs="?", default="seed", choices=("seed", "lungs"))
    parser.add_argument("--manual-dir", type=Path, required=True, help="folder of the archive")
    parser.add_argument("--steps", type=int, default=20, help="how many losses are compared")
    options, more = parser.parse_known_args()
    command = [options.configuration, "--manual-dir", str(options.manual_dir.resolve()), *more]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        command += ["--data-dir", str(folder / "data")]
        one, two = (RunDirectory(folder / name) for name in ("one", "two"))
        end(start(command, one.path))
        end(*start_two(command, two.path))
        rows = [run.read_steps() for run in (one, two)]
        losses = np.array([[row["loss"] for row in run[: options.steps]] for run in rows])
        apart = float(np.abs(losses[0] / losses[1] - 1).max())
        images = [[row["images"] for row in run] for run in rows]
        films = [test_films(run) for run in (one, two)]
        once = films[0] == films[1] and len(set(films[1])) == len(films[1])
        print(f"steps: {len(images[0])} and {len(images[1])}, films a step equal: ", end="")
        print(images[0] == images[1])
        print(f"first {losses.shape[1]} losses: at most {apart:.1e} of themselves apart")
        print(f"test films: {len(films[0])} and {len(films[1])}, the same and each once: {once}")
        for name, run in (("one process", one), ("two processes", two)):
            summary = run.read_summary() or {}
            low, high = summary["test"]["dice_ci95"]
            print(
                f"{name}: mesh {summary['mesh']}, Dice {summary['test']['dice_mean']:.4f} "
                f"(95 % {low:.4f} to {high:.4f})"
            )
    sys.exit(0 if once and images[0] == images[1] and apart < TOLERANCE else 1)


if __name__ == "__main__":
    main()
