"""What all commands share: exit status, messages, progress bars and devices."""

import dataclasses
import io
import os
import platform
import shutil
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any, NoReturn

import jax
from absl import logging
from jax.sharding import Mesh
from tqdm import tqdm

from experiments import signals
from experiments.signals import INTERRUPTED, PREEMPTED
from jaxseg import parallel
from jaxseg.errors import InputError

BAD_INPUT = 2
DIVERGED = 3

LISTED = 20
"""At most this many skipped files are printed."""

MIN_COLUMNS = 60
"""Help is not wrapped at fewer columns than this."""


class Stopped(Exception):
    """A signal ended the command, and its work is saved.

    Args:
        received: The signal; None for a preemption that another process received.
        saved: What is saved.
    """

    def __init__(self, received: int | None, saved: str):
        self.status = INTERRUPTED if received == signal.SIGINT else PREEMPTED
        reason = "interrupted" if received == signal.SIGINT else "preempted"
        super().__init__(f"{reason}: {saved}. Add --resume to continue")


class Diverged(Exception):
    """Losses or gradients are not finite any more."""


@dataclasses.dataclass(frozen=True)
class Devices:
    """Which processes train together. TPU VMs, SLURM and MPI need no options."""

    coordinator: str | None = None
    """HOST:PORT of process 0."""
    num_processes: int | None = None
    """Number of processes, with --coordinator."""
    process_id: int | None = None
    """Number of this process, from 0, with --coordinator."""
    timeout: int = 300
    """Seconds to wait for the other processes."""

    def start(self) -> Mesh:
        """Joins the other processes, if there are any, and returns the mesh of all devices.

        Raises:
            InputError: An option is invalid.
        """
        parallel.initialize(
            self.coordinator,
            num_processes=self.num_processes,
            process_id=self.process_id,
            timeout_seconds=self.timeout,
        )
        return parallel.make_mesh()


def run(main: Callable[[], None]) -> NoReturn:
    """Runs a command and ends the process.

    The exit status is 0; 2 for an invalid input or option and for a full disk, 3 if training
    diverged, 75 after SIGTERM, 130 after Ctrl-C, each with one line on standard error. Errors of
    the program itself keep their traceback.
    """
    signals.watch()
    if shutil.get_terminal_size().columns < MIN_COLUMNS:
        # The option parser never ends on a terminal of a few columns.
        os.environ["COLUMNS"] = str(MIN_COLUMNS)
    for stream in (sys.stdout, sys.stderr):
        # A terminal may not know the letters of a file's name.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    warnings.showwarning = _show_warning
    # Orbax logs a traceback for every thread that could not write; the error itself is raised too.
    logging.set_verbosity(logging.FATAL)
    try:
        main()
    except InputError as error:
        _fail(str(error))
    except OSError as error:
        if error.filename is None and error.strerror is None:
            raise
        place = f"{error.filename}: " if error.filename else ""
        _fail(f"{place}{error.strerror or error}")
    except Diverged as error:
        _fail(str(error), DIVERGED)
    except Stopped as error:
        print(error, file=sys.stderr)
        sys.exit(error.status)
    sys.exit(0)


def machine() -> dict[str, Any]:
    """Returns the device and the versions that figures of a run come from."""
    devices = jax.devices()
    name = platform.machine() if devices[0].platform == "cpu" else devices[0].device_kind
    packages = ("jaxseg", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    return {
        "device": f"{len(devices)} x {devices[0].platform} ({name})",
        "versions": {"python": platform.python_version()}
        | {package: version(package) for package in packages},
    }


def bar(title: str) -> Callable[[int, int], None]:
    """Returns a progress bar as a function of the numbers of done and of all images."""
    shown: list[tqdm] = []

    def show(done: int, total: int) -> None:
        if not shown:
            shown.append(progress_bar(title, total))
        shown[0].update(done - shown[0].n)
        if done >= total:
            shown[0].close()

    return show


def progress_bar(title: str, total: int, unit: str = "image", *, done: int = 0) -> tqdm:
    """Returns a bar with rate and time left. Only process 0 draws one, and only on a terminal."""
    return tqdm(
        total=total,
        initial=done,
        desc=title,
        unit=unit,
        leave=False,
        disable=None if jax.process_index() == 0 else True,
        smoothing=0.1,
    )


def say(line: str) -> None:
    """Prints a line at once, in process 0 only."""
    if jax.process_index() == 0:
        print(line, flush=True)


def say_skipped(messages: Sequence[str]) -> None:
    """Prints why files were skipped, of many only the first."""
    for message in messages[:LISTED]:
        say(f"skipped {message}")
    if len(messages) > LISTED:
        say(f"and {len(messages) - LISTED} more")


def _fail(message: str, status: int = BAD_INPUT) -> NoReturn:
    first, *others = message.splitlines()
    print("error: " + " ".join(first.split()), *others, sep="\n", file=sys.stderr)
    sys.exit(status)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    tqdm.write(f"warning: {message}", file=sys.stderr)
