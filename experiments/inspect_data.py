"""Shows what the COVID-19 Radiography Database holds, and what its splits leak.

    python -m experiments.inspect_data [RUN] [--manual-dir DIR] [options]

Prints the dataset's report and how many test images have a near-duplicate among the training
images. Draws contact sheets of near-duplicates.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from tyro.conf import Positional, arg

from experiments import command, dataset, figures, files, scores
from experiments.configs import CONFIGURATIONS
from experiments.runs import RunDirectory
from jaxseg.data.archive import open_archive
from jaxseg.data.arrays import ImageArrays, load_arrays
from jaxseg.data.images import read_image
from jaxseg.data.near_duplicates import closest_pairs, perceptual_hash
from jaxseg.data.splits import leaked
from jaxseg.errors import InputError

HASHED_SIZE = 128
"""Images are hashed at this size."""

PAIRS = 16
"""Pairs on a contact sheet."""

SHEETS = 6
"""At most this many sheets of near-duplicates are drawn."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Show what the database holds, what looks alike in it, and what its splits leak."""

    run: Annotated[Positional[Path | None], arg(metavar="RUN")] = None
    """Run directory: shows the run's data, and its Dice without leaked test images."""
    manual_dir: Path | None = None
    """Folder of the database: Kaggle's archive, or what it unpacks to. Default: synthetic
    images."""
    data_dir: Path | None = None
    """Folder for prepared data and caches. Default: your cache directory."""
    data_config: str = "all"
    """Which classes, without RUN: all, covid, normal, lung_opacity or viral_pneumonia."""
    split: str = "grouped"
    """Split to inspect, without RUN: grouped, random, fold:I/K, model-selection or source:TEXT."""
    skip_bad: bool = False
    """Skip invalid images and list them, instead of stopping with an error."""
    out: Path | None = None
    """Folder for contact sheets. Default: RUN, or next to the prepared data."""


def inspect_data(options: Options) -> None:
    """Prints the report and writes the contact sheets.

    Raises:
        InputError: The database, the run or an option is invalid.
    """
    run = None if options.run is None else RunDirectory(options.run)
    configuration = dataset.Moved(options.manual_dir, options.data_dir).applied_to(
        CONFIGURATIONS["phantom"] if run is None else run.configuration()
    )
    if run is None:
        configuration = configuration.with_data(
            data_config=options.data_config, split=options.split, skip_bad=options.skip_bad
        )
    if configuration.data.images is not None:
        raise InputError("--images: only the COVID-19 Radiography Database can be inspected")
    manual_dir = dataset.database_dir(configuration)
    builder = dataset.prepared(configuration.data, manual_dir)
    if run is not None:
        run.check_same_images(builder.fingerprint)
    arrays = load_arrays(builder, size=HASHED_SIZE, progress=command.bar("decoding images"))
    folder = Path(builder.data_dir)
    print((folder / "report.md").read_text())
    for rule in dict.fromkeys(("random", configuration.data.split)):
        print(leaks(arrays, rule))
    if run is not None:
        print(dice_without_leaks(run, arrays, configuration.data.split))
    out = options.out or (folder if run is None else run.path)
    out.mkdir(parents=True, exist_ok=True)
    for path, drawn in contact_sheets(manual_dir, arrays, builder.report).items():
        files.write_bytes(out / path, drawn)
        print(f"written: {out / path}")


def leaks(arrays: ImageArrays, rule: str) -> str:
    """Returns how many test images share a group with a training image."""
    images = dataset.split(arrays, rule, fingerprint="")
    copies = images.test[leaked(arrays.groups, images.train, images.test)]
    names = ": " + ", ".join(arrays.ids[i] for i in copies) if len(copies) else ""
    return (
        f"split {rule}: {len(images.train)} training images, {len(images.test)} test images, of "
        f"which {len(copies)} have a near-duplicate among the training images{names}"
    )


def dice_without_leaks(run: RunDirectory, arrays: ImageArrays, rule: str) -> str:
    """Returns the mean Dice of the run's test images, of all and of those that did not leak."""
    table = scores.read(run.test_scores)
    dice = dict(zip(table.ids, table.columns["dice"].tolist(), strict=True))
    images = dataset.split(arrays, rule, fingerprint="")
    values = np.array([dice[arrays.ids[i]] for i in images.test])
    is_leaked = leaked(arrays.groups, images.train, images.test)
    means = ", ".join(
        f"{name} ({len(part)}) {np.nanmean(part):.6f}"
        for name, part in (("all", values), ("without leaked", values[~is_leaked]))
        if len(part)
    )
    return f"Dice of {run.path}, test images: {means}"


def contact_sheets(manual_dir: Path, arrays: ImageArrays, report: Any) -> dict[str, bytes]:
    """Returns contact sheets by file name: identical images, near-duplicates, the next closest."""
    identical = [(ids[0], other, "identical") for ids in report["duplicates"] for other in ids[1:]]
    near = sorted(report["near_duplicates"], key=lambda pair: -pair[2])
    hashes = np.stack([perceptual_hash(image[..., 0]) for image in arrays.images])
    closest = [
        (arrays.ids[first], arrays.ids[second], bits)
        for first, second, bits in closest_pairs(hashes, count=PAIRS)
    ]
    kinds = {"identical": identical, "near-duplicates": near, "next-closest": closest}
    sheets = {}
    with open_archive(manual_dir) as archive:
        names = {pair.id: pair.image for pair in archive.pairs(archive.classes)[0]}

        def image(identifier: str) -> np.ndarray:
            name = names[identifier]
            return read_image(archive.read(name), name=name)[..., 0]

        for kind, pairs in kinds.items():
            if len(pairs) > SHEETS * PAIRS:
                print(f"{kind}: the first {SHEETS * PAIRS} of {len(pairs)} pairs are drawn")
            for number, start in enumerate(range(0, min(len(pairs), SHEETS * PAIRS), PAIRS), 1):
                drawn = [
                    (image(first), image(second), f"{first}, {second}: {difference}")
                    for first, second, difference in pairs[start : start + PAIRS]
                ]
                title = f"{kind.capitalize()} (bits of 1,023 that differ)"
                sheets[f"{kind}-{number}.png"] = figures.contact_sheet(drawn, title)
    return sheets


def main() -> None:
    """Reads the command line and inspects."""
    inspect_data(
        tyro.cli(Options, prog="python -m experiments.inspect_data", description=Options.__doc__)
    )


if __name__ == "__main__":
    command.run(main)
