"""Runs of one configuration with several random seeds, and their common summary."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import numpy as np
from jax.sharding import Mesh

from experiments import command, comparison, comparison_page, files
from experiments.command import say
from experiments.configuration import Configuration
from experiments.runs import RunDirectory
from jaxseg import parallel
from jaxseg.errors import InputError

if TYPE_CHECKING:
    from experiments.train import Output


def train_seeds(
    train: Callable[..., None],
    configuration: Configuration,
    workdir: Path,
    mesh: Mesh,
    *,
    output: "Output",
) -> None:
    """Trains each seed in the directory ``seed-N``, then compares them.

    Args:
        train: `experiments.train.train`.
        configuration: What to train. Its seed is the first.
        workdir: Directory of all runs.
        mesh: The devices.
        output: The number of seeds, and whether to resume.

    Raises:
        InputError: A directory, the data or an option is invalid.
        Diverged: A seed diverged; all others were trained to their end.
        Stopped: A signal came; the seed that was being trained is saved.
    """
    first = configuration.optimization.seed
    seeds = range(first, first + output.seeds)
    runs = [RunDirectory(workdir / f"seed-{seed}") for seed in seeds]
    configurations = [configuration.with_seed(seed) for seed in seeds]
    is_finished = np.zeros(len(seeds), bool)
    # Process 0 looks before any process starts a run.
    with parallel.all_or_none("opening the runs"):
        if jax.process_index() == 0:
            _check_workdir(workdir, seeds)
            for i, (configured, run) in enumerate(zip(configurations, runs, strict=True)):
                has_run = run.check_usable(configured, resume=output.resume)
                # A run writes its report last.
                is_finished[i] = has_run and run.read_summary() is not None and run.report.exists()
    is_finished = parallel.broadcast(is_finished)
    diverged: command.Diverged | None = None
    for seed, configured, run, skip in zip(seeds, configurations, runs, is_finished, strict=True):
        say(f"seed {seed} is already trained" if skip else f"seed {seed}:")
        if skip:
            continue
        try:
            train(configured, run, mesh, output=output)
        except command.Diverged as error:
            say(f"seed {seed}: {error}")
            diverged = error.with_traceback(None)  # The traceback would keep the run's arrays.
    if diverged is not None:
        raise diverged
    if jax.process_index() == 0:
        files.write_json(workdir / "summary.json", comparison.across_seeds(runs))
        comparison_page.write(runs, workdir / "comparison.html")


def _check_workdir(workdir: Path, seeds: Iterable[int]) -> None:
    """Raises InputError if the directory is a single run's, or has the scores of other seeds."""
    if RunDirectory(workdir).config.exists():
        raise InputError(f"--workdir: {workdir} is the directory of a single seed. Name another")
    others = (RunDirectory(workdir).read_summary() or {}).get("seeds")
    if others not in (None, list(seeds)):
        named = ", ".join(map(str, others))
        raise InputError(f"--workdir: {workdir} has the scores of seeds {named}. Name another")
