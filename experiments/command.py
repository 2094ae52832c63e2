"""What every command shares: one clear line for a bad input, Ctrl-C, warnings, progress bars."""

import sys
import warnings
from collections.abc import Callable
from typing import Any, NoReturn

from absl import logging
from tqdm import tqdm

from jaxseg.types import InputError

BAD_INPUT = 2
INTERRUPTED = 130


def run(main: Callable[[], None]) -> NoReturn:
    """Runs a command and ends the process.

    Exit status 0; 2 with one line on standard error for an input, an option or a disk that will
    not do; 130 after Ctrl-C. Errors of the program itself keep their traceback.
    """
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
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
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
    """A bar with rate and time left, gone when it is done, silent unless on a terminal."""
    return tqdm(
        total=total, initial=done, desc=title, unit=unit, leave=False, disable=None, smoothing=0.1
    )


def _fail(message: str) -> NoReturn:
    print("error: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(BAD_INPUT)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    tqdm.write(f"warning: {message}", file=sys.stderr)
