"""Shows what a data set holds: its report, its near duplicates as pictures, what each split leaks.

    python -m experiments.inspect_data [RUN] [--manual-dir DIR] [--data-dir DIR]
        [--data-config NAME] [--split RULE] [--skip-bad] [--out DIR]

With a run it shows the run's data, its Dice with and without the test films that leaked, and that
of the labels it learnt from.
"""

import csv
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from tyro.conf import Positional

from experiments import command, films, pair_sheet
from experiments.configuration import Configuration
from experiments.configurations import CONFIGURATIONS
from experiments.run_directory import RunDirectory, write_bytes
from jaxseg import metrics
from jaxseg.data.archive import open_archive
from jaxseg.data.arrays import ImageArrays, load_arrays
from jaxseg.data.images import read_image
from jaxseg.data.near_duplicates import MAX_HASH_DISTANCE, closest_pairs, perceptual_hash
from jaxseg.data.splits import leaked
from jaxseg.errors import InputError
from jaxseg.inference import resize_logits_on_host

HASHED_SIZE = 128
"""Perceptual hashes are of films at this size, so that nothing larger need be decoded."""

PAIRS_A_SHEET = 16
MOST_SHEETS = 6


@dataclasses.dataclass(frozen=True)
class Options:
    """Shows what a data set holds, what looks alike in it, and what its splits leak."""

    run: Positional[Path | None] = None
    """Run directory, to show its data, what its test films leaked and what its labels lost; the
    options below then only say where things lie."""
    manual_dir: Path | None = None
    """Folder that holds Kaggle's archive, or its unpacked folder; drawn films unless given."""
    data_dir: Path | None = None
    """Where prepared data and arrays are kept; the user's cache unless given."""
    data_config: str = "all"
    """Which classes: all, covid, normal, lung_opacity or viral_pneumonia."""
    split: str = "grouped"
    """Split to count films of: seed, grouped, choosing or source:TEXT."""
    skip_bad: bool = False
    """Leave out films that will not do, and count them in the report, in place of an error."""
    out: Path | None = None
    """Folder for the picture sheets; the run's, or beside the prepared data, unless given."""
    closest: int = PAIRS_A_SHEET
    """How many pairs of films to show that are most alike but no near duplicates."""


def inspect_data(options: Options) -> None:
    """Prints the report and writes the picture sheets.

    Raises:
        InputError: The archive, the run or an option will not do.
    """
    if options.closest < 0:
        raise InputError("--closest: must not be negative")
    run = None if options.run is None else RunDirectory(options.run)
    configuration = configuration_of(options, run)
    if configuration.images is not None:
        raise InputError(f"{options.run}: was trained on films of one's own, not on an archive")
    manual_dir = films.archive_dir(configuration)
    builder = films.prepared(configuration, manual_dir)
    if run is not None:
        run.check_same_films(builder.fingerprint)
    arrays = load_arrays(builder, size=HASHED_SIZE, progress=command.bar("decoding films"))
    version_dir = Path(builder.data_dir)
    print((version_dir / "report.md").read_text())
    print_leaks(arrays, configuration.split)
    if run is not None:
        print(dice_with_and_without_leaked(run, arrays, configuration.split))
        print(dice_of_labels(films.of_builder(configuration, builder)))
    out = options.out or (version_dir if run is None else run.path)
    out.mkdir(parents=True, exist_ok=True)
    written = write_sheets(out, manual_dir, arrays, builder.report, options.closest)
    print("to judge by eye: " + (", ".join(map(str, written)) or "no pairs"))


def configuration_of(options: Options, run: RunDirectory | None) -> Configuration:
    """The run's configuration, or one of the options; given places are the options' anyway."""
    places = films.OwnPlaces(options.manual_dir, options.data_dir)
    if run is not None:
        return places.of(run.configuration())
    return dataclasses.replace(
        places.of(CONFIGURATIONS["phantom"]),
        data_config=options.data_config,
        split=options.split,
        skip_bad=options.skip_bad,
    )


def print_leaks(arrays: ImageArrays, rule: str) -> None:
    """Prints which test films share a group with a training film: by the seed's rule, by ours."""
    print("## What is learnt from and what is scored\n")
    for name in dict.fromkeys(("seed", rule)):
        chosen = films.split(arrays, name, fingerprint="")
        copied = chosen.test[leaked(arrays.groups, chosen.train, chosen.test)]
        names = ": " + ", ".join(arrays.ids[film] for film in copied) if len(copied) else ""
        print(
            f"- split {name}: {len(chosen.train)} films to learn from, {len(chosen.test)} to test "
            f"on, of which {len(copied)} have a copy among the former{names}"
        )
    print()


def dice_with_and_without_leaked(run: RunDirectory, arrays: ImageArrays, rule: str) -> str:
    """The mean Dice of the run's test films: all, those without a copy in train, and the others.

    Raises:
        InputError: The run has not scored its test films.
    """
    if not run.test_scores.exists():
        raise InputError(f"{run.path}: has no {run.test_scores.name} yet")
    with run.test_scores.open() as file:
        dice = {row["id"]: float(row["dice"] or "nan") for row in csv.DictReader(file)}
    chosen = films.split(arrays, rule, fingerprint="")
    values = np.array([dice[arrays.ids[film]] for film in chosen.test])
    copied = leaked(arrays.groups, chosen.train, chosen.test)
    parts = {"all test films": values, "without those": values[~copied], "those": values[copied]}
    parts = {f"{name}, {len(part)}": part[~np.isnan(part)] for name, part in parts.items()}
    return (
        f"Dice of {run.path}, apart for test films with a copy in train: "
        + "; ".join(f"{name}: {part.mean():.6f}" for name, part in parts.items() if len(part))
        + "\n"
    )


def dice_of_labels(own: films.Films) -> str:
    """What masks lose by being resized to labels: these, resized as logits are, against masks.

    A network that does no more than repeat its labels has this Dice.
    """
    size, dice = own.arrays.labels.shape[1], []
    for film in own.test:
        mask = own.arrays.masks[film].astype(np.int32)
        logits = 2.0 * own.arrays.labels[film][..., None].astype(np.float32) - 1.0
        labels = resize_logits_on_host(logits, mask.shape)[None]
        counts = metrics.count(metrics.predicted_labels(labels), mask[None], num_classes=1)
        dice.append(float(metrics.dice(counts)[0, 0]))
    return (
        f"Dice of the labels of {size} x {size} themselves, on the masks' own grid, "
        f"{len(dice)} test films: {np.nanmean(dice):.6f}\n"
    )


def write_sheets(
    out: Path, manual_dir: Path, arrays: ImageArrays, report: Any, closest: int
) -> list[Path]:
    """Writes the pairs of films as pictures: the same bytes, near duplicates, the next closest."""
    same = [
        (group[0], other, "same bytes") for group in report["duplicates"] for other in group[1:]
    ]
    near = sorted(report["near_duplicates"], key=lambda pair: -pair[2])
    hashes = np.stack([perceptual_hash(film[..., 0]) for film in arrays.images])
    others = [
        (arrays.ids[one], arrays.ids[other], f"{bits} bits differ")
        for one, other, bits in (closest_pairs(hashes, count=closest) if closest else [])
    ]
    kinds = {
        "same-bytes": ("Films with the same bytes", same),
        "near-duplicates": (f"Near duplicates (at most {MAX_HASH_DISTANCE} bits differ)", near),
        "next-closest": ("Most alike of those that are no near duplicates", others),
    }
    written = []
    for name, (title, pairs) in kinds.items():
        for sheet, start in enumerate(range(0, len(pairs), PAIRS_A_SHEET), 1):
            if sheet > MOST_SHEETS:
                print(f"{name}: the first {start} of {len(pairs)} pairs are drawn")
                break
            path = out / f"{name}-{sheet}.png"
            drawn = _read(manual_dir, pairs[start : start + PAIRS_A_SHEET])
            write_bytes(path, pair_sheet.draw(drawn, title))
            written.append(path)
    return written


def _read(manual_dir: Path, pairs: Sequence[Any]) -> list[tuple[np.ndarray, np.ndarray, str]]:
    """The films of each pair from the archive, and their caption."""
    with open_archive(manual_dir) as archive:
        names = {pair.id: pair.image for pair in archive.pairs(archive.classes)[0]}

        def film(name: str) -> np.ndarray:
            return read_image(archive.read(names[name]), name=names[name])[..., 0]

        return [
            (
                film(one),
                film(other),
                f"{one}, {other}: {bits if isinstance(bits, str) else f'{bits} bits'}",
            )
            for one, other, bits in pairs
        ]


def main() -> None:
    """Reads the command line and inspects."""
    inspect_data(
        tyro.cli(Options, prog="python -m experiments.inspect_data", description=Options.__doc__)
    )


if __name__ == "__main__":
    command.run(main)
