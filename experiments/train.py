"""Trains a U-Net, scores it on the test images and writes a report.

    python -m experiments.train [phantom|baseline|lungs|custom] [options]

Without arguments it trains on synthetic images, so that nothing is downloaded.
"""

import dataclasses
import functools
import math
import sys
import time
from collections.abc import Mapping
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import tyro
from jax.sharding import Mesh
from tyro.conf import OmitArgPrefixes, arg

from experiments import batches, command, report, scores, signals, tensorboard
from experiments.command import say
from experiments.configs import CONFIGURATIONS
from experiments.configuration import Configuration
from experiments.dataset import Dataset
from experiments.profiling import traced
from experiments.progress import Progress
from experiments.runs import RunDirectory, find_run, load_trained, open_run
from experiments.seeds import train_seeds
from experiments.tensorboard import TensorBoard
from jaxseg import metrics, parallel
from jaxseg.augment import make_augment
from jaxseg.checkpoint import Checkpoints
from jaxseg.errors import InputError
from jaxseg.inference import make_predict
from jaxseg.training import EvalStep, TrainState, evaluate, make_eval_step, make_train_step

CHECKPOINT_SECONDS, STEPS_BETWEEN_CLOCKS = 600.0, 20
"""A checkpoint is saved at least this often. Processes compare clocks every 20 steps."""


@dataclasses.dataclass(frozen=True)
class Output:
    """Where the run goes."""

    #: Run directory. Default: runs/NAME-DATE-TIME.
    workdir: Path | None = None
    #: Continue the run in --workdir, or start it if there is none.
    resume: bool = False
    #: Number of runs, with seeds SEED, SEED+1 and so on, one after another. Each has the directory
    #: WORKDIR/seed-N. WORKDIR/summary.json holds mean and standard deviation of the scores.
    seeds: int = 1
    #: Write scalars and example pictures to WORKDIR/tensorboard.
    tensorboard: bool = False
    #: Directory for a trace of steps 3 to 5 of each run, which TensorBoard and Perfetto open.
    profile: Path | None = None


@dataclasses.dataclass(frozen=True)
class Options:
    """The command line."""

    configuration: Annotated[Configuration, arg(name="")]
    devices: OmitArgPrefixes[command.Devices] = command.Devices()
    output: OmitArgPrefixes[Output] = Output()


def train(
    configuration: Configuration, run: RunDirectory, mesh: Mesh, *, output: Output = Output()
) -> None:
    """Trains, scores the test images and writes the report.

    Raises:
        InputError: The directory, the data or an option is invalid.
        Diverged: Too many updates in a row were not finite.
        Stopped: SIGTERM or Ctrl-C; the state is saved.
    """
    batches.check_batch_size(configuration.optimization, mesh)
    init = configuration.optimization.init
    pretrained = None if init is None else load_trained(find_run(Path(init))).state.variables()
    with run.locked(), parallel.Preemption() as preemption:
        images = open_run(configuration, run, resume=output.resume)
        say("images: {train} train, {validation} validation, {test} test".format(**images.counts()))
        inputs = batches.choose(configuration.data, images, mesh)
        state, progress = fit(
            configuration, images, inputs, run, mesh, preemption, output, pretrained=pretrained
        )
        report.write_results(
            configuration, images, state, progress, run, mesh, preemption, input_path=inputs.name
        )


def fit(
    configuration: Configuration,
    images: Dataset,
    inputs: batches.InputPath,
    run: RunDirectory,
    mesh: Mesh,
    preemption: parallel.Preemption,
    output: Output,
    *,
    pretrained: Mapping[str, Any] | None = None,
) -> tuple[TrainState, Progress]:
    """Trains to the last epoch and returns the best state by validation Dice, else the last.

    Raises:
        InputError: The pretrained variables do not fit the network.
    """
    optimization = configuration.optimization
    batch_size = batches.fitting_batch_size(optimization, len(images.train), mesh)
    steps_per_epoch = len(images.train) // batch_size
    steps = steps_per_epoch * optimization.epochs
    model, loss, tx = configuration.model(), configuration.loss(), configuration.optimizer(steps)
    train_step = make_train_step(
        model,
        tx,
        loss,
        augment=make_augment(configuration.augment),
        microbatches=optimization.microbatches,
        ema_decay=optimization.ema_decay,
    )
    train_step = traced(parallel.jit_step(train_step, mesh), output.profile)
    eval_step = parallel.jit_batched(make_eval_step(model, loss), mesh)
    try:
        state = parallel.replicate(configuration.state(tx, pretrained=pretrained), mesh)
    except ValueError as error:
        raise InputError(f"--init: {error}") from None
    progress, is_first = Progress(), jax.process_index() == 0
    board = TensorBoard(
        run.path / "tensorboard" if output.tensorboard and is_first else None,
        make_predict(model),
        images,
        configuration.data.class_names(),
    )

    with (
        Checkpoints(run.checkpoints, resume=True) as checkpoints,
        signals.deferred() as stop,
        closing(board),
    ):
        if (latest := checkpoints.latest_step()) is not None:
            state, saved = checkpoints.restore(state, latest)
            progress = Progress(**saved)
            say(f"resuming from step {latest} of {steps}")
        if is_first:
            run.keep_logs(up_to_step=progress.step)
        step, saved_at = progress.step, time.monotonic()
        if step < steps:
            say("compiling the train step")

        def record(step_metrics: Any) -> None:
            """Waits for a step, if there is one, and logs its metrics."""
            if step_metrics is None:
                return
            step_metrics = jax.device_get(step_metrics)
            progress.add(step_metrics)
            if is_first:
                run.log_step(progress.step, step_metrics)
            if progress.skipped_in_a_row >= optimization.skipped_in_a_row:
                raise command.Diverged(progress.divergence(checkpoints.latest_step()))
            bar.update()
            bar.set_postfix(loss=f"{progress.loss():.4f}")

        for epoch in range(step // steps_per_epoch, optimization.epochs):
            if progress.epochs_without_gain >= (optimization.patience or math.inf):
                say(f"no better validation Dice in {optimization.patience} epochs: stopping early")
                break
            done = step % steps_per_epoch
            order = batches.epoch_order(images.train, optimization.seed, epoch, batch_size)[done:]
            title = f"epoch {epoch + 1}/{optimization.epochs}"
            bar = command.progress_bar(title, steps_per_epoch, "step", done=done)
            progress.start_clock()
            previous = None
            with inputs.batches(order) as epoch_batches, bar:
                for batch in epoch_batches:
                    stopping = preemption.noticed() or stop.signal is not None
                    if stopping or checkpoint_is_due(saved_at, step):
                        record(previous)
                        previous = None
                        if step != checkpoints.latest_step():
                            checkpoints.save(state, dataclasses.asdict(progress))
                        saved_at = time.monotonic()
                    if stopping:
                        checkpoints.wait()
                        raise command.Stopped(stop.signal, f"saved step {step} of {steps}")
                    state, step_metrics = train_step(state, batch)
                    step += 1
                    # Now there is work to save. Several processes cannot agree on Ctrl-C.
                    stop.active = jax.process_count() == 1
                    # The device computes this step while the one before is recorded.
                    record(previous)
                    previous = step_metrics
                record(previous)

            row = {"step": step, "epoch": epoch + 1, "loss": progress.loss()}
            row |= validate(eval_step, state, images, batch_size, mesh) | progress.rates()
            if is_first:
                run.log_epoch(row)
            say(", ".join(f"{name} {scores.short(value)}" for name, value in row.items()))
            board.write(row, state)
            dice = row.get("validation_dice")
            progress.end_epoch(dice)
            checkpoints.save(state, dataclasses.asdict(progress), score=dice)
            saved_at = time.monotonic()

        checkpoints.wait()
        # Everything is saved: a signal may end the process at once.
        stop.active = False
        if stop.signal is not None:
            raise command.Stopped(stop.signal, f"saved step {step} of {steps}")
        if (best := checkpoints.best_step()) is not None:
            state, _ = checkpoints.restore(state, best)
    return state, progress


def validate(
    eval_step: EvalStep, state: TrainState, images: Dataset, batch_size: int, mesh: Mesh
) -> dict[str, float]:
    """Returns loss and mean Dice of the validation images, at the labels' size; {} without any."""
    if not len(images.validation):
        return {}
    padding = (0, -len(images.validation) % batch_size)
    order = np.pad(images.validation, padding, constant_values=-1).reshape(-1, batch_size)
    arrays = images.arrays.trained_on()
    padded = (parallel.take_batch(arrays, indices, mesh, padded=True) for indices in order)
    result = evaluate(eval_step, state, padded, gather=parallel.gather_to_host)
    per_class = np.asarray(metrics.dice(result.images.counts))
    dice = metrics.mean_over_classes(scores.foreground(per_class))
    # If a network gives NaN for some images, the mean of the others says nothing.
    is_nan = result.counts.outside.any()
    return {
        "validation_loss": result.loss,
        "validation_dice": math.nan if is_nan else scores.mean(np.asarray(dice)),
    }


def checkpoint_is_due(saved_at: float, step: int) -> bool:
    """Returns whether a checkpoint is due; the same answer in every process."""
    is_due = np.array(time.monotonic() - saved_at > CHECKPOINT_SECONDS)
    return step % STEPS_BETWEEN_CLOCKS == 0 and bool(parallel.broadcast(is_due))


def main() -> None:
    """Reads the command line and trains."""
    arguments, name = sys.argv[1:], "phantom"
    if arguments and not arguments[0].startswith("-"):
        name, *arguments = arguments
    if name not in CONFIGURATIONS:
        raise InputError(f"{name}: not a configuration. They are {', '.join(CONFIGURATIONS)}")
    options = tyro.cli(
        Options,
        args=arguments,
        prog=f"python -m experiments.train [{'|'.join(CONFIGURATIONS)}]",
        description=f"Train a U-Net with the configuration {name}.",
        default=Options(CONFIGURATIONS[name]),
    )
    output = options.output
    if output.seeds < 1:
        raise InputError(f"--seeds: must be at least 1, got {output.seeds}")
    if output.tensorboard:
        tensorboard.check_installed()
    mesh = options.devices.start()
    workdir = output.workdir
    if workdir is None:
        if output.resume:
            raise InputError("--resume: needs the --workdir of the run to resume")
        if jax.process_count() > 1:
            raise InputError("--workdir: several processes need one, on a disk that they share")
        workdir = Path("runs") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"
    say(f"run directory: {workdir}")
    if output.seeds == 1:
        train(options.configuration, RunDirectory(workdir), mesh, output=output)
    else:
        train_seeds(
            functools.partial(train, output=output),
            options.configuration,
            workdir,
            mesh,
            seeds=output.seeds,
            resume=output.resume,
        )


if __name__ == "__main__":
    command.run(main)
