"""What every command shares: one clear line for a bad input, Ctrl-C, warnings, progress bars."""

import dataclasses
import io
import os
import shutil
import sys
import warnings
from collections.abc import Callable
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

MIN_COLUMNS = 60
"""Help is not wrapped at fewer columns than this."""


class Preempted(Exception):
    """SIGTERM came; everything is saved."""


class Interrupted(Exception):
    """Ctrl-C was pressed; everything is saved."""


class Diverged(Exception):
    """Training gives no finite numbers any more."""


@dataclasses.dataclass(frozen=True)
class Devices:
    """The devices that a command uses."""

    coordinator: str | None = None
    """HOST:PORT of process 0, where the job's launcher does not tell (TPU VMs, SLURM, MPI do)."""
    num_processes: int | None = None
    """How many processes there are; goes with --coordinator."""
    process_id: int | None = None
    """Which one this is, from 0; goes with --coordinator."""
    timeout: int = 300
    """Seconds to wait for the other processes at the start."""

    def start(self) -> Mesh:
        """Joins the other processes, if there are any, and lays out all devices.

        Raises:
            InputError: An option will not do.
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

    Exit status 0; 2 with one line on standard error for an invalid input or option, or a full disk;
    3 with one line if training diverged; 75 after SIGTERM; 130 after Ctrl-C. Errors of the program
    itself keep their traceback.
    """
    with signals.watched():
        _run(main)


def _run(main: Callable[[], None]) -> NoReturn:
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
    except Preempted as error:
        print(f"preempted: {error}", file=sys.stderr)
        sys.exit(PREEMPTED)
    except Interrupted as error:
        print(f"interrupted: {error}", file=sys.stderr)
        sys.exit(INTERRUPTED)
    sys.exit(0)


def bar(title: str) -> Callable[[int, int], None]:
    """A progress bar as a function of (done, total); it draws on a terminal only."""
    shown: list[tqdm] = []

    def show(done: int, total: int) -> None:
        if not shown:
            shown.append(progress_bar(title, total))
        shown[0].update(done - shown[0].n)
        if done >= total:
            shown[0].close()

    return show


def progress_bar(title: str, total: int, unit: str = "film", *, done: int = 0) -> tqdm:
    """A bar with rate and time left, gone when it is done, silent unless on a terminal.

    Of several processes only the first draws one.
    """
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
    """Prints a line at once; of several processes only the first does."""
    if jax.process_index() == 0:
        print(line, flush=True)


def _fail(message: str, status: int = BAD_INPUT) -> NoReturn:
    first, *others = message.splitlines()
    print("error: " + " ".join(first.split()), *others, sep="\n", file=sys.stderr)
    sys.exit(status)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    tqdm.write(f"warning: {message}", file=sys.stderr)
