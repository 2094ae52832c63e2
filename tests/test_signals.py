"""SIGTERM and Ctrl-C end a command with their status, whatever it is doing."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments import command, signals

ROOT = Path(__file__).parents[1]

BUSY = """
import os, sys, time
from experiments import command, signals

def in_c_code():
    import zlib
    data = bytes(range(256)) * 4_000_000
    print("ready", flush=True)
    zlib.compress(data, 9)  # Releases the interpreter's lock, as a compiler does.
    time.sleep(60)

def in_python():
    print("ready", flush=True)
    while True:
        sum(range(1000))

def with_output_in_the_buffer():
    print("ready", flush=True)
    sys.stdout.write("a line in the buffer")
    time.sleep(60)

def deferring():
    with signals.deferred() as deferral:
        deferral.active = True
        print("ready", flush=True)
        while deferral.signal is None:
            time.sleep(0.01)
        time.sleep(0.5)
        print("saved", flush=True)
        raise command.Stopped(deferral.signal, "all saved")

def deferring_but_stuck():
    with signals.deferred() as deferral:
        deferral.active = True
        print("ready", flush=True)
        time.sleep(60)

def ending():
    import threading
    threading.Thread(target=lambda: time.sleep(2)).start()  # The exit waits for it.
    threading.Timer(0.5, lambda: print("ready", flush=True)).start()

class Last:
    def __del__(self, write=os.write, sleep=time.sleep):
        write(1, b"ready\\n")
        sleep(1)

def after_the_end():
    global last
    last = Last()  # Deleted when Python handles no signals any more.

command.run(globals()[sys.argv[1]])
"""


@pytest.fixture
def start():
    processes = []

    def started(name: str) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-c", BUSY, name], cwd=ROOT, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONUNBUFFERED": ""},
        )  # fmt: skip
        processes.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    yield started
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("work", "sent", "status"),
    [
        ("in_c_code", signal.SIGTERM, 75),
        pytest.param("in_python", signal.SIGINT, 130, marks=pytest.mark.slow),
        ("with_output_in_the_buffer", signal.SIGTERM, 75),
    ],
)
def test_a_signal_ends_a_command_at_once(work, sent, status, start):
    process = start(work)
    time.sleep(0.5)  # So that it is at work.
    began = time.monotonic()
    process.send_signal(sent)
    out, error = process.communicate(timeout=20)
    assert process.returncode == status
    assert time.monotonic() - began < 5
    assert "Traceback" not in error
    assert error.strip().startswith("preempted" if status == 75 else "interrupted")
    if work == "with_output_in_the_buffer":
        assert out == "a line in the buffer"


@pytest.mark.parametrize(
    ("sent", "status"),
    [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 75, marks=pytest.mark.slow)],
)
def test_a_loop_that_handles_signals_saves_first(sent, status, start):
    process = start("deferring")
    process.send_signal(sent)
    out, error = process.communicate(timeout=20)
    assert (process.returncode, out) == (status, "saved\n")
    assert ": all saved. Add --resume" in error.splitlines()[-1]


@pytest.mark.parametrize("sent", signals.STATUS)
def test_a_signal_while_a_command_imports_its_modules_has_its_status(sent):
    process = subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", "experiments.train"], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        if line.rstrip().endswith("experiments.signals"):
            break
    time.sleep(0.1)
    process.send_signal(sent)
    process.communicate(timeout=60)
    assert process.returncode == signals.STATUS[sent]


def test_a_second_signal_always_ends_the_process(start):
    process = start("deferring_but_stuck")
    process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 130


def test_a_signal_while_the_process_ends_does_not_change_what_was_done(start):
    process = start("ending")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode in (0, 75), "never that of a killed process"
    assert os.EX_TEMPFAIL == command.PREEMPTED


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_after_all_is_done_is_ignored(sent, start):
    process = start("after_the_end")
    process.send_signal(sent)
    process.communicate(timeout=20)
    assert process.returncode == 0
