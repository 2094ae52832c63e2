"""Runs contenders in turns, so that whatever slows the machine slows all of them alike."""

import contextlib
import dataclasses
import json
import statistics
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks import roofline
from benchmarks.contenders import Contender, environment, interpreter
from benchmarks.peers.setting import PARAMETERS, Setting


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How long is measured."""

    warm_up: int
    """Steps before the clock."""
    rounds: int
    """Turns that each contender gets."""
    steps: int
    """Timed steps in a turn."""

    @staticmethod
    def for_device(accelerator: bool, *, steps: int | None = None) -> "Protocol":
        """20 steps of warm-up and 100 timed on accelerators, 2 and 7 on CPUs.

        ``steps`` asks for another number of timed ones; on accelerators ten turns share them,
        rounded down.
        """
        if accelerator:
            return Protocol(20, 10, max(1, (steps or 100) // 10))
        return Protocol(2, steps or 7, 1)


@dataclasses.dataclass
class Result:
    """What one contender's turns gave."""

    name: str
    near: bool
    seconds: list[float]
    facts: dict[str, Any]
    peak_bytes: int | None = None

    @property
    def median(self) -> float:
        """Seconds a step."""
        return statistics.median(self.seconds)

    def row(self, setting: Setting, reference: float) -> dict[str, Any]:
        """Plain values for the table and the JSON."""
        flops, moved = self.facts.get("flops"), self.facts.get("bytes")
        bound = roofline.seconds(self.facts.get("device", ""), setting.dtype, flops, moved)
        return {
            "name": self.name,
            "near": self.near,
            "seconds": self.median,
            "fastest": min(self.seconds),
            "slowest": max(self.seconds),
            "steps": len(self.seconds),
            "images_per_second": setting.batch / self.median,
            "ratio": self.median / reference,
            "share_of_roofline": None if bound is None else bound / self.median,
            "peak_bytes": self.peak_bytes,
            **self.facts,
        }


class Ended(Exception):
    """A contender's process ended before its time."""


class Worker:
    """A contender's process; entered, it is ready to run."""

    def __init__(self, contender: Contender, setting: Setting, python: str) -> None:
        self.contender = contender
        self._folder = tempfile.TemporaryDirectory()
        self._said = Path(self._folder.name) / "stderr"
        arguments = [contender.module, json.dumps(dict(contender.options)), setting.as_json()]
        with self._said.open("w") as said:
            self._process = subprocess.Popen(
                [python, "-m", "benchmarks.worker", *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
                env=environment(contender),
            )

    def __enter__(self) -> "Worker":
        try:
            self.facts = self._read()["facts"]
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._end()

    def _end(self) -> None:
        self._process.kill()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):
                stream.close()
        self._process.wait()
        self._folder.cleanup()

    def run(self, steps: int) -> list[float]:
        """Seconds of each step."""
        assert self._process.stdin is not None
        # Of a process that is gone, reading tells what it said last.
        with contextlib.suppress(BrokenPipeError):
            print(steps, file=self._process.stdin, flush=True)
        return self._read()["seconds"]

    def finish(self) -> int:
        """Ends the process; the most memory that it had, in bytes."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        return self._read()["peak_bytes"]

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        if line := self._process.stdout.readline():
            return json.loads(line)
        said = self._said.read_text().strip().splitlines()[-1:]
        raise Ended(f"{self.contender.name} ended: {''.join(said)}")


def measure(
    contenders: Sequence[Contender],
    setting: Setting,
    protocol: Protocol,
    *,
    tensorflow_python: str | None = None,
) -> list[Result]:
    """Prepares each contender alone, then lets all run in turns.

    One that ends by itself is left out, and a line says what it said last.

    Raises:
        ValueError: A contender of the network's own widths has another number of parameters.
    """
    with contextlib.ExitStack() as stack:
        workers: dict[Worker, list[float]] = {}
        for contender in contenders:
            worker = Worker(contender, setting, interpreter(contender, tensorflow_python))
            with _left_out_if_it_ends(worker, workers):
                workers[stack.enter_context(worker)] = []
                worker.run(protocol.warm_up)
                _check_parameters(worker, setting)
                print(f"{contender.name}: ready", flush=True)
        for _ in range(protocol.rounds):
            for worker, seconds in list(workers.items()):
                with _left_out_if_it_ends(worker, workers):
                    seconds += worker.run(protocol.steps)
        results = []
        for worker, seconds in list(workers.items()):
            name, near = worker.contender.name, worker.contender.near
            with _left_out_if_it_ends(worker, workers):
                results.append(Result(name, near, seconds, worker.facts, worker.finish()))
        return results


@contextlib.contextmanager
def _left_out_if_it_ends(worker: Worker, workers: dict[Worker, list[float]]) -> Iterator[None]:
    try:
        yield
    except Ended as ended:
        print(ended, flush=True)
        workers.pop(worker, None)


def _check_parameters(worker: Worker, setting: Setting) -> None:
    found = worker.facts["parameters"]
    exact = setting.widths == Setting().widths and not worker.contender.near
    if exact and found != PARAMETERS:
        raise ValueError(f"{worker.contender.name} has {found:,} parameters, not {PARAMETERS:,}")
