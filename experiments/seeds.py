"""Runs of one configuration with several random seeds, and their common summary."""

from collections.abc import Callable, Iterable
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from experiments import command, comparison, comparison_table, files
from experiments.command import say
from experiments.configuration import Configuration
from experiments.runs import RunDirectory
from jaxseg import parallel
from jaxseg.errors import InputError


def train_seeds(
    train: Callable[..., None],
    configuration: Configuration,
    workdir: Path,
    mesh: Mesh,
    *,
    seeds: int,
    resume: bool,
) -> None:
    """Trains each seed in the directory ``seed-N``, then compares them.

    Args:
        train: ``train(configuration, run, mesh)``.
        configuration: What to train. Its seed is the first.
        workdir: Directory of all runs.
        mesh: The devices.
        seeds: The number of seeds.
        resume: Whether to continue what the directory holds.

    Raises:
        InputError: A directory, the data or an option is invalid.
        Diverged: A seed diverged; all others were trained to their end.
        Stopped: A signal came; the seed that was being trained is saved.
    """
    first = configuration.optimization.seed
    runs = {seed: RunDirectory(workdir / f"seed-{seed}") for seed in range(first, first + seeds)}
    is_finished = np.zeros(seeds, bool)
    # Process 0 looks before any process starts a run.
    with parallel.all_or_none("opening the runs"):
        if jax.process_index() == 0:
            _check_workdir(workdir, runs)
            for i, (seed, run) in enumerate(runs.items()):
                has_run = run.check_usable(configuration.with_seed(seed), resume=resume)
                # A run writes its report last.
                is_finished[i] = has_run and run.read_summary() is not None and run.report.exists()
    is_finished = parallel.broadcast(is_finished)
    diverged: command.Diverged | None = None
    for (seed, run), skip in zip(runs.items(), is_finished, strict=True):
        say(f"seed {seed} is already trained" if skip else f"seed {seed}:")
        if skip:
            continue
        try:
            train(configuration.with_seed(seed), run, mesh)
        except command.Diverged as error:
            say(f"seed {seed}: {error}")
            diverged = error.with_traceback(None)  # The traceback would keep the run's arrays.
    if diverged is not None:
        raise diverged
    if jax.process_index() == 0:
        files.write_json(workdir / "summary.json", comparison.across_seeds(list(runs.values())))
        comparison_table.show(list(runs.values()))


def _check_workdir(workdir: Path, seeds: Iterable[int]) -> None:
    """Raises InputError if the directory is a single run's, or has the scores of other seeds."""
    if RunDirectory(workdir).config.exists():
        raise InputError(f"--workdir: {workdir} is the directory of a single seed. Name another")
    others = (RunDirectory(workdir).read_summary() or {}).get("seeds")
    if others not in (None, list(seeds)):
        named = ", ".join(map(str, others))
        raise InputError(f"--workdir: {workdir} has the scores of seeds {named}. Name another")
