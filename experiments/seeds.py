"""Several seeds of one configuration as one job, one after another."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from jax.sharding import Mesh

from experiments import command, comparison
from experiments.configuration import Configuration
from experiments.run_directory import RunDirectory, write_json
from jaxseg import parallel

Train = Callable[[Configuration, RunDirectory, Mesh, parallel.Preemption], None]
"""``train(configuration, run, mesh, preemption)`` trains one seed."""


def train_seeds(
    train: Train,
    configuration: Configuration,
    workdir: Path,
    mesh: Mesh,
    *,
    seeds: int,
    resume: bool,
) -> None:
    """Trains seeds from the configuration's own on, a run each in ``seed-N``, and compares them.

    Raises:
        InputError: A folder, the data or an option will not do.
        Diverged: A seed gave no finite numbers.
        Preempted: SIGTERM came; the seed that was being trained is saved.
    """
    runs, waiting = [], []
    for seed in range(configuration.seed, configuration.seed + seeds):
        own = dataclasses.replace(configuration, seed=seed)
        runs.append(RunDirectory(workdir / f"seed-{seed}"))
        if runs[-1].check_usable(own, resume=resume) and runs[-1].read_summary() is not None:
            command.say(f"seed {seed} is trained already")
        else:
            waiting.append((own, runs[-1]))

    with parallel.Preemption() as preemption:
        for own, run in waiting:
            command.say(f"seed {own.seed}: {run.path}")
            train(own, run, mesh, preemption)
    if parallel.is_lead():
        write_json(workdir / "summary.json", comparison.over_seeds(runs))
        comparison.write(runs, workdir / "comparison.html")
