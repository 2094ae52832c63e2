"""Ends a command on SIGTERM or Ctrl-C, at once or between two train steps.

Python runs a signal handler in the main thread: not while XLA compiles, and at any other time
between two instructions. An exception that is raised there can be lost in a callback of JAX, and an
ordinary exit while another thread compiles can crash. So the handlers here do nothing. A thread
receives the signal and ends the process at once, without cleaning up, unless a loop has asked to
handle the signal itself. A second signal always ends the process. After the command, when Python
takes its modules down, signals are ignored: all is done, and that is what the exit status says.
"""

import atexit
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator

PREEMPTED = 75
"""What sysexits.h calls a temporary failure: run the command again, ``train`` with --resume."""
INTERRUPTED = 130

STATUS = {signal.SIGTERM: PREEMPTED, signal.SIGINT: INTERRUPTED}
"""Exit status of a command that a signal ended."""

_MESSAGES = {
    signal.SIGTERM: "preempted: saved files are kept; run the command again, train with --resume",
    signal.SIGINT: "interrupted",
}


class Deferral:
    """Whether a loop handles signals itself, and the first signal since."""

    def __init__(self) -> None:
        self.active = False
        self.signal: int | None = None


_deferral = Deferral()
_write_fd: int | None = None


@contextlib.contextmanager
def deferred() -> Iterator[Deferral]:
    """Lets a loop handle the first signal itself, from setting ``active`` to the block's end."""
    _deferral.active, _deferral.signal = False, None
    try:
        yield _deferral
    finally:
        _deferral.active = False


def watch() -> None:
    """Watches for SIGTERM and Ctrl-C until the process has ended; call it in the main thread."""
    global _write_fd
    if _write_fd is None:
        read_fd, _write_fd = os.pipe()
        os.set_blocking(_write_fd, False)
        threading.Thread(target=_watch, args=(read_fd, _end), daemon=True).start()
        # Python would restore the actions that kill the process, before it has ended.
        atexit.register(_ignore_from_now_on)
    for number in STATUS:
        signal.signal(number, _ignore)
    signal.set_wakeup_fd(_write_fd, warn_on_full_buffer=False)


def _watch(read: int, end: Callable[[signal.Signals], None]) -> None:
    with open(read, "rb", buffering=0) as file:
        while received := file.read(1):
            if received[0] not in STATUS:
                continue
            if _deferral.active and _deferral.signal is None:
                _deferral.signal = received[0]
            else:
                end(signal.Signals(received[0]))


def _end(number: signal.Signals) -> None:
    """Ends the process. Other threads may hold the locks of the streams, so nothing waits long."""
    flushing = threading.Thread(target=sys.stdout.flush, daemon=True)
    flushing.start()
    flushing.join(timeout=1)
    os.write(2, f"\n{_MESSAGES[number]}\n".encode())
    os._exit(STATUS[number])


def _ignore_from_now_on() -> None:
    for number in STATUS:
        signal.signal(number, signal.SIG_IGN)


def _ignore(*_: object) -> None:
    """The thread of `watch` acts instead."""
