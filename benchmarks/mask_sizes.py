"""Does evaluate take longer if all masks have different sizes?

    python -m benchmarks.mask_sizes RUN [--repeats 3]

Times ``experiments.evaluate`` on 12 synthetic images of 12 sizes and on 12 of one size, whose area
is the mean of the 12, in alternation. Prints the medians and their ratio.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from jaxseg.data import phantom

SIZES = [(400 + 37 * i, 700 - 23 * i) for i in range(12)]
"""Height and width of the images of different sizes."""


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
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    side = round(np.sqrt(np.mean([height * width for height, width in SIZES])))
    kinds = {"12 sizes": SIZES, "one size": [(side, side)] * len(SIZES)}
    times: dict[str, list[float]] = {kind: [] for kind in kinds}
    with tempfile.TemporaryDirectory() as temporary:
        for kind, sizes in kinds.items():
            write_images(Path(temporary, kind), sizes)
        for _ in range(options.repeats):
            for kind in kinds:
                times[kind].append(seconds(options.run, Path(temporary, kind)))
    medians = {kind: statistics.median(values) for kind, values in times.items()}
    for kind, median in medians.items():
        print(f"{kind}: {median:.1f} s ({', '.join(f'{value:.1f}' for value in times[kind])})")
    print(f"ratio: {medians['12 sizes'] / medians['one size']:.2f}")


if __name__ == "__main__":
    main()
