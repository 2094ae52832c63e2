"""A rehearsal on a release of full size: time, peak memory, and what the report finds.

    python -m benchmarks.full_release [--archive DIR] [--arrays SIZE]

Writes a synthetic release of 21,165 images in the layout and sizes of the real one, with coarse
squares as images. A separate process prepares it. ``--archive`` keeps the release, or uses it if
it is there. Needs 1 GB of disk, and 4 GB more with ``--arrays 256``.
"""

import os
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from benchmarks import protocol, report
from benchmarks.worker import peak_megabytes
from experiments.command import bar
from jaxseg.data import phantom
from jaxseg.data.archive import RELEASE_COUNTS

COLUMNS = ("name", "seconds", "processor_seconds", "peak_MB")


def coarse(seed: int, class_name: str, number: int) -> phantom.Sample:
    """Generates squares as an image and two ellipses as a mask, in a hundredth of the time."""
    rng = np.random.default_rng([seed, zlib.crc32(class_name.encode()), number])
    image = np.kron(rng.integers(0, 256, (23, 23), np.uint8), np.ones((13, 13), np.uint8))
    rows, columns = np.mgrid[:256, :256]
    height, width, middle = rng.integers((70, 30, 110), (110, 55, 146))
    apart = (np.abs(columns - middle) - 55) / width
    return phantom.Sample(image, 255 * (((rows - 128) / height) ** 2 + apart**2 < 1).astype("u1"))


def write_release(folder: Path, counts: dict[str, int]) -> None:
    """Writes the archive."""
    with mock.patch.object(phantom, "generate", coarse):
        phantom.write_archive(folder, images=counts, progress=bar("writing the release"))


def rehearse(archive: str, data_dir: str, size: int | None) -> dict[str, Any]:
    """Prepares the release in this process; returns rows and what the report found."""
    from jaxseg.data.arrays import load_arrays
    from jaxseg.data.covid_radiography import prepare

    rows = []

    def timed(name: str, call: Callable[[], Any]) -> Any:
        began, used = time.perf_counter(), time.process_time()
        result = call()
        row = {"name": name, "seconds": time.perf_counter() - began}
        row |= {"processor_seconds": time.process_time() - used, "peak_MB": peak_megabytes()}
        rows.append(row)
        return result

    builder = timed("build", lambda: prepare(archive, data_dir))
    timed("open what is built", lambda: prepare(archive, data_dir))
    if size is not None:
        for name in (f"arrays at {size}", "open the arrays"):
            timed(name, lambda: load_arrays(builder, size=size))
    found = builder.report
    names = ("images", "duplicates", "near_duplicates", "empty_masks", "skipped")
    return {"rows": rows, **{name: found[name] for name in names}}


def check(found: dict[str, Any], counts: dict[str, int]) -> None:
    """Raises AssertionError if the report lacks what was written, or memory reached 1 GB."""
    for name, splits in found["images"].items():
        assert sum(splits.values()) == counts[name], name
    repeats = sum(number % 60 == 5 for count in counts.values() for number in range(1, count + 1))
    assert len(found["duplicates"]) == repeats
    assert not found["near_duplicates"]
    assert not found["empty_masks"]
    assert not found["skipped"]
    assert found["rows"][0]["peak_MB"] < 1000, "the build took 1 GB of memory or more"


def main() -> None:
    """Rehearses and publishes."""
    parser = protocol.parser(__doc__)
    parser.add_argument("--archive", type=Path, help="folder that keeps archive.zip")
    parser.add_argument("--arrays", type=int, metavar="SIZE", help="also make the array cache")
    parser.add_argument("--images", type=int, default=sum(RELEASE_COUNTS.values()), help="21,165")
    options = parser.parse_args()
    part = options.images / sum(RELEASE_COUNTS.values())
    counts = {name: max(1, round(part * count)) for name, count in RELEASE_COUNTS.items()}
    with tempfile.TemporaryDirectory() as scratch:
        folder, data_dir = options.archive or Path(scratch, "release"), Path(scratch, "data")
        if not (folder / "archive.zip").exists():
            write_release(folder, counts)
        with protocol.process() as process:
            found = process.submit(rehearse, str(folder), str(data_dir), options.arrays).result()
        files = [path for path in data_dir.rglob("*") if path.is_file()]
        sizes = {"archive": os.path.getsize(folder / "archive.zip")}
        sizes["prepared"] = sum(path.stat().st_size for path in files)
    settings = {"images": sum(counts.values()), "size": options.arrays}
    made = report.make("full_release", settings, found["rows"])
    report.publish(made, COLUMNS, options.json)
    print(f"\nbytes on disk: {sizes}\nimages: {found['images']}")
    check(found, counts)


if __name__ == "__main__":
    main()
