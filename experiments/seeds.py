"""Several seeds of one configuration as one job, one after another."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from jax.sharding import Mesh

from experiments import command, comparison
from experiments.configuration import Configuration
from experiments.run_directory import RunDirectory, write_json
from jaxseg import parallel


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
    """Trains seeds from the configuration's own on, a run each in ``seed-N``, and compares them.

    Args:
        train: ``experiments.train.train``, which raises what this raises.
        configuration: What to train.
        workdir: The job's folder.
        mesh: The devices.
        seeds: How many.
        resume: Whether to go on with what lies there.
        profile: Folder for a trace of the first seed that is trained now.
    """
    runs = []
    for seed in range(configuration.seed, configuration.seed + seeds):
        own = dataclasses.replace(configuration, seed=seed)
        runs.append(RunDirectory(workdir / f"seed-{seed}"))
        if runs[-1].check_usable(own, resume=resume) and runs[-1].read_summary() is not None:
            command.say(f"seed {seed} is trained already")
            continue
        command.say(f"seed {seed}: {runs[-1].path}")
        train(own, runs[-1], mesh, resume=resume, profile=profile)
        # A process can write one trace.
        profile = None
    if parallel.is_lead():
        write_json(workdir / "summary.json", comparison.over_seeds(runs))
        comparison.write(runs, workdir / "comparison.html")
