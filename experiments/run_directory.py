"""A run's folder: what lies in it, who may use it, how its files are written."""

import contextlib
import errno
import json
import math
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

import jax
import numpy as np

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

from experiments.configuration import PLACES, Configuration, from_json, with_defaults
from experiments.configurations import CONFIGURATIONS
from jaxseg.errors import InputError

# Files get the permissions that `open` gives them.
os.umask(_UMASK := os.umask(0))

CLOCKED = ("images_per_second", "train_seconds")
"""What a row of ``metrics.jsonl`` has from the clock, so that no two runs have it alike."""


class RunDirectory:
    """The files of one run.

    ``config.json``, ``steps.jsonl`` (a row a step), ``metrics.jsonl`` (a row an epoch) and
    ``checkpoints/`` while it trains; then ``summary.json``,
    ``test_per_image.csv``, ``curves.png``, ``examples.png`` and ``report.html``.
    """

    def __init__(self, path: Path):
        self.path = path
        self.config = path / "config.json"
        self.steps = path / "steps.jsonl"
        self.metrics = path / "metrics.jsonl"
        self.summary = path / "summary.json"
        self.checkpoints = path / "checkpoints"
        self.test_scores = path / "test_per_image.csv"
        self.curves = path / "curves.png"
        self.examples = path / "examples.png"
        self.report = path / "report.html"

    def check_usable(self, configuration: Configuration, *, resume: bool) -> bool:
        """Whether the run goes on from before; nothing is written.

        Raises:
            InputError: The folder is used and ``resume`` is not set, is no run's, or belongs to
                another configuration.
        """
        # Hidden files are what a kill left of one half-written.
        if not any(not path.name.startswith(".") for path in self.path.glob("*")):
            return False
        if not resume:
            raise InputError(
                f"--workdir: {self.path} is used already; add --resume to go on there, "
                "or name another"
            )
        if not self.config.exists():
            raise InputError(f"--workdir: {self.path} holds files but no run (no config.json)")
        theirs = with_defaults(self.read_config()["configuration"])
        ours = configuration.as_json()
        names = sorted({*theirs, *ours} - set(PLACES))
        different = [
            f"{name} is {theirs.get(name)} there and {ours.get(name)} here"
            for name in names
            if theirs.get(name) != ours.get(name)
        ]
        if different:
            raise InputError(
                f"--workdir: {self.path} belongs to another configuration: " + "; ".join(different)
            )
        return True

    def check_same_films(self, fingerprint: str) -> None:
        """Raises InputError where the run began on other films."""
        if self.read_config()["data_fingerprint"] != fingerprint:
            raise InputError(f"{self.path}: was trained on other films than these")

    def check_is_shared(self, fingerprint: str) -> None:
        """Raises InputError where this process does not see the run that the first one opened."""
        seen = self.read_config() if self.config.exists() else {}
        if seen.get("data_fingerprint") != fingerprint:
            raise InputError(
                f"--workdir: process {jax.process_index()} does not see in {self.path} what "
                "process 0 wrote there; it must lie on a disk that all processes share"
            )

    def start(self, configuration: Configuration, fingerprint: str) -> None:
        """Writes the configuration of a new run."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(
            self.config,
            {"configuration": configuration.as_json(), "data_fingerprint": fingerprint},
        )

    def hold(self) -> IO[str]:
        """Makes the folder and keeps other jobs out of it, until what is returned is closed.

        Raises:
            InputError: Another job is in it, or it is a file.
        """
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"--workdir: {self.path} is a file")
        self.path.mkdir(parents=True, exist_ok=True)
        return take_lock(
            self.path / ".lock", f"--workdir: another job trains in {self.path}; wait for its end"
        )

    def remove_if_unused(self) -> None:
        """Removes what `hold` made, if no run was started here."""
        if not self.config.exists():
            (self.path / ".lock").unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # Other files are in it.
                self.path.rmdir()

    def read_config(self) -> dict[str, Any]:
        """What `start` wrote."""
        values = read_json(self.config)
        if missing := {"configuration", "data_fingerprint"} - values.keys():
            raise InputError(f"{self.config}: is damaged (no {', '.join(sorted(missing))})")
        return values

    def configuration(self) -> Configuration:
        """The run's configuration.

        Raises:
            InputError: There is no run here.
        """
        if not self.path.is_dir():
            raise InputError(f"{self.path}: there is no such run directory")
        if not self.config.exists():
            raise InputError(f"{self.path}: is no run directory (it has no config.json)")
        values = self.read_config()["configuration"]
        like = CONFIGURATIONS.get(values["name"], Configuration(name=values["name"]))
        return from_json(values, like)

    def keep_logs(self, up_to_step: int) -> None:
        """Drops what was logged after a step, so that a resumed run logs it once."""
        for path in (self.steps, self.metrics):
            write_text(path, _lines(row for row in _read_rows(path) if row["step"] <= up_to_step))

    def log_step(self, step: int, measured: Mapping[str, np.ndarray]) -> None:
        """Adds a row to ``steps.jsonl``."""
        values = {name: value.item() for name, value in measured.items()}
        _append(self.steps, [{"step": step, **values}])

    def log(self, row: Mapping[str, Any]) -> None:
        """Adds a row to ``metrics.jsonl``."""
        _append(self.metrics, [row])

    def read_steps(self) -> list[dict[str, Any]]:
        """The rows of ``steps.jsonl``; a last one that a killed run cut short is left out."""
        return _read_rows(self.steps)

    def read_metrics(self) -> list[dict[str, Any]]:
        """The rows of ``metrics.jsonl``; a last one that a killed run cut short is left out."""
        return _read_rows(self.metrics)

    def read_summary(self) -> dict[str, Any] | None:
        """``summary.json``, or None where the run is not finished."""
        return read_json(self.summary) if self.summary.exists() else None


def _read_rows(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    lines = path.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _append(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    with path.open("a") as file:
        file.write(_lines(rows))


def _lines(rows: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(without_nan(row)) + "\n" for row in rows)


def take_lock(path: Path, taken: str) -> IO[str]:
    """Opens a file that one process at a time may hold: until it is closed, or the process ends.

    On a disk without locks, and on Windows, nothing is held.

    Raises:
        InputError: Another holds it; the message is ``taken``.
    """
    lock = path.open("w")
    if fcntl is None:
        return lock
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.close()
        raise InputError(taken) from error
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP):
            lock.close()
            raise
    # The job that held it before may have removed it meanwhile.
    if not path.exists() or not os.path.samestat(os.fstat(lock.fileno()), path.stat()):
        lock.close()
        path.parent.mkdir(parents=True, exist_ok=True)
        return take_lock(path, taken)
    return lock


def write_text(path: Path, text: str) -> None:
    """Writes a file so that it is there whole or not at all."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file so that it is there whole or not at all, also after a power cut."""
    # The name of the temporary file is short: that of the file may have the largest length.
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", delete=False) as file:
        unfinished = Path(file.name)
        try:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            unfinished.chmod(0o666 & ~_UMASK)
            unfinished.replace(path)
        except OSError as error:
            # The error of a full disk names no file.
            raise OSError(error.errno, error.strerror, str(path)) from error
        finally:
            unfinished.unlink(missing_ok=True)


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object that a command wrote.

    Raises:
        InputError: The file is damaged.
    """
    try:
        values = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(
            f"{path}: is damaged ({error}). Restore it or remove its folder"
        ) from error
    if not isinstance(values, dict):
        raise InputError(f"{path}: is damaged (no JSON object). Restore it or remove its folder")
    return values


def write_json(path: Path, values: Any) -> None:
    """Writes JSON; NaN, which JSON lacks, becomes null."""
    write_text(path, json.dumps(without_nan(values), indent=2) + "\n")


def without_nan(values: Any) -> Any:
    """The same values with None for every float that is not finite."""
    if isinstance(values, Mapping):
        return {name: without_nan(value) for name, value in values.items()}
    if isinstance(values, float):
        return values if math.isfinite(values) else None
    if isinstance(values, Iterable) and not isinstance(values, str):
        return [without_nan(value) for value in values]
    return values
