"""A rehearsal on a release of full size: build time, peak memory, sizes on disk, split counts.

    python -m benchmarks.full_release [--archive DIR] [--arrays SIZE]

Draws a synthetic release in the real one's layout: 21,165 films and masks at its sizes in little
detail, four metadata sheets, 140 RGB films, RGB masks, seven pairs of films with the same bytes.
It is built in a process of its own, whose peak memory is told. Drawing takes a minute or two and is
not timed; ``--archive`` keeps what is drawn, or uses it. Needs 1 GB of disk, with ``--arrays 256``
(the array cache at 256 x 256 too) 4 GB more.
"""

import argparse
import io
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from experiments.command import bar
from jaxseg.data.archive import FOLDER_NAME, RELEASE_COUNTS, open_archive

SAME_BYTES = ((74, 75), (117, 118), (249, 250), (294, 295), (595, 596), (953, 954), (1052, 1053))
"""Numbers of the Viral Pneumonia films that the release holds twice."""

RGB_FILMS = 140
"""Viral Pneumonia films stored as RGB; which ones they are does not matter here."""

SOURCES = {
    "COVID": {
        "https://bimcv.cipf.es/bimcv-projects/bimcv-covid19": 2473,
        "https://github.com/ml-workgroup/covid-19-image-repository": 183,
        "https://sirm.org/category/senza-categoria/covid-19": 560,
        "https://github.com/armiro/COVID-CXNet": 400,
    },
    "Lung_Opacity": {"https://www.kaggle.com/c/rsna-pneumonia-detection-challenge": 6012},
    "Normal": {
        "https://www.kaggle.com/c/rsna-pneumonia-detection-challenge": 8851,
        "https://www.kaggle.com/paultimothymooney/chest-xray-pneumonia": 1341,
    },
    "Viral Pneumonia": {"https://www.kaggle.com/paultimothymooney/chest-xray-pneumonia": 1345},
}


def draw_release(path: Path) -> None:
    """Writes the zip; a film's pixels depend on its class and number alone."""
    total, done, tell = sum(RELEASE_COUNTS.values()), 0, bar("drawing the release")
    unfinished = path.with_suffix(".part")
    with zipfile.ZipFile(unfinished, "w") as archive:
        for place, (class_name, count) in enumerate(RELEASE_COUNTS.items()):
            for number in range(1, count + 1):
                stem = f"{class_name}-{number}.png"
                image, mask = _pair(place, class_name, number)
                archive.writestr(f"{FOLDER_NAME}/{class_name}/images/{stem}", image)
                archive.writestr(f"{FOLDER_NAME}/{class_name}/masks/{stem}", mask)
                done += 1
                tell(done, total)
            archive.writestr(f"{FOLDER_NAME}/{class_name}.metadata.xlsx", _sheet(class_name))
        archive.writestr(f"{FOLDER_NAME}/README.md.txt", "A rehearsal; no film shows anything.\n")
    unfinished.rename(path)


def build(archive_dir: Path, data_dir: Path, size: int | None) -> None:
    """Prepares the release in this process and prints what it took, as JSON."""
    from jaxseg.data.arrays import load_arrays
    from jaxseg.data.covid_radiography import prepare

    warnings.simplefilter("error")
    rows = []

    def timed(step: str, call: Callable[[], Any]) -> Any:
        began, began_cpu = time.perf_counter(), time.process_time()
        result = call()
        seconds, cpu = time.perf_counter() - began, time.process_time() - began_cpu
        rows.append((step, round(seconds, 1), round(cpu, 1), _peak_mb()))
        return result

    builder = timed("build", lambda: prepare(archive_dir, data_dir, progress=bar("building")))
    timed("finding it prepared", lambda: prepare(archive_dir, data_dir))
    if size is not None:
        for step in (f"arrays at {size}", "finding them"):
            timed(step, lambda: load_arrays(builder, size=size, progress=bar("decoding films")))
    report = builder.report
    found = {
        "images": report["images"],
        "same bytes": report["duplicates"],
        "near-duplicates": len(report["near_duplicates"]),
        "unusual": report["unusual"],
        "skipped": len(report["skipped"]),
        "sources": {name: len(counts) for name, counts in report["sources"].items()},
    }
    print(json.dumps({"steps": rows, **found}))


def show(archive: Path, data_dir: Path, measured: dict) -> None:
    """Prints the tables."""
    import tensorflow_datasets as tfds

    versions = f"tensorflow-datasets {tfds.__version__}, NumPy {np.__version__}"
    print(f"\n{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, "
          f"{versions}\n")  # fmt: skip
    print("| step | seconds | of CPU time | peak memory so far, MB |\n|---|---|---|---|")
    for row in measured["steps"]:
        print("| " + " | ".join(map(str, row)) + " |")
    print("\n| on disk | MB |\n|---|---|")
    print(f"| archive | {archive.stat().st_size / 1e6:.0f} |")
    for folder in sorted(path for path in data_dir.rglob("*") if path.is_dir()):
        files = [file for file in folder.iterdir() if file.is_file()]
        if size := sum(file.stat().st_size for file in files):
            print(f"| {folder.relative_to(data_dir)} | {size / 1e6:.0f} |")
    print("\n| class | train | validation | test | all | sources |\n|---|---|---|---|---|---|")
    for name, counts in measured["images"].items():
        cells = [*counts.values(), sum(counts.values()), measured["sources"][name]]
        print(f"| {name} | " + " | ".join(map(str, cells)) + " |")
    totals = [
        sum(counts[split] for counts in measured["images"].values())
        for split in ("train", "validation", "test")
    ]
    print("| all | " + " | ".join(map(str, [*totals, sum(totals), ""])) + " |\n")
    for name in ("same bytes", "near-duplicates", "unusual", "skipped"):
        print(f"{name}: {measured[name]}")


def check(measured: dict) -> None:
    """Raises AssertionError where the build did not find what was drawn, or took too much."""
    for name, counts in measured["images"].items():
        assert sum(counts.values()) == RELEASE_COUNTS[name], name
    pairs = [[f"Viral Pneumonia-{number}" for number in pair] for pair in SAME_BYTES]
    assert measured["same bytes"] == pairs
    assert measured["near-duplicates"] == measured["skipped"] == 0
    assert measured["unusual"]["image stored as RGB"] == RGB_FILMS
    assert measured["unusual"]["mask stored as RGB"] == sum(RELEASE_COUNTS.values())
    assert measured["steps"][0][-1] < 1000, "the build took 1 GB of memory or more"


def _pair(place: int, class_name: str, number: int) -> tuple[bytes, bytes]:
    """A film of coarse squares and a mask of two ellipses, as PNG files."""
    # No film of a pair has this remainder: both of a pair are grey.
    coloured = class_name == "Viral Pneumonia" and number % 9 == 4 and number < 9 * RGB_FILMS
    if class_name == "Viral Pneumonia":
        number = {second: first for first, second in SAME_BYTES}.get(number, number)
    rng = np.random.default_rng([place, number])
    film = np.kron(rng.integers(0, 256, (23, 23), np.uint8), np.ones((13, 13), np.uint8))
    rows, columns = np.mgrid[:256, :256]
    height, width, middle = rng.integers((70, 30, 110), (110, 55, 146))
    apart = (np.abs(columns - middle) - 55) / width
    mask = 255 * (((rows - 128) / height) ** 2 + apart**2 < 1).astype(np.uint8)
    return _png(film, "RGB" if coloured else "L"), _png(mask, "RGB")


def _png(pixels: np.ndarray, mode: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, "PNG")
    return file.getvalue()


def _sheet(class_name: str) -> bytes:
    """A class's metadata sheet; as released, it misstates the size and shouts NORMAL."""
    import openpyxl

    book = openpyxl.Workbook(write_only=True)
    page = book.create_sheet()
    stem = class_name.upper() if class_name == "Normal" else class_name
    page.append(["FILE NAME", "FORMAT", "SIZE", "URL"])
    for number, source in enumerate(_every_source(class_name), 1):
        page.append([f"{stem}-{number}", "PNG", "256*256", source])
    file = io.BytesIO()
    book.save(file)
    return file.getvalue()


def _every_source(class_name: str) -> Iterator[str]:
    for source, count in SOURCES[class_name].items():
        yield from [source] * count


def _peak_mb() -> int:
    """The most memory that this process has held, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Kilobytes on Linux, bytes on macOS.
    return round(peak / (1e6 if sys.platform == "darwin" else 1e3 / 1.024))


def main() -> None:
    """Reads the command line and rehearses."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--archive", type=Path, help="folder that keeps the drawn archive.zip")
    parser.add_argument("--arrays", type=int, metavar="SIZE", help="make the array cache as well")
    parser.add_argument("--data-dir", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.data_dir is not None:
        build(options.archive, options.data_dir, options.arrays)
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.archive or Path(scratch, "release")
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "archive.zip").exists():
            draw_release(folder / "archive.zip")
        with open_archive(folder) as archive:
            assert archive.classes == tuple(RELEASE_COUNTS)
        data_dir = Path(scratch, "data")
        command = [sys.executable, "-m", "benchmarks.full_release", "--archive", folder]
        command += ["--data-dir", data_dir]
        command += [] if options.arrays is None else ["--arrays", str(options.arrays)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        measured = json.loads(done.stdout)
        show(folder / "archive.zip", data_dir, measured)
        check(measured)


if __name__ == "__main__":
    main()
