"""Does evaluate take longer if all masks have different sizes?

    python -m benchmarks.mask_sizes RUN [--rounds 3]

Times ``experiments.evaluate`` on 12 synthetic images of 12 sizes and on 12 of one size, whose area
is the mean of the 12. Both alternate.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks import protocol, report
from jaxseg.data import phantom

SIZES = [(400 + 37 * i, 700 - 23 * i) for i in range(12)]
"""Height and width of the images of different sizes."""
COLUMNS = ("name", "seconds", "fastest", "slowest", "relative_time")


def write_images(folder: Path, sizes: list[tuple[int, int]]) -> None:
    """Writes images and masks of these sizes."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for number, (height, width) in enumerate(sizes):
        sample = phantom.generate(0, "Normal", number, image_size=256, mask_size=256)
        for name, pixels in (("images", sample.image), ("masks", sample.mask)):
            resized = Image.fromarray(pixels).resize((width, height), Image.Resampling.NEAREST)
            resized.save(folder / name / f"{number}.png")


def seconds(run: Path, folder: Path) -> float:
    """Returns the time of one evaluation, from the start of the process."""
    folders = ["--images", folder / "images", "--masks", folder / "masks", "--out", folder / "out"]
    command = [sys.executable, "-m", "experiments.evaluate", run, *folders]
    began = time.perf_counter()
    subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def main() -> None:
    """Measures and publishes."""
    parser = protocol.parser(__doc__)
    parser.add_argument("run", type=Path, help="run directory")
    parser.add_argument("--repeats", type=int, dest="rounds", help="the same as --rounds")
    parser.set_defaults(rounds=3)
    options = parser.parse_args()
    side = round(np.sqrt(np.mean([height * width for height, width in SIZES])))
    kinds = {"one size": [(side, side)] * len(SIZES), "12 sizes": SIZES}
    with tempfile.TemporaryDirectory() as temporary:
        functions = {}
        for name, sizes in kinds.items():
            write_images(Path(temporary, name), sizes)
            functions[name] = lambda name=name: seconds(options.run, Path(temporary, name))
        results = protocol.alternate(functions, options.rounds)
    rows = [{"name": name, **protocol.summary(each)} for name, each in results.items()]
    for row in rows:
        row["relative_time"] = row["seconds"] / rows[0]["seconds"]
    report.publish(report.make("mask_sizes", {}, rows), COLUMNS, options.json)


if __name__ == "__main__":
    main()
