"""Batches of films decoded while others are learnt from: for films that no device holds at once.

Grain reads and decodes ahead in threads. What comes is what the arrays of `jaxseg.data.arrays` give
for the same films, bit for bit.
"""

import contextlib
import functools
import os
from collections.abc import Iterator

import numpy as np
from jaxtyping import Int

from jaxseg.data.cache import Pair
from jaxseg.data.films import Resize
from jaxseg.data.preprocessing import Preprocessing
from jaxseg.data.records import StoredFilms

Batch = dict[str, np.ndarray]

MOST_THREADS = 16
"""Beyond about so many the interpreter's lock bounds the rate."""


class FilmStream:
    """Films of a prepared data set, decoded in the order that is asked for."""

    def __init__(
        self,
        films: StoredFilms,
        *,
        size: int,
        label_size: int | None = None,
        film_resize: Resize = "bilinear",
        preprocessing: Preprocessing = "none",
        threads: int | None = None,
    ):
        """Decodes nothing yet.

        Args:
            films: the films.
            size: the side in pixels that films are resized to, 1 or more.
            label_size: the side that labels are resized to; None for the films'.
            film_resize: how films are resized, ``bilinear`` (antialiased) or ``nearest``; masks
                always nearest.
            preprocessing: what is done to a film's grey values before it is resized.
            threads: how many decode; one a processor, at most `MOST_THREADS`, unless given.
        """
        self._films = films
        self._decode = functools.partial(
            films.pair,
            size=size,
            label_size=label_size,
            film_resize=film_resize,
            preprocessing=preprocessing,
        )
        self._threads = threads or min(os.cpu_count() or 1, MOST_THREADS)

    @contextlib.contextmanager
    def batches(self, order: Int[np.ndarray, "steps rows"]) -> Iterator[Iterator[Batch]]:
        """Opens a stream of batches; its threads end with the ``with`` block.

        To go on in the middle of an order, give what is left of it: nothing before is decoded. A
        process that needs only some rows of each batch gives only these.

        Args:
            order: which films, as places in ``films.records``, make each batch; -1 for a row that
                only pads it.

        Yields:
            An iterator of dicts: ``images`` uint8 ``[rows, S, S, 1]``, ``labels`` uint8
            ``[rows, L, L]``, 0 and 1, ``valid`` bool ``[rows]``. Rows that pad hold film 0. A few
            batches (two a thread) are decoded ahead.

        Raises:
            InputError: by the iterator: a film's record is damaged.
        """
        # Takes a second to load, which only those should pay who stream.
        import grain

        # Twice as many batches as threads, so that none waits while another's batch is late.
        options = grain.ReadOptions(
            num_threads=self._threads, prefetch_buffer_size=2 * self._threads
        )
        dataset = grain.MapDataset.source(list(order)).map(self._batch)
        batches = iter(dataset.to_iter_dataset(options))
        try:
            yield batches
        finally:
            batches.close()

    def _batch(self, rows: np.ndarray) -> Batch:
        pairs = [self._decode(int(row)) if row >= 0 else self._padding for row in rows]
        return {
            "images": np.stack([pair.image for pair in pairs])[..., None],
            "labels": np.stack([pair.label for pair in pairs]),
            "valid": rows >= 0,
        }

    @functools.cached_property
    def _padding(self) -> Pair:
        return self._decode(0)
