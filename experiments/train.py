"""Trains a U-Net, scores it on the test images and writes a report.

    python -m experiments.train [phantom|baseline|lungs|custom] [options]

Without arguments it trains on synthetic images, so that nothing is downloaded.
"""

import dataclasses
import functools
import math
import sys
import time
from collections.abc import Iterator, Mapping
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
from experiments.examples import draw_predictions
from experiments.options import Optimization
from experiments.profiling import Trace
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

TENSORBOARD_IMAGES = 4
"""Validation images that are drawn for TensorBoard after every epoch."""


@dataclasses.dataclass(frozen=True)
class Output:
    """Where the run goes."""

    workdir: Path | None = None
    """Run directory. Default: runs/NAME-DATE-TIME."""
    resume: bool = False
    """Continue the run in --workdir, or start it if there is none."""
    seeds: int = 1
    """Number of runs, with seeds SEED, SEED+1 and so on, one after another. Each has the directory
    WORKDIR/seed-N. WORKDIR/summary.json holds mean and standard deviation of the scores."""
    tensorboard: bool = False
    """Write scalars and example pictures to WORKDIR/tensorboard."""
    profile: Path | None = None
    """Directory for a trace of three steps of each run, which TensorBoard and Perfetto open."""


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
    initial = initial_variables(configuration.optimization)
    with run.locked(), parallel.Preemption() as preemption:
        images = open_run(configuration, run, resume=output.resume)
        if configuration.optimization.patience and not len(images.validation):
            split = configuration.data.split
            raise InputError(f"--patience: the split {split} has no validation images")
        counts = images.counts()
        say("images: {train} train, {validation} validation, {test} test".format(**counts))
        inputs = batches.choose(configuration.data, images, mesh)
        state, progress = fit(
            configuration, images, inputs, run, mesh, preemption, output, initial=initial
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
    initial: Mapping[str, Any] | None = None,
) -> tuple[TrainState, Progress]:
    """Trains to the last epoch and returns the best state by validation Dice, else the last.

    Raises:
        InputError: The initial variables do not fit the network.
    """
    optimization = configuration.optimization
    batch_size = batches.fitting_batch_size(optimization, len(images.train), mesh)
    steps_per_epoch = len(images.train) // batch_size
    steps = steps_per_epoch * optimization.epochs
    model, loss, tx = configuration.model(), configuration.loss(), configuration.optimizer(steps)
    has_ema = optimization.ema_decay is not None
    key, image_spec = configuration.key(), configuration.image_spec()
    try:
        state = TrainState.create(model, tx, key, image_spec, ema=has_ema, pretrained=initial)
    except ValueError as error:
        raise InputError(f"--init: {error}") from None
    state = parallel.replicate(state, mesh)
    train_step = make_train_step(
        model,
        tx,
        loss,
        augment=make_augment(configuration.augment),
        microbatches=optimization.microbatches,
        ema_decay=optimization.ema_decay,
    )
    train_step = parallel.jit_step(train_step, mesh)
    eval_step = parallel.jit_batched(make_eval_step(model, loss), mesh)
    progress, predict, is_first = Progress(), make_predict(model), jax.process_index() == 0
    class_names = configuration.data.class_names()
    board_directory = run.path / "tensorboard" if output.tensorboard and is_first else None

    with (
        Checkpoints(run.checkpoints, resume=True) as checkpoints,
        signals.deferred() as stop,
        closing(Trace(output.profile)) as trace,
        closing(TensorBoard(board_directory)) as board,
    ):
        if (latest := checkpoints.latest_step()) is not None:
            state, saved = checkpoints.restore(state, latest)
            progress = Progress(**saved)
            say(f"resuming from step {latest} of {steps}")
        if is_first:
            run.keep_logs(up_to_step=progress.step)
        saved_at = time.monotonic()
        if progress.step < steps:
            say("compiling the train step")

        def record(step_metrics: Any) -> None:
            """Waits for a step and logs its metrics."""
            step_metrics = jax.device_get(step_metrics)
            progress.add(step_metrics)
            if is_first:
                run.log_step(progress.step, step_metrics)
            if progress.skipped_in_a_row >= optimization.skipped_in_a_row:
                raise command.Diverged(progress.divergence(checkpoints.latest_step()))
            # From here on there is work to save. Several processes cannot agree on Ctrl-C.
            stop.active = jax.process_count() == 1
            bar.update()
            bar.set_postfix(loss=f"{progress.loss():.4f}")

        for epoch in range(progress.step // steps_per_epoch, optimization.epochs):
            if progress.epochs_without_gain >= (optimization.patience or math.inf):
                say(f"no better validation Dice in {optimization.patience} epochs: stopping early")
                break
            done = progress.step % steps_per_epoch
            order = batches.epoch_order(images.train, optimization.seed, epoch, batch_size)[done:]
            title = f"epoch {epoch + 1}/{optimization.epochs}"
            bar = command.progress_bar(title, steps_per_epoch, "step", done=done)
            progress.start_clock()
            pending = None
            with inputs.batches(order) as epoch_batches, bar:
                for step, batch in enumerate(epoch_batches, epoch * steps_per_epoch + done):
                    stopping = preemption.noticed() or stop.signal is not None
                    if stopping or checkpoint_is_due(saved_at, step):
                        if pending is not None:
                            record(pending)
                            pending = None
                        if step != checkpoints.latest_step():
                            checkpoints.save(state, dataclasses.asdict(progress))
                        saved_at = time.monotonic()
                    if stopping:
                        checkpoints.wait()
                        raise command.Stopped(stop.signal, f"saved step {step} of {steps}")
                    with trace.step(step):
                        state, step_metrics = train_step(state, batch)
                        if trace.is_running:
                            jax.block_until_ready(step_metrics)
                    # The device computes this step while the one before is recorded.
                    if pending is not None:
                        record(pending)
                    pending = step_metrics
                if pending is not None:
                    record(pending)

            row = {"step": progress.step, "epoch": epoch + 1, "loss": progress.loss()}
            row |= validate(eval_step, state, images, batch_size, mesh)
            row |= {"skipped": progress.skipped, "train_seconds": progress.train_seconds}
            row |= {"images_per_second": progress.images_per_second()}
            if is_first:
                run.log_epoch(row)
            say(", ".join(f"{name} {scores.short(value)}" for name, value in row.items()))
            board.scalars(progress.step, row)
            if board.is_open and len(images.validation):
                shown = images.validation[:TENSORBOARD_IMAGES]
                captions = [images.arrays.ids[i] for i in shown]
                drawn = draw_predictions(
                    predict, state, images.arrays, shown, captions, names=class_names
                )
                board.picture(progress.step, "validation", drawn)
            progress.start_epoch()
            dice = row.get("validation_dice")
            progress.add_validation(dice)
            checkpoints.save(state, dataclasses.asdict(progress), score=dice)
            saved_at = time.monotonic()

        checkpoints.wait()
        # Everything is saved: a signal may end the process at once.
        stop.active = False
        if stop.signal is not None:
            raise command.Stopped(stop.signal, f"saved step {steps} of {steps}")
        if (best := checkpoints.best_step()) is not None:
            state, _ = checkpoints.restore(state, best)
    return state, progress


def initial_variables(optimization: Optimization) -> dict[str, Any] | None:
    """Returns the trained weights to start from, or None for random ones.

    Raises:
        InputError: There is no such run, or it has no checkpoint.
    """
    if optimization.init is None:
        return None
    return load_trained(find_run(Path(optimization.init))).state.variables()


def validate(
    eval_step: EvalStep, state: TrainState, images: Dataset, batch_size: int, mesh: Mesh
) -> dict[str, float]:
    """Returns loss and mean Dice of the validation images, at the labels' size; {} without any."""
    if not len(images.validation):
        return {}

    def padded_batches() -> Iterator[dict[str, jax.Array]]:
        arrays = images.arrays.trained_on()
        for start in range(0, len(images.validation), batch_size):
            indices = images.validation[start : start + batch_size]
            indices = np.pad(indices, (0, batch_size - len(indices)), constant_values=-1)
            yield parallel.take_batch(arrays, indices, mesh, padded=True)

    result = evaluate(eval_step, state, padded_batches(), gather=parallel.gather_to_host)
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
