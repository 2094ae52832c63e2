"""The contenders of `benchmarks.input_pipeline`, each run in a process of its own.

Started by it as ``python -m benchmarks.loaders NAME TASK``, the task as JSON. One that needs
another interpreter imports nothing else: the one with TensorFlow has neither JAX nor Pillow.

Each makes uint8 batches of films ``[B, S, S, 1]`` and labels ``[B, S, S]`` from the same PNG files,
in the same order, and answers every line that it reads with one of JSON.
"""

import dataclasses
import importlib
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

ImagesAndLabels = tuple[Any, Any]
Pass = Callable[[], Iterable[ImagesAndLabels | None]]
"""Reads every film once; gives the batches as uint8 arrays, or None where there are none."""

LIBRARIES = ("grain", "PIL", "tensorflow", "tensorflow_datasets", "torch")


@dataclasses.dataclass(frozen=True)
class Task:
    """What all of them do."""

    archive: str
    """Folder of the archive."""
    config: str
    data_dir: str
    """Where the data set is prepared already."""
    pictures: str
    """Folder with every film's PNG pair as files: ``film-N.png`` and ``mask-N.png``."""
    order: list[list[int]]
    """The films of every batch."""
    size: int
    workers: int
    """Of the DataLoader."""


def _builder(task: Task) -> Any:
    import warnings

    from jaxseg.data.covid_radiography import prepare

    warnings.simplefilter("ignore")
    return prepare(task.archive, task.data_dir, task.config)


def build(task: Task) -> Pass:
    """Prepares the data set anew."""
    _builder(task)

    def run() -> Iterator[None]:
        with tempfile.TemporaryDirectory(dir=task.data_dir) as folder:
            _builder(dataclasses.replace(task, data_dir=folder))
        yield None

    return run


def cache_filled(task: Task) -> Pass:
    """Fills the array cache anew."""
    from jaxseg.data.arrays import load_arrays

    builder = _builder(task)

    def run() -> Iterator[None]:
        with tempfile.TemporaryDirectory(dir=task.data_dir) as folder:
            load_arrays(builder, size=task.size, cache_dir=folder)
        yield None

    return run


def cache_read(task: Task) -> Pass:
    """Opens the array cache, every byte checked, and takes every batch out of it."""
    from jaxseg.data.arrays import load_arrays

    builder = _builder(task)

    def run() -> Iterator[ImagesAndLabels]:
        arrays = load_arrays(builder, size=task.size)
        for rows in task.order:
            yield arrays.images[rows], arrays.labels[rows]

    return run


def stream(task: Task) -> Pass:
    """The streaming path, up to batches in the host's memory."""
    from jaxseg.data.sampling import Sampling
    from jaxseg.data.stored import StoredImages
    from jaxseg.data.stream import stream_batches

    stored = StoredImages(_builder(task))
    # Every batch has the size of the first: a row that fills up the last is dropped.
    order = np.zeros((len(task.order), len(task.order[0])), np.int32)
    for rows, batch in zip(order, task.order, strict=True):
        rows[: len(batch)] = batch

    def run() -> Iterator[ImagesAndLabels]:
        with stream_batches(stored, order, Sampling(task.size)) as batches:
            for batch, rows in zip(batches, task.order, strict=True):
                yield batch["images"][: len(rows)], batch["labels"][: len(rows)]

    return run


def device(task: Task) -> Pass:
    """The device-resident path: indices in, batches on the device out."""
    import jax

    from jaxseg.data.arrays import load_arrays

    arrays = load_arrays(_builder(task), size=task.size)
    films = jax.device_put({"images": arrays.images, "labels": arrays.labels})

    @jax.jit
    def gather(images: dict[str, jax.Array], rows: jax.Array) -> dict[str, jax.Array]:
        return {name: array[rows] for name, array in images.items()}

    def run() -> Iterator[ImagesAndLabels]:
        for rows in task.order:
            batch = jax.block_until_ready(gather(films, np.asarray(rows, np.int32)))
            yield batch["images"], batch["labels"]

    return run


class Pairs:
    """A map-style data set of the files, as PyTorch's DataLoader takes it."""

    def __init__(self, task: Task):
        self.task = task

    def __len__(self) -> int:
        return sum(map(len, self.task.order))

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        # Here, because the interpreter with TensorFlow has neither.
        import torch
        from PIL import Image

        pictures, square = Path(self.task.pictures), (self.task.size, self.task.size)
        with Image.open(pictures / f"film-{index}.png") as picture:
            film = np.array(picture.resize(square, Image.Resampling.BILINEAR))
        with Image.open(pictures / f"mask-{index}.png") as picture:
            mask = np.array(picture.resize(square, Image.Resampling.NEAREST))
        return torch.from_numpy(film[..., None]), torch.from_numpy((mask > 127).astype(np.uint8))


def torch_loader(task: Task) -> Pass:
    """PyTorch's DataLoader over files, Pillow in worker processes that stay."""
    import torch
    from torch.utils.data import DataLoader

    torch.set_num_threads(1)
    options = {"num_workers": task.workers, "persistent_workers": task.workers > 0}
    data: Any = Pairs(task)
    loader = DataLoader(data, batch_sampler=task.order, **options)
    return lambda: loader


def tf_data(task: Task) -> Pass:
    """tf.data over files, threads and read-ahead as it chooses them."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    tf: Any = importlib.import_module("tensorflow")
    square = (task.size, task.size)

    def read(index: Any) -> tuple[Any, Any]:
        number = tf.strings.as_string(index)
        film, mask = (
            tf.io.decode_png(tf.io.read_file(f"{task.pictures}/{kind}-" + number + ".png"), 1)
            for kind in ("film", "mask")
        )
        film = tf.image.resize(film, square, method="bilinear", antialias=True)
        film = tf.cast(tf.round(film), tf.uint8)
        mask = tf.image.resize(mask, square, method="nearest")[..., 0]
        return film, tf.cast(mask > 127, tf.uint8)

    flat = np.concatenate([np.asarray(rows) for rows in task.order])
    data = tf.data.Dataset.from_tensor_slices(flat).map(read, num_parallel_calls=tf.data.AUTOTUNE)
    data = data.batch(len(task.order[0])).prefetch(tf.data.AUTOTUNE)
    return data.as_numpy_iterator


CONTENDERS: dict[str, Callable[[Task], Pass]] = {
    "build": build,
    "cache, first filling": cache_filled,
    "cache, reading back": cache_read,
    "stream": stream,
    "device-resident": device,
    "PyTorch DataLoader": torch_loader,
    "tf.data": tf_data,
}


def seconds(read: Pass) -> float:
    """Of the clock, that a pass takes."""
    began = time.perf_counter()
    for _ in read():
        pass
    return time.perf_counter() - began


def totals(read: Pass) -> dict[str, int]:
    """What a pass reads: films, and the sums of all bytes of images and labels."""
    sums = {"films": 0, "images": 0, "labels": 0}
    for batch in read():
        if batch is not None:
            images, labels = (np.asarray(array) for array in batch)
            sums["films"] += len(images)
            sums["images"] += int(images.sum(dtype=np.int64))
            sums["labels"] += int(labels.sum(dtype=np.int64))
    return sums


def peak_bytes() -> int:
    """The most memory that this process had, and each of its workers; shared pages count twice."""
    most = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for worker in multiprocessing.active_children():
        status = Path(f"/proc/{worker.pid}/status").read_text()
        most += 1024 * int(status.split("VmHWM:")[1].split()[0])
    return most


def main() -> None:
    """Prepares the contender named on the command line and answers."""
    name, task = sys.argv[1:]
    # Libraries print; only this stream is read.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    read = CONTENDERS[name](Task(**json.loads(task)))
    answer: Any = {"read": totals(read)}
    loaded = {library: sys.modules[library] for library in LIBRARIES if library in sys.modules}
    answer["versions"] = {
        library: vars(module)["__version__"] for library, module in loaded.items()
    }
    print(json.dumps(answer), file=answers, flush=True)
    for line in sys.stdin:
        answer = peak_bytes() if line.strip() == "end" else seconds(read)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
