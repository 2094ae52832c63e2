"""Several seeds of one configuration, one after another, and their common summary."""

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from experiments import command, comparison, comparison_page
from experiments.configuration import Configuration
from experiments.run_directory import RunDirectory, write_json
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
    profile: Path | None = None,
) -> None:
    """Trains each seed in the directory ``seed-N``, and compares them.

    Args:
        train: ``experiments.train.train``.
        configuration: What to train; its seed is the first.
        workdir: Directory of all runs.
        mesh: The devices.
        seeds: How many.
        resume: Whether to continue what the directory holds.
        profile: Directory for a trace of the first seed that is trained now.

    Raises:
        InputError: A directory, the data or an option is invalid.
        Diverged: A seed diverged; all others were trained to their end.
        Preempted: SIGTERM came; the seed that was being trained is saved.
    """
    numbers = range(configuration.seed, configuration.seed + seeds)
    runs = [RunDirectory(workdir / f"seed-{seed}") for seed in numbers]
    configurations = [dataclasses.replace(configuration, seed=seed) for seed in numbers]
    is_trained = np.zeros(seeds, bool)
    # Process 0 looks before any process starts a run.
    with parallel.all_or_none("opening the runs"):
        if jax.process_index() == 0:
            _check_workdir(workdir, numbers)
            for i, (own, run) in enumerate(zip(configurations, runs, strict=True)):
                is_started = run.check_usable(own, resume=resume)
                # A run writes its report last.
                is_finished = run.read_summary() is not None and run.report.exists()
                is_trained[i] = is_started and is_finished
    is_trained = parallel.broadcast(is_trained)
    diverged: command.Diverged | None = None
    for own, run, skip in zip(configurations, runs, is_trained, strict=True):
        if skip:
            command.say(f"seed {own.seed} is already trained")
            continue
        command.say(f"seed {own.seed}:")
        try:
            train(own, run, mesh, resume=resume, profile=profile)
        except command.Diverged as error:
            command.say(f"seed {own.seed}: {error}")
            diverged = error.with_traceback(None)  # The traceback would keep the run's arrays.
        profile = None
    if diverged is not None:
        raise diverged
    if jax.process_index() == 0:
        write_json(workdir / "summary.json", comparison.over_seeds(runs))
        comparison_page.write(runs, workdir / "comparison.html")


def _check_workdir(workdir: Path, numbers: Iterable[int]) -> None:
    """Raises InputError if the directory is a single run's, or holds other seeds' scores."""
    if RunDirectory(workdir).config.exists():
        raise InputError(f"--workdir: {workdir} is the directory of a single seed; name another")
    there = (RunDirectory(workdir).read_summary() or {}).get("seeds")
    if there not in (None, list(numbers)):
        named = ", ".join(map(str, there))
        raise InputError(f"--workdir: {workdir} has the scores of seeds {named}; name another")
