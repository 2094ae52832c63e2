"""Several seeds of one configuration as one job: side by side where there are devices for it."""

import collections
import dataclasses
import itertools
import math
from collections.abc import Callable, Generator, Iterable
from pathlib import Path

import numpy as np
from jax.sharding import Mesh

from experiments import command, comparison, comparison_page
from experiments.configuration import Configuration
from experiments.run_directory import RunDirectory, write_json
from jaxseg import parallel
from jaxseg.types import InputError

Turns = Generator[None, None, None]
"""Work that yields whenever it would wait for its devices."""


def train_seeds(
    train: Callable[..., Turns],
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
        train: ``experiments.train.train``.
        configuration: What to train.
        workdir: The job's folder.
        mesh: The devices.
        seeds: How many.
        resume: Whether to go on with what lies there.
        profile: Folder for a trace of the first seed that is trained now.

    Raises:
        InputError: A folder, the data or an option will not do.
        Diverged: A seed gave no finite numbers; all others were trained to their end.
        Preempted: SIGTERM came; all that were being trained are saved.
    """
    numbers = range(configuration.seed, configuration.seed + seeds)
    runs = [RunDirectory(workdir / f"seed-{seed}") for seed in numbers]
    each = [dataclasses.replace(configuration, seed=seed) for seed in numbers]
    trained = np.zeros(seeds, bool)
    # One process looks, before any of them begins a run.
    with parallel.together("opening the runs"):
        if parallel.is_lead():
            _check_workdir(workdir, numbers)
            for place, (own, run) in enumerate(zip(each, runs, strict=True)):
                goes_on = run.check_usable(own, resume=resume)
                # The report is what a run writes last.
                finished = run.read_summary() is not None and run.report.exists()
                trained[place] = goes_on and finished
    trained = parallel.from_lead(trained, mesh)
    for seed in itertools.compress(numbers, trained):
        command.say(f"seed {seed} is trained already")
    waiting = collections.deque(itertools.compress(zip(each, runs, strict=True), ~trained))

    def one_after_another(group: Mesh) -> Turns:
        nonlocal profile
        diverged: command.Diverged | None = None
        while waiting and not preemption.noticed():
            own, run = waiting.popleft()
            # A process can write one trace.
            traced, profile = profile, None
            training = train(own, run, group, preemption, resume=resume, profile=traced)
            try:
                yield from _named(f"seed {own.seed}", training)
            except command.Diverged as error:
                command.say(f"seed {own.seed}: {error}")
                # Without what the run held on the devices.
                diverged = error.with_traceback(None)
        if diverged is not None:
            raise diverged

    preemption = parallel.Preemption()
    groups = parallel.split(mesh, best_count(len(waiting), parallel.most_parts(mesh)))
    if len(groups) > 1:
        command.say(f"{len(groups)} seeds side by side, {groups[0].size} devices each")
    try:
        in_turns(map(one_after_another, groups))
    except command.Diverged:
        if not waiting:
            raise
    if waiting:
        raise command.Preempted(f"{len(waiting)} seeds are not begun")
    if parallel.is_lead():
        write_json(workdir / "summary.json", comparison.over_seeds(runs))
        comparison_page.write(runs, workdir / "comparison.html")


def _check_workdir(workdir: Path, numbers: Iterable[int]) -> None:
    """Raises InputError where the folder is a single run's, or has other seeds' scores."""
    if RunDirectory(workdir).config.exists():
        raise InputError(f"--workdir: {workdir} is the folder of one seed; name another")
    there = (RunDirectory(workdir).read_summary() or {}).get("seeds")
    if there not in (None, list(numbers)):
        named = ", ".join(map(str, there))
        raise InputError(f"--workdir: {workdir} has the scores of seeds {named}; name another")


def in_turns(trainings: Iterable[Turns]) -> None:
    """Goes on with each until it waits for its devices, then with the next, until all have ended.

    Raises:
        Preempted: One was; so were the others, at their next turn.
        Diverged: One did and none was preempted; the others have ended as they should.
    """
    going, ended_early = collections.deque(trainings), []
    try:
        while going:
            try:
                next(going[0])
            except StopIteration:
                going.popleft()
            except (command.Preempted, command.Diverged) as error:
                ended_early.append(error)
                going.popleft()
            else:
                going.rotate(-1)
    finally:
        for training in going:
            training.close()
    if ended_early:
        # What was preempted can go on.
        raise next((e for e in ended_early if isinstance(e, command.Preempted)), ended_early[0])


def best_count(seeds: int, most: int) -> int:
    """Into how many groups to part the devices so that all seeds are trained soonest.

    A group trains one seed at a time, its steps taking as much longer as it has fewer devices.

    Args:
        seeds: How many there are to train.
        most: Devices, or groups of devices that share a film's height, that there are.
    """
    counts = range(1, max(1, min(seeds, most)) + 1)
    return min(counts, key=lambda count: (math.ceil(seeds / count) / (most // count), -count))


def _named(name: str, training: Turns) -> Turns:
    """The same training, its lines beginning with a name."""
    while True:
        with command.speaking_for(name):
            try:
                next(training)
            except StopIteration:
                return
        yield
