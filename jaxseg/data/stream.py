"""Streams batches that are decoded during training, for datasets that do not fit on a device.

Grain decodes ahead in threads. The batches equal those of `jaxseg.data.arrays` bit for bit.
"""

import contextlib
import os
from collections.abc import Iterator

import numpy as np
from jaxtyping import Int

from jaxseg.data.sampling import Sampling
from jaxseg.data.stored import StoredImages

Batch = dict[str, np.ndarray]

MAX_THREADS = 16
"""More threads do not decode faster, because of the interpreter's lock."""


@contextlib.contextmanager
def stream_batches(
    stored: StoredImages,
    order: Int[np.ndarray, "steps rows"],
    sampling: Sampling,
    *,
    threads: int | None = None,
) -> Iterator[Iterator[Batch]]:
    """Opens a stream of batches; its threads end with the ``with`` block.

    To resume in the middle of an order, pass only the remaining batches. A process that needs only
    some rows of each batch passes only these.

    Args:
        stored: The images.
        order: The images of each batch, as positions in ``stored.records``.
        sampling: The sizes.
        threads: Number of threads that decode. Default: one per processor, at most `MAX_THREADS`.

    Yields:
        An iterator of dicts: ``images`` uint8 ``[rows, S, S, C]`` and ``labels`` uint8
        ``[rows, L, L]``, 0 and 1. Up to two batches per thread are decoded ahead.

    Raises:
        InputError: By the iterator: a record is damaged.
    """
    # Takes a second to import, which only a stream should cost.
    import grain

    def batch(rows: np.ndarray) -> Batch:
        samples = [stored.sample(int(row), sampling) for row in rows]
        return {
            "images": np.stack([sample.image for sample in samples]),
            "labels": np.stack([sample.label for sample in samples]),
        }

    threads = threads or min(os.cpu_count() or 1, MAX_THREADS)
    # Twice as many batches as threads, so that no thread waits for a slower one.
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    batches = iter(grain.MapDataset.source(list(order)).map(batch).to_iter_dataset(options))
    try:
        yield batches
    finally:
        batches.close()
