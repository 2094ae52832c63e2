"""Trains a U-Net, scores it on the test images and writes a report.

    python -m experiments.train [phantom|seed|lungs|own] [options]

Without arguments it trains on synthetic images, so that nothing needs to be downloaded.
"""

import dataclasses
import math
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import tyro
from jax.sharding import Mesh
from tyro.conf import OmitArgPrefixes, arg

from experiments import command, input_path, opening, report, signals
from experiments.configuration import Configuration
from experiments.configurations import CONFIGURATIONS
from experiments.films import Films
from experiments.progress import Progress
from experiments.run_directory import RunDirectory, write_json
from experiments.scoring import draw_examples, foreground, score
from experiments.seeds import train_seeds
from experiments.tracing import Trace
from jaxseg import metrics, parallel
from jaxseg.augment import make_augment
from jaxseg.checkpoint import Checkpoints
from jaxseg.errors import InputError
from jaxseg.inference import make_predict
from jaxseg.training import EvalStep, TrainState, evaluate, make_eval_step, make_train_step

ONE_PROCESS = command.Devices()

CHECKPOINT_SECONDS = 600.0
"""A checkpoint is saved at least this often, and after every epoch."""

STEPS_BETWEEN_CLOCKS = 20
"""Several processes agree on the time once in this many steps."""


@dataclasses.dataclass(frozen=True)
class Options:
    """The command line."""

    configuration: Annotated[Configuration, arg(name="")]
    devices: Annotated[OmitArgPrefixes[command.Devices], arg(name="")] = ONE_PROCESS
    workdir: Path | None = None
    """Run directory; default: runs/NAME-DATE-TIME."""
    resume: bool = False
    """Continue the run in --workdir, or start it if there is none."""
    profile: Path | None = None
    """Directory for a trace of three steps, which TensorBoard and Perfetto open."""
    seeds: int = 1
    """Train this many seeds, starting at --seed, one after another. Each has its own directory in
    --workdir; summary.json there holds the mean and the standard deviation of the scores."""

    def __post_init__(self) -> None:
        """Raises InputError if there is no seed to train."""
        if self.seeds < 1:
            raise InputError("--seeds: must be at least 1")


def train(
    configuration: Configuration,
    run: RunDirectory,
    mesh: Mesh,
    *,
    resume: bool,
    profile: Path | None = None,
) -> None:
    """Trains, scores the test images and writes the report.

    Args:
        configuration: What to train.
        run: The run directory.
        mesh: The devices.
        resume: Whether to continue the run that the directory holds.
        profile: Directory for a trace of three steps.

    Raises:
        InputError: The directory, the data or an option is invalid.
        Diverged: Too many updates in a row were not finite.
        Preempted: SIGTERM came; the state was saved.
    """
    with opening.alone_in(run):
        _train(configuration, run, mesh, resume=resume, profile=profile)


def _train(
    configuration: Configuration,
    run: RunDirectory,
    mesh: Mesh,
    *,
    resume: bool,
    profile: Path | None,
) -> None:
    """Trains as `train` says, in a run directory that no other job uses."""
    images = opening.open_run(configuration, run, resume=resume)
    counts = [len(chosen) for chosen in (images.train, images.validation, images.test)]
    command.say("images: {} for training, {} for validation, {} for testing".format(*counts))
    batch_size = opening.check_batch_size(configuration, len(images.train), mesh)
    steps_per_epoch = len(images.train) // batch_size
    steps = steps_per_epoch * configuration.epochs
    model, tx = configuration.model(), configuration.optimizer(steps)
    ema = configuration.ema_decay is not None
    state = TrainState.create(model, tx, configuration.key(), images.arrays.images, ema=ema)
    state = parallel.replicate(state, mesh)
    train_step = make_train_step(
        model,
        tx,
        configuration.loss,
        augment=make_augment(configuration.augment),
        microbatches=configuration.microbatches,
        ema_decay=configuration.ema_decay,
    )
    train_step = parallel.jit_step(train_step, mesh)
    eval_step = parallel.jit_batched(make_eval_step(model, configuration.loss), mesh)
    inputs = input_path.choose(configuration, images, mesh)

    with (
        Checkpoints(run.checkpoints, resume=True) as checkpoints,
        parallel.Preemption() as preemption,
        signals.looked_at() as looking,
        closing(Trace(profile)) as trace,
    ):
        progress, done = Progress(), 0
        if (latest := checkpoints.latest_step()) is not None:
            state, saved = checkpoints.restore(state, latest)
            progress, done = Progress(**saved), latest
            command.say(f"resuming after step {latest} of {steps}")
        if jax.process_index() == 0:
            run.keep_logs(up_to_step=done)
        saved_at = time.monotonic()

        while done < steps:
            epoch, first = divmod(done, steps_per_epoch)
            order = epoch_order(images.train, configuration.seed, epoch, batch_size)[first:]
            title, running = f"epoch {epoch + 1}/{configuration.epochs}", None
            clock = time.perf_counter()
            with (
                inputs.batches(order) as batches,
                command.progress_bar(title, steps_per_epoch, "step", done=first) as bar,
            ):

                def finish(measured: Any) -> None:
                    """Waits for a step and records what it measured."""
                    nonlocal progress, clock
                    measured = jax.device_get(measured)
                    seconds, clock = time.perf_counter() - clock, time.perf_counter()
                    compiled = progress.step == (latest or 0)
                    progress = progress.add(measured, seconds, compiled=compiled)
                    if jax.process_index() == 0:
                        run.log_step(progress.step, measured)
                    if progress.skipped_in_a_row >= configuration.skipped_in_a_row:
                        raise command.Diverged(diverged(progress, checkpoints))
                    # From here on there is work to save. Several processes cannot agree on Ctrl-C.
                    looking.active = jax.process_count() == 1
                    bar.update()
                    bar.set_postfix(loss=f"{progress.loss():.4f}")

                for batch in batches:
                    stops = preemption.noticed() or looking.signal is not None
                    late = is_late(saved_at, done)
                    if running is not None and (late or stops):
                        finish(running)
                        running = None
                    if late or stops:
                        if done != checkpoints.latest_step():
                            checkpoints.save(state, dataclasses.asdict(progress))
                        saved_at = time.monotonic()
                    if stops:
                        checkpoints.wait()
                        raise stopped(looking, done, steps)
                    with trace.step(done):
                        state, measured = train_step(state, batch)
                        trace.wait_for(measured)
                    done += 1
                    # The device computes this step while the one before is recorded.
                    if running is not None:
                        finish(running)
                    running = measured
                if running is not None:
                    finish(running)
            row = {"step": done, "epoch": epoch + 1, "loss": progress.loss()}
            row |= validate(eval_step, state, images, batch_size, mesh)
            row |= {"skipped": progress.skipped, "images_per_second": progress.images_per_second()}
            row |= {"train_seconds": progress.train_seconds}
            if jax.process_index() == 0:
                run.log(row)
            scores = {name: value for name, value in row.items() if name != "epoch"}
            said = ", ".join(f"{name} {_short(value)}" for name, value in scores.items())
            command.say(f"epoch {epoch + 1} of {configuration.epochs}, {said}")
            progress = progress.next_epoch()
            checkpoints.save(state, dataclasses.asdict(progress), score=row.get("validation_dice"))
            saved_at = time.monotonic()

        checkpoints.wait()
        # Everything is saved: a signal may end the process at once.
        looking.active = False
        if looking.signal is not None:
            raise stopped(looking, done, steps)
        if (best := checkpoints.best_step()) is not None:
            state, _ = checkpoints.restore(state, best)
        scores = score(
            make_predict(model),
            state,
            images.arrays,
            images.test,
            mesh,
            rows=parallel.padded_size(batch_size, mesh),
            class_names=tuple(configuration.mask_values()),
            stop=preemption,
        )
    if jax.process_index() != 0:
        return
    scores.table().write(run.test_scores)
    write_json(
        run.summary,
        {
            "configuration": configuration.name,
            "test": scores.summary(),
            "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
            "train_seconds": progress.train_seconds,
            "images_per_second": progress.images_per_second(),
            "skipped": progress.skipped,
            "films": dict(zip(("train", "validation", "test"), counts, strict=True)),
            "checkpoint_step": int(state.step),
            "input_path": inputs.name,
            "devices": mesh.size,
            "processes": jax.process_count(),
            **report.machine(),
        },
    )
    draw_examples(run.examples, make_predict(model), state, images.arrays, images.test, scores)
    report.write(run)


def stopped(looking: signals.Looking, done: int, steps: int) -> Exception:
    """Returns the exception that ends the command after a signal."""
    kind = command.Interrupted if looking.signal == signal.SIGINT else command.Preempted
    return kind(f"saved step {done} of {steps}; add --resume to continue")


def is_late(saved_at: float, done: int) -> bool:
    """Whether a checkpoint is due; the same answer in every process."""
    if done % STEPS_BETWEEN_CLOCKS:
        return False
    late = time.monotonic() - saved_at > CHECKPOINT_SECONDS
    return bool(parallel.broadcast(np.array(late)))


def diverged(progress: Progress, checkpoints: Checkpoints) -> str:
    """Says why training cannot continue."""
    latest = checkpoints.latest_step()
    kept = "no checkpoint was saved yet" if latest is None else f"step {latest} is kept"
    return (
        f"step {progress.step}: the loss or a gradient was not finite {progress.skipped_in_a_row} "
        f"times in a row; {kept}. Try a lower --learning-rate or a --clip-norm in a new --workdir"
    )


def epoch_order(images: np.ndarray, seed: int, epoch: int, batch_size: int) -> np.ndarray:
    """Shuffles the training images, from the seed and the epoch's number alone.

    Returns:
        int32 ``[steps, batch_size]``. Images of the last partial batch are left out of the epoch.
    """
    shuffled = np.random.default_rng([seed, epoch]).permutation(images).astype(np.int32)
    steps = len(shuffled) // batch_size
    return shuffled[: steps * batch_size].reshape(steps, batch_size)


def validate(
    eval_step: EvalStep, state: TrainState, images: Films, batch_size: int, mesh: Mesh
) -> dict[str, float]:
    """Returns loss and Dice over the validation images, at the labels' size; {} without any."""
    if not len(images.validation):
        return {}

    def batches() -> Iterator[dict[str, jax.Array]]:
        arrays = images.arrays.trained_on()
        for start in range(0, len(images.validation), batch_size):
            indices = images.validation[start : start + batch_size]
            indices = np.pad(indices, (0, batch_size - len(indices)), constant_values=-1)
            yield parallel.take_batch(arrays, indices, mesh, padded=True)

    result = evaluate(eval_step, state, batches(), gather=parallel.gather_to_host)
    dice = metrics.mean_over_classes(foreground(np.asarray(metrics.dice(result.images.counts))))
    return {
        "validation_loss": result.loss,
        # If a network gives NaN for some images, the mean of the others says nothing.
        "validation_dice": math.nan
        if result.counts.outside.any()
        else float(metrics.mean_over_images(dice).mean),
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
        description=f"Trains a U-Net with the configuration {name}.",
        default=Options(CONFIGURATIONS[name]),
    )
    mesh = options.devices.start()
    workdir = options.workdir
    if workdir is None:
        if options.resume:
            raise InputError("--resume: needs the --workdir of the run to resume")
        if jax.process_count() > 1:
            raise InputError("--workdir: several processes need one, on a disk that they share")
        workdir = Path("runs") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"
    command.say(f"run directory: {workdir}")
    settings = {"resume": options.resume, "profile": options.profile}
    if options.seeds == 1:
        train(options.configuration, RunDirectory(workdir), mesh, **settings)
    else:
        train_seeds(train, options.configuration, workdir, mesh, seeds=options.seeds, **settings)


if __name__ == "__main__":
    command.run(main)
