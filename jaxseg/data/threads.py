"""Threads for many images: Pillow, zlib and hashlib work outside the interpreter's lock."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

Progress = Callable[[int, int], None]
"""Called with the number of images done and the number of all images."""

THREADS = 2

# Few enough that little memory is held and that an interruption is quick.
_AT_ONCE = 64


def in_threads(
    function: Callable[[Item], Result], items: Sequence[Item], progress: Progress | None = None
) -> Iterator[Result]:
    """Maps in order, with two threads and never more than 64 results ahead.

    Args:
        function: What to do to each item; safe to call from several threads.
        items: Any number of them.
        progress: Called when a result was used, with the number of these and of all items.

    Yields:
        The results, in the items' order. The first exception ends it.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        for start in range(0, len(items), _AT_ONCE):
            results = pool.map(function, items[start : start + _AT_ONCE])
            for done, result in enumerate(results, start + 1):
                yield result
                if progress is not None:
                    progress(done, len(items))
