"""A run's directory: its files, its lock, and the trained network in it."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxseg
from experiments import dataset, files
from experiments.command import say
from experiments.configuration import Configuration, from_json, one_sided
from experiments.dataset import Dataset
from experiments.options import PATHS
from jaxseg import parallel, pretrained
from jaxseg.checkpoint import Checkpoints
from jaxseg.errors import InputError
from jaxseg.training import TrainState

CLOCKED = ("images_per_second", "train_seconds")
"""Columns of ``metrics.jsonl`` that no two runs have alike."""


class RunDirectory:
    """The files of one run.

    While it trains: ``config.json``, ``images.csv`` (id, split and group of every image),
    ``steps.jsonl`` (a row per step), ``metrics.jsonl`` and ``metrics.csv`` (a row per epoch) and
    ``checkpoints/``. At the end: ``summary.json``, ``test_per_image.csv``, ``curves.png``,
    ``examples.png`` and ``report.html``.
    """

    def __init__(self, path: Path):
        self.path = path
        self.config = path / "config.json"
        self.images = path / "images.csv"
        self.steps = path / "steps.jsonl"
        self.metrics = path / "metrics.jsonl"
        self.metrics_csv = path / "metrics.csv"
        self.summary = path / "summary.json"
        self.checkpoints = path / "checkpoints"
        self.test_scores = path / "test_per_image.csv"
        self.curves = path / "curves.png"
        self.examples = path / "examples.png"
        self.report = path / "report.html"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other jobs out of the directory within the block; makes it if it is absent.

        Raises:
            InputError: Another job trains in it, or it is a file.
        """
        held = contextlib.nullcontext()
        with parallel.all_or_none("opening the run"):
            if jax.process_index() == 0:
                if self.path.exists() and not self.path.is_dir():
                    raise InputError(f"--workdir: {self.path} is a file")
                self.path.mkdir(parents=True, exist_ok=True)
                message = f"--workdir: another job trains in {self.path}; wait for its end"
                held = files.lock(self.path / ".lock", message)
        with held:
            try:
                yield
            finally:
                if jax.process_index() == 0 and not self.config.exists():
                    (self.path / ".lock").unlink(missing_ok=True)
                    with contextlib.suppress(OSError):  # Other files are in it.
                        self.path.rmdir()

    def check_usable(self, configuration: Configuration, *, resume: bool) -> bool:
        """Returns whether there is a run to resume; nothing is written.

        Raises:
            InputError: The directory is in use and ``resume`` is not set, has other files, or
                belongs to another configuration.
        """
        # Hidden files are what a killed process left of an unfinished one.
        if not any(not path.name.startswith(".") for path in self.path.glob("*")):
            return False
        if not resume:
            raise InputError(
                f"--workdir: {self.path} is used already. Add --resume to continue that run, or "
                "name another directory"
            )
        if not self.config.exists():
            raise InputError(f"--workdir: {self.path} has files but no run (no config.json)")
        theirs = flat(self.configuration().as_json())
        ours = flat(configuration.as_json())
        changed = [
            f"{name} is {theirs[name]} there and {ours[name]} here"
            for name in ours
            if theirs[name] != ours[name] and name not in PATHS
        ]
        if changed:
            raise InputError(
                f"--workdir: {self.path} belongs to another configuration: {'; '.join(changed)}"
            )
        return True

    def check_same_images(self, fingerprint: str) -> None:
        """Raises InputError if the run was started on other images."""
        if self.read_config()["data_fingerprint"] != fingerprint:
            raise InputError(f"{self.path}: was trained on other images than these")

    def start(self, configuration: Configuration, images: Dataset) -> None:
        """Writes the configuration and the images of a new run."""
        self.path.mkdir(parents=True, exist_ok=True)
        config = {
            "configuration": configuration.as_json(),
            "data_fingerprint": images.fingerprint,
        }
        files.write_json(self.config, config)
        self.write_images(images)

    def write_images(self, images: Dataset) -> None:
        """Writes id, split and group of every image that the run uses."""
        arrays, used = images.arrays, {}
        for name in images.counts():
            used |= dict.fromkeys(getattr(images, name).tolist(), name)
        rows = [
            {"id": arrays.ids[i], "split": used[i], "group": arrays.groups[i]} for i in sorted(used)
        ]
        files.write_text(self.images, files.as_csv(rows))

    def read_config(self) -> dict[str, Any]:
        """Returns what ``config.json`` holds.

        Raises:
            InputError: There is no run here, or the file is damaged.
        """
        if not self.path.is_dir():
            raise InputError(f"{self.path}: there is no such run directory")
        if not self.config.exists():
            raise InputError(
                f"{self.path}: not a run directory, config.json is missing. Pass a directory that "
                "experiments.train made"
            )
        values = files.read_json(self.config)
        if missing := {"configuration", "data_fingerprint"} - values.keys():
            raise InputError(f"{self.config}: is damaged (no {', '.join(sorted(missing))})")
        return values

    def configuration(self) -> Configuration:
        """Returns the run's configuration. Raises InputError as `read_config` does."""
        values = self.read_config()["configuration"]
        try:
            return from_json(values)
        except (AttributeError, TypeError) as error:
            raise InputError(f"{self.config}: is damaged ({error})") from error

    def finished_summary(self) -> dict[str, Any]:
        """Returns ``summary.json``.

        Raises:
            InputError: Training has not finished.
        """
        if (summary := self.read_summary()) is None:
            raise InputError(
                f"{self.path}: training has not finished. Repeat the train command with "
                f"--workdir {self.path} --resume"
            )
        return summary

    def read_summary(self) -> dict[str, Any] | None:
        """Returns ``summary.json``, or None if training has not finished."""
        return files.read_json(self.summary) if self.summary.exists() else None

    def evaluation(self, subset: str) -> Path:
        """Returns the folder for the scores of a split: the run itself, or a folder in it."""
        return self.path if subset == "test" else self.path / subset

    def keep_logs(self, up_to_step: int) -> None:
        """Removes what was logged after a step, so that a resumed run logs it once."""
        for path in (self.steps, self.metrics):
            rows = [row for row in _read_rows(path) if row["step"] <= up_to_step]
            files.write_text(path, "".join(map(_line, rows)))

    def log_step(self, step: int, metrics: Mapping[str, np.ndarray]) -> None:
        """Adds a row to ``steps.jsonl``."""
        with self.steps.open("a") as file:
            file.write(_line({"step": step, **{k: v.item() for k, v in metrics.items()}}))

    def log_epoch(self, row: Mapping[str, Any]) -> None:
        """Adds a row to ``metrics.jsonl`` and to ``metrics.csv``."""
        with self.metrics.open("a") as file:
            file.write(_line(row))
        files.write_text(self.metrics_csv, files.as_csv(self.read_metrics()))

    def read_steps(self) -> list[dict[str, Any]]:
        """Returns the rows of ``steps.jsonl``, without an incomplete last one."""
        return _read_rows(self.steps)

    def read_metrics(self) -> list[dict[str, Any]]:
        """Returns the rows of ``metrics.jsonl``, without an incomplete last one."""
        return _read_rows(self.metrics)

    def load_state(self, configuration: Configuration) -> TrainState:
        """Reads the checkpoint that was scored; of an unfinished run the best one, or the latest.

        Raises:
            InputError: There is no checkpoint.
        """
        summary = self.read_summary()
        no_checkpoint = f"{self.path}: has no checkpoint yet"
        if not self.checkpoints.is_dir():
            raise InputError(no_checkpoint)
        with Checkpoints(self.checkpoints, read_only=True) as checkpoints:
            step = summary["checkpoint_step"] if summary else checkpoints.best_step()
            step = checkpoints.latest_step() if step is None else step
            if step is None:
                raise InputError(no_checkpoint)
            # The number of steps changes values of the optimizer, but no shape.
            like = configuration.state(configuration.optimizer(steps=1))
            state, _ = checkpoints.restore(like, step)
        return state


class PretrainedLungs(RunDirectory):
    """The run that trained `jaxseg.pretrained.lungs`, of which only weights and scores are here."""

    PATH = Path("lungs")

    def read_config(self) -> dict[str, Any]:
        """Returns what the run's ``config.json`` held."""
        return files.read_json(pretrained.FOLDER / "lungs.json")

    def read_summary(self) -> dict[str, Any]:
        """Returns the scores of its test images, as ``summary.json`` holds them."""
        return self.read_config()["summary"]

    def evaluation(self, subset: str) -> Path:  # noqa: ARG002
        """Raises InputError: scores must be written elsewhere."""
        raise InputError("--out: needed, because the pretrained network has no run directory")

    def load_state(self, configuration: Configuration) -> TrainState:  # noqa: ARG002
        """Returns a state that predicts, without what only training needs."""
        variables = pretrained.lungs().variables
        params, step = variables.pop("params"), np.int32(self.read_summary()["checkpoint_step"])
        return TrainState(step=step, params=params, collections=variables, opt_state=(), key=None)


def find_run(path: Path) -> RunDirectory:
    """Returns the run that a command line names: a directory, or ``lungs``, the pretrained network.

    Raises:
        InputError: There is a run directory of that name too.
    """
    if path != PretrainedLungs.PATH:
        return RunDirectory(path)
    if RunDirectory(path).config.exists():
        raise InputError(
            f"{path}: is a run directory here and also the pretrained network. For the run pass "
            f"{path.absolute()}"
        )
    return PretrainedLungs(path)


@dataclass(frozen=True, eq=False)
class Trained:
    """A run's configuration, its network, and the state of its best checkpoint."""

    configuration: Configuration
    model: jaxseg.UNet
    state: TrainState


def open_run(configuration: Configuration, run: RunDirectory, *, resume: bool) -> Dataset:
    """Starts a run, or checks that it can be resumed, and loads its images.

    Process 0 prepares the data before the others load it from the disk that they share.

    Raises:
        InputError: The directory or the data is invalid.
    """
    images = None
    with parallel.all_or_none("opening the run"):
        if jax.process_index() == 0:
            resumed = run.check_usable(configuration, resume=resume)
            sided = one_sided(configuration.data.mask_values())
            if configuration.augment.flip_left_right and sided and not resumed:
                say(f"warning: --augment.flip-left-right swaps the sides of the class {sided}")
            images = dataset.load(configuration)
            if resumed:
                run.check_same_images(images.fingerprint)
                run.write_images(images)  # A killed job may not have come to it.
            else:
                run.start(configuration, images)
    with parallel.all_or_none("opening the run"):
        if images is None:
            images = dataset.load(configuration)
            seen = run.read_config() if run.config.exists() else {}
            if seen.get("data_fingerprint") != images.fingerprint:
                raise InputError(
                    f"--workdir: process {jax.process_index()} does not see in {run.path} what "
                    "process 0 wrote. It must be on a disk that all processes share"
                )
    return images


def load_trained(run: RunDirectory) -> Trained:
    """Loads the network of a run with the state that the run scored.

    Raises:
        InputError: There is no run, or it has no checkpoint.
    """
    configuration = run.configuration()
    return Trained(configuration, configuration.model(), run.load_state(configuration))


def flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a configuration's options by the names that the command line uses."""
    options: dict[str, Any] = {}
    for name, value in values.items():
        if not isinstance(value, Mapping):
            options[name] = value
        elif name == "augment":
            options |= {f"augment.{inner}": amount for inner, amount in value.items()}
        else:
            options |= value
    return options


def _read_rows(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(files.without_nan(row)) + "\n"
