"""Trains a U-Net on chest films, scores it on unseen ones and writes a report.

    python -m experiments.train [phantom|seed|lungs] [options]

With no argument films are drawn, so that nothing need be downloaded.
"""

import dataclasses
import math
import sys
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import tyro
from jax.sharding import Mesh
from tyro.conf import OmitArgPrefixes, arg

from experiments import command, report
from experiments.configuration import Configuration
from experiments.configurations import CONFIGURATIONS
from experiments.films import Films, load
from experiments.run_directory import RunDirectory, write_json, write_text
from experiments.scoring import draw_examples, score
from jaxseg import metrics
from jaxseg.checkpoint import Checkpoints
from jaxseg.parallel import jit_many_steps, jit_rows, make_mesh, replicate, rows_for, shard_batch
from jaxseg.training import TrainState, make_eval_step, make_many_steps, make_train_step
from jaxseg.types import InputError

CALL_SECONDS = 5.0
"""On accelerators as many steps are one program as last about this long."""

CHECKPOINT_SECONDS = 600.0
"""Besides one after every epoch, a checkpoint is saved this often."""


@dataclasses.dataclass(frozen=True)
class Options:
    """The command line."""

    configuration: Annotated[OmitArgPrefixes[Configuration], arg(name="")]
    workdir: Path | None = None
    """The run's folder; runs/NAME-DATE-TIME unless given."""
    resume: bool = False
    """Go on in --workdir where a run stopped there; start one where there is none."""


def train(configuration: Configuration, run: RunDirectory, *, resume: bool) -> None:
    """Trains, scores the test films and writes the report.

    Raises:
        InputError: The folder, the data or an option will not do.
    """
    goes_on = run.check_usable(configuration, resume=resume)
    films = load(configuration)
    if goes_on:
        run.check_same_films(films.fingerprint)
    else:
        run.start(configuration, films.fingerprint)

    mesh = make_mesh()
    model = configuration.model()
    steps_per_epoch = math.ceil(len(films.train) / configuration.batch_size)
    steps = steps_per_epoch * configuration.epochs
    tx = configuration.optimizer(steps)
    key = jax.random.key(configuration.seed)
    averaged = configuration.ema_decay is not None
    state = TrainState.create(model, tx, key, films.arrays.images, ema=averaged)
    state = replicate(state, mesh)
    step = make_train_step(model, tx, configuration.loss, ema_decay=configuration.ema_decay)
    # On a CPU a convolution's gradient is many times slower inside a loop.
    on_cpu = jax.default_backend() == "cpu"
    many_steps = jit_many_steps(make_many_steps(step, unroll=on_cpu), mesh)
    evaluate = jit_rows(make_eval_step(model, configuration.loss), mesh)
    on_device = replicate({"images": films.arrays.images, "labels": films.arrays.labels}, mesh)

    with Checkpoints(run.checkpoints) as checkpoints:
        progress = Progress()
        if (latest := checkpoints.latest_step()) is not None:
            state, saved = checkpoints.restore(state, latest)
            progress = Progress(**saved)
            print(f"going on after step {latest} of {steps}")
        run.keep_metrics(up_to_step=int(state.step))
        calls = StepsPerCall(1 if on_cpu else None)
        saved_at = time.monotonic()

        while int(state.step) < steps:
            epoch, first = divmod(int(state.step), steps_per_epoch)
            order = epoch_order(
                films.train, configuration, epoch, rows_for(configuration.batch_size, mesh)
            )
            title = f"epoch {epoch + 1}/{configuration.epochs}"
            with command.progress_bar(title, len(films.train), done=progress.epoch_images) as bar:
                while first < steps_per_epoch:
                    began = time.perf_counter()
                    indices = order[first : first + calls.steps]
                    state, measured = many_steps(state, on_device, indices)
                    measured = jax.device_get(measured)
                    seconds = time.perf_counter() - began
                    progress = progress.add(
                        measured, seconds, timed=calls.record(len(indices), seconds)
                    )
                    first += len(indices)
                    bar.update(int(measured["images"].sum()))
                    bar.set_postfix(loss=f"{progress.loss():.4f}")
                    if time.monotonic() - saved_at > CHECKPOINT_SECONDS:
                        checkpoints.save(state, dataclasses.asdict(progress))
                        saved_at = time.monotonic()
            row = {"step": int(state.step), "epoch": epoch + 1, "loss": progress.loss()}
            row |= validate(evaluate, state, films, mesh, batch_size=configuration.batch_size)
            row["images_per_second"] = progress.images_per_second()
            run.log(row)
            print(", ".join(f"{name} {_short(value)}" for name, value in row.items()), flush=True)
            progress = progress.next_epoch()
            checkpoints.save(state, dataclasses.asdict(progress), score=row.get("validation_dice"))
            saved_at = time.monotonic()

        checkpoints.wait()
        if (best := checkpoints.best_step()) is not None:
            state, _ = checkpoints.restore(state, best)

    scores = score(
        model, state, films.arrays, films.test, mesh, batch_size=configuration.batch_size
    )
    write_text(run.test_scores, scores.as_csv())
    write_json(
        run.summary,
        {
            "configuration": configuration.name,
            "test": scores.summary(),
            "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
            "train_seconds": progress.train_seconds,
            "images_per_second": progress.images_per_second(),
            "films": {name: len(getattr(films, name)) for name in ("train", "validation", "test")},
            "checkpoint_step": int(state.step),
            **report.machine(),
        },
    )
    draw_examples(run.examples, model, state, films.arrays, films.test, scores)
    report.write(run)


@dataclasses.dataclass(frozen=True)
class Progress:
    """What a run knows of itself besides its state; saved with every checkpoint."""

    epoch_loss: float = 0.0
    """Sum of the loss over this epoch's films so far."""
    epoch_images: int = 0
    train_seconds: float = 0.0
    timed_images: int = 0
    """Films trained on in calls that compiled nothing."""
    timed_seconds: float = 0.0

    def add(self, measured: Mapping[str, np.ndarray], seconds: float, *, timed: bool) -> "Progress":
        """Counts a call in."""
        images = int(measured["images"].sum())
        return Progress(
            epoch_loss=self.epoch_loss + float((measured["loss"] * measured["images"]).sum()),
            epoch_images=self.epoch_images + images,
            train_seconds=self.train_seconds + seconds,
            timed_images=self.timed_images + timed * images,
            timed_seconds=self.timed_seconds + timed * seconds,
        )

    def next_epoch(self) -> "Progress":
        """The same with the epoch's sums at zero."""
        return dataclasses.replace(self, epoch_loss=0.0, epoch_images=0)

    def loss(self) -> float:
        """Mean over this epoch's films so far."""
        return self.epoch_loss / max(self.epoch_images, 1)

    def images_per_second(self) -> float | None:
        """Rate of training, compilation left out."""
        return self.timed_images / self.timed_seconds if self.timed_seconds else None


class StepsPerCall:
    """How many steps the next call does: a fixed number, or as many as last `CALL_SECONDS`."""

    def __init__(self, fixed: int | None):
        self.steps = fixed or 1
        self._settled = fixed is not None
        self._compiled: set[int] = set()

    def record(self, steps: int, seconds: float) -> bool:
        """Takes note of a call; whether it ran without compiling first."""
        timed = steps in self._compiled
        self._compiled.add(steps)
        if timed and not self._settled:
            self.steps = max(1, int(CALL_SECONDS * steps / seconds))
            self._settled = True
        return timed


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
    evaluate: Callable[..., Any], state: TrainState, films: Films, mesh: Mesh, *, batch_size: int
) -> dict[str, float]:
    """Mean loss and Dice over the validation films, at the network's size; nothing without any."""
    if not len(films.validation):
        return {}
    losses, dice = [], []
    rows = rows_for(batch_size, mesh)
    for start in range(0, len(films.validation), rows):
        indices = films.validation[start : start + rows]
        padded = np.resize(indices, rows)
        labels = films.arrays.labels[padded].astype(np.int32)
        batch = shard_batch({"images": films.arrays.images[padded], "labels": labels}, mesh)
        result = jax.device_get(evaluate(state, batch))
        losses.append(result.loss[: len(indices)])
        dice.append(np.asarray(metrics.dice(result.counts))[: len(indices), 0])
    return {
        "validation_loss": float(metrics.mean_over_images(np.concatenate(losses)).mean),
        "validation_dice": float(metrics.mean_over_images(np.concatenate(dice)).mean),
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
    workdir = options.workdir
    if workdir is None:
        if options.resume:
            raise InputError("--resume: name the run to go on with by --workdir")
        workdir = Path("runs") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"
    print(f"run directory: {workdir}")
    train(options.configuration, RunDirectory(workdir), resume=options.resume)


if __name__ == "__main__":
    command.run(main)
