"""Trains a U-Net on chest films, scores it on unseen ones and writes a report.

    python -m experiments.train [phantom|seed|lungs|own] [options]

With no argument films are drawn, so that nothing need be downloaded.
"""

import dataclasses
import math
import sys
import time
from collections.abc import Callable, Generator
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import tyro
from jax.sharding import Mesh
from tyro.conf import OmitArgPrefixes, arg

from experiments import command, input_path, opening, report
from experiments.configuration import Configuration
from experiments.configurations import CONFIGURATIONS
from experiments.films import Films
from experiments.progress import Progress, StepsPerCall
from experiments.run_directory import RunDirectory, write_json
from experiments.scoring import draw_examples, foreground, mean_over_classes, score
from experiments.seeds import Turns, in_turns, train_seeds
from experiments.tracing import Trace
from jaxseg import metrics, parallel
from jaxseg.augment import make_augment
from jaxseg.checkpoint import Checkpoints
from jaxseg.inference import make_predict
from jaxseg.training import TrainState, make_eval_step, make_train_step
from jaxseg.types import InputError

ONE_PROCESS = command.Devices()

CHECKPOINT_SECONDS = 600.0
"""Besides one after every epoch, a checkpoint is saved this often."""


@dataclasses.dataclass(frozen=True)
class Options:
    """The command line."""

    configuration: Annotated[Configuration, arg(name="")]
    devices: Annotated[OmitArgPrefixes[command.Devices], arg(name="")] = ONE_PROCESS
    workdir: Path | None = None
    """The run's folder; runs/NAME-DATE-TIME unless given."""
    resume: bool = False
    """Go on in --workdir where a run stopped there; start one where there is none."""
    profile: Path | None = None
    """Folder for a trace of a few steps, which TensorBoard and Perfetto open."""
    seeds: int = 1
    """Train so many seeds from --seed on, side by side where there are devices for it, each in a
    folder of its own within --workdir, where summary.json then has the scores' mean and spread."""

    def __post_init__(self) -> None:
        """Raises InputError where there is no seed to train."""
        if self.seeds < 1:
            raise InputError("--seeds: must be at least 1")


def train(
    configuration: Configuration,
    run: RunDirectory,
    mesh: Mesh,
    preemption: parallel.Preemption,
    *,
    resume: bool,
    profile: Path | None = None,
) -> Turns:
    """Trains, scores the test films and writes the report.

    Args:
        configuration: What to train.
        run: Where it is kept.
        mesh: The devices.
        preemption: Says when to save and end.
        resume: Whether to go on with what lies there.
        profile: Folder for a trace of a few steps.

    Yields:
        Nothing, whenever its devices are at work and it would wait for them: time to give other
        devices other seeds' work.

    Raises:
        InputError: The folder, the data or an option will not do.
        Diverged: Too many updates in a row were not finite.
        Preempted: SIGTERM came; the state was saved.
    """
    trace = Trace(profile)
    films = opening.open_run(configuration, run, resume=resume)
    counts = [len(chosen) for chosen in (films.train, films.validation, films.test)]
    command.say("films: {} to learn from, {} to choose the epoch by, {} to test on".format(*counts))
    rows = opening.check_rows(configuration, mesh)
    model = configuration.model()
    steps_per_epoch = math.ceil(len(films.train) / configuration.batch_size)
    steps = steps_per_epoch * configuration.epochs
    tx = configuration.optimizer(steps)
    key = jax.random.key(configuration.seed)
    averaged = configuration.ema_decay is not None
    state = TrainState.create(model, tx, key, films.arrays.images, ema=averaged)
    state = parallel.replicate(state, mesh)
    step = make_train_step(
        model,
        tx,
        configuration.loss,
        augment=make_augment(configuration.augment),
        microbatches=configuration.microbatches,
        unroll=parallel.unrolls(mesh),
        ema_decay=configuration.ema_decay,
    )
    inputs = input_path.choose(configuration, films, step, mesh)
    evaluate = parallel.jit_rows(make_eval_step(model, configuration.loss), mesh)

    alone = opening.alone_in(run)
    with alone, Checkpoints(run.checkpoints) as checkpoints, preemption, closing(trace):
        progress = Progress()
        if (latest := checkpoints.latest_step()) is not None:
            state, saved = checkpoints.restore(state, latest)
            progress = Progress(**saved)
            command.say(f"going on after step {latest} of {steps}")
        if parallel.is_lead():
            run.keep_logs(up_to_step=int(state.step))
        # Where loops are unrolled a program of many steps is no faster than the steps.
        calls = StepsPerCall(1 if parallel.unrolls(mesh) else None)
        saved_at = time.monotonic()

        while int(state.step) < steps:
            epoch, first = divmod(int(state.step), steps_per_epoch)
            order = epoch_order(films.train, configuration, epoch, rows)
            title = f"epoch {epoch + 1}/{configuration.epochs}"
            with (
                inputs.epoch(order, first) as take_steps,
                command.progress_bar(title, len(films.train), done=progress.epoch_images) as bar,
            ):
                while first < steps_per_epoch:
                    turn_began = time.perf_counter()
                    late = time.monotonic() - saved_at > CHECKPOINT_SECONDS
                    planned = np.array([calls.steps, late], np.int32)
                    steps_now, late = map(int, parallel.from_lead(planned, mesh))
                    preempted = preemption.noticed()
                    if late or preempted:
                        if int(state.step) != checkpoints.latest_step():
                            checkpoints.save(state, dataclasses.asdict(progress))
                        saved_at = time.monotonic()
                    if preempted:
                        checkpoints.wait()
                        raise command.Preempted(f"saved step {int(state.step)} of {steps}")
                    count = min(steps_now, steps_per_epoch - first)
                    with trace.call(int(state.step), count):
                        began = time.perf_counter()
                        state, at_work = take_steps(state, count)
                        yield
                        measured = at_work()
                        seconds = time.perf_counter() - began
                    progress = progress.add(measured, seconds, timed=calls.record(count, seconds))
                    if parallel.is_lead():
                        run.log_steps(int(state.step), measured)
                    if progress.most_skipped_in_a_row >= configuration.skipped_in_a_row:
                        raise command.Diverged(diverged(progress, state, checkpoints))
                    first += count
                    bar.update(int(measured["images"].sum()))
                    bar.set_postfix(loss=f"{progress.loss():.4f}")
                    progress = progress.between_calls(time.perf_counter() - turn_began - seconds)
            row = {"step": int(state.step), "epoch": epoch + 1, "loss": progress.loss()}
            row |= yield from validate(evaluate, state, films, mesh, rows=rows)
            row |= {"skipped": progress.skipped, "images_per_second": progress.images_per_second()}
            row |= {"train_seconds": progress.train_seconds}
            if parallel.is_lead():
                run.log(row)
            told = {name: value for name, value in row.items() if name != "epoch"}
            said = ", ".join(f"{name} {_short(value)}" for name, value in told.items())
            command.say(f"epoch {epoch + 1} of {configuration.epochs}, {said}")
            progress = progress.next_epoch()
            checkpoints.save(state, dataclasses.asdict(progress), score=row.get("validation_dice"))
            saved_at = time.monotonic()

        checkpoints.wait()
        if (best := checkpoints.best_step()) is not None:
            state, _ = checkpoints.restore(state, best)
        by_rows = mesh
        if mesh.shape[parallel.SPATIAL] > 1:
            # Masks have heights of their own, which the shards may not divide.
            by_rows = parallel.make_mesh(list(mesh.devices.flat))
            state = parallel.replicate(state, by_rows)
        scores = score(
            make_predict(model),
            state,
            films.arrays,
            films.test,
            by_rows,
            rows=parallel.rows_for(configuration.batch_size, by_rows),
            class_names=tuple(configuration.mask_values()),
            stop=preemption,
        )
    if not parallel.is_lead():
        return
    scores.table().write(run.test_scores)
    write_json(
        run.summary,
        {
            "configuration": configuration.name,
            "test": scores.summary(),
            "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
            "train_seconds": progress.train_seconds,
            "seconds_between_calls": progress.seconds_between_calls,
            "images_per_second": progress.images_per_second(),
            "skipped": progress.skipped,
            "films": {name: len(getattr(films, name)) for name in ("train", "validation", "test")},
            "checkpoint_step": int(state.step),
            "input_path": inputs.name,
            "mesh": dict(mesh.shape),
            "processes": jax.process_count(),
            **report.machine(),
        },
    )
    draw_examples(run.examples, make_predict(model), state, films.arrays, films.test, scores)
    report.write(run)


def diverged(progress: Progress, state: TrainState, checkpoints: Checkpoints) -> str:
    """What to tell when training cannot go on."""
    latest = checkpoints.latest_step()
    kept = "no checkpoint was saved yet" if latest is None else f"step {latest} is kept"
    return (
        f"step {int(state.step)}: loss or gradient was not finite {progress.most_skipped_in_a_row} "
        f"times in a row; {kept}. A lower --learning-rate or --clip-norm may help, "
        "in a new --workdir"
    )


def epoch_order(
    train_films: np.ndarray, configuration: Configuration, epoch: int, rows: int
) -> np.ndarray:
    """The films of every step of an epoch, from the seed and the epoch's number alone.

    Returns:
        int32 ``[steps, rows]``; -1 pads the last batch, and every batch where the devices need
        more rows than it has films.
    """
    shuffled = np.random.default_rng([configuration.seed, epoch]).permutation(train_films)
    batch_size = configuration.batch_size
    order = np.full((math.ceil(len(shuffled) / batch_size), rows), -1, np.int32)
    for step, batch in enumerate(order):
        taken = shuffled[step * batch_size : (step + 1) * batch_size]
        batch[: len(taken)] = taken
    return order


def validate(
    evaluate: Callable[..., Any], state: TrainState, films: Films, mesh: Mesh, *, rows: int
) -> Generator[None, None, dict[str, float]]:
    """Mean loss and Dice over the validation films, at the labels' size; nothing without any.

    Yields as `train` does.
    """
    if not len(films.validation):
        return {}
    losses, dice, outside = [], [], 0
    on_host = {"images": films.arrays.images, "labels": films.arrays.labels}
    for start in range(0, len(films.validation), rows):
        indices = films.validation[start : start + rows]
        padded = np.pad(indices, (0, rows - len(indices)), constant_values=-1)
        batch = parallel.take_batch(on_host, padded, mesh)
        at_work = evaluate(state, batch)
        yield
        result = parallel.to_host(at_work)
        losses.append(result.loss[: len(indices)])
        values = foreground(np.asarray(metrics.dice(result.counts)))[: len(indices)]
        dice.append(mean_over_classes(values))
        outside += int(result.counts.outside[: len(indices)].sum())
    mean_dice = float(metrics.mean_over_images(np.concatenate(dice)).mean)
    return {
        "validation_loss": float(np.concatenate(losses).mean(dtype=np.float64)),
        # Of a network that gives NaN for some films the others' mean says nothing.
        "validation_dice": math.nan if outside else mean_dice,
    }


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)


def main() -> None:
    """Reads the command line and trains."""
    arguments = sys.argv[1:]
    name = "phantom"
    if arguments and not arguments[0].startswith("-"):
        name, *arguments = arguments
    if name not in CONFIGURATIONS:
        raise InputError(f"{name}: no such configuration; there are {', '.join(CONFIGURATIONS)}")
    options = tyro.cli(
        Options,
        args=arguments,
        prog=f"python -m experiments.train [{'|'.join(CONFIGURATIONS)}]",
        description=f"Trains a U-Net on chest films, by the configuration {name}.",
        default=Options(CONFIGURATIONS[name]),
    )
    mesh = options.devices.start()
    workdir = options.workdir
    if workdir is None:
        if options.resume:
            raise InputError("--resume: name the run to go on with by --workdir")
        if jax.process_count() > 1:
            raise InputError("--workdir: several processes need it, on a disk that they share")
        workdir = Path("runs") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"
    command.say(f"run directory: {workdir}")
    how = {"resume": options.resume, "profile": options.profile}
    if options.seeds == 1:
        run, preemption = RunDirectory(workdir), parallel.Preemption()
        in_turns([train(options.configuration, run, mesh, preemption, **how)])
    else:
        train_seeds(train, options.configuration, workdir, mesh, seeds=options.seeds, **how)


if __name__ == "__main__":
    command.run(main)
