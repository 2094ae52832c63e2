"""Several seeds of one configuration as one job: side by side where there are devices for it."""

import collections
import dataclasses
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
from jax.sharding import Mesh

from experiments import command, comparison
from experiments.configuration import Configuration
from experiments.run_directory import RunDirectory, write_json
from jaxseg import parallel

Train = Callable[[Configuration, RunDirectory, Mesh, parallel.Preemption], None]
"""``train(configuration, run, mesh, preemption)`` trains one seed."""


def device_groups(mesh: Mesh, seeds: int) -> list[Mesh]:
    """Parts the devices among the seeds so that all are trained soonest.

    A group trains one seed at a time, its steps taking as much longer as it has fewer devices. Of
    several processes' devices there is one group, all.

    Args:
        mesh: The devices.
        seeds: How many there are to train, 1 or more.

    Returns:
        Meshes of equal shape with no device in common, at most one for each seed.
    """
    if jax.process_count() > 1:
        return [mesh]
    rows = len(mesh.devices)
    count = min(
        range(1, min(seeds, rows) + 1),
        key=lambda groups: (math.ceil(seeds / groups) / (rows // groups), -groups),
    )
    return [
        Mesh(mesh.devices[group * (rows // count) : (group + 1) * (rows // count)], mesh.axis_names)
        for group in range(count)
    ]


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
        Diverged: A seed gave no finite numbers; the others were trained first.
        Preempted: SIGTERM came; all that were being trained are saved.
    """
    runs, waiting = [], collections.deque()
    for seed in range(configuration.seed, configuration.seed + seeds):
        own = dataclasses.replace(configuration, seed=seed)
        runs.append(RunDirectory(workdir / f"seed-{seed}"))
        if runs[-1].check_usable(own, resume=resume) and runs[-1].read_summary() is not None:
            command.say(f"seed {seed} is trained already")
        else:
            waiting.append((own, runs[-1]))

    def work(group: Mesh) -> None:
        while waiting and not preemption.noticed():
            own, run = waiting.popleft()
            with command.speaking_for(f"seed {own.seed}"):
                command.say(str(run.path))
                train(own, run, group, preemption)

    with parallel.Preemption() as preemption:
        groups = device_groups(mesh, len(waiting)) if waiting else []
        if len(groups) == 1:
            work(mesh)
        elif groups:
            command.say(f"{len(groups)} seeds side by side, {groups[0].size} devices each")
            with ThreadPoolExecutor(len(groups)) as threads:
                begun = [threads.submit(work, group) for group in groups]
                try:
                    for group in begun:
                        group.exception()
                except KeyboardInterrupt:
                    preemption.ask()
                    raise
            for group in begun:
                group.result()
    if waiting:
        raise command.Preempted(f"{len(waiting)} seeds are not begun")
    if parallel.is_lead():
        write_json(workdir / "summary.json", comparison.over_seeds(runs))
        comparison.write(runs, workdir / "comparison.html")
