"""The published scores: summaries match the images' scores, and the pages match the summaries."""

import contextlib
import csv
import io
import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest

from experiments import comparison_table, scores
from experiments.runs import RunDirectory
from jaxseg import pretrained

pytestmark = pytest.mark.slow

DECIMAL = r"[-+]?\d+\.\d+"
EXPERIMENTS = Path(__file__).parents[1] / "experiments"
RESULTS = EXPERIMENTS / "results"
RUNS = sorted(config.parent for config in RESULTS.glob("*/config.json"))
SUMMARIES = [
    (said, said.parent / table)
    for name, table in [
        ("summary.json", "test_per_image.csv"),
        ("evaluation.json", "per_image.csv"),
        ("ensemble.json", "per_image.csv"),
    ]
    for said in sorted(RESULTS.rglob(name))
]


def per_image(table):
    """The images' scores by column; NaN for an empty cell."""
    with open(table) as file:
        rows = list(csv.DictReader(file))
    assert len({row["id"] for row in rows}) == len(rows)
    return {
        column: np.array([float(row[column] or "nan") for row in rows])
        for column in ("dice", "iou", "hd95", "assd")
    }


@pytest.mark.parametrize(
    ("said", "table"), SUMMARIES, ids=[str(said.relative_to(RESULTS)) for said, _ in SUMMARIES]
)
def test_summaries_are_means_of_the_images_scores(said, table):
    test, scores = json.loads(said.read_text())["test"], per_image(table)
    assert test["images"] == len(scores["dice"])
    for column, values in scores.items():
        assert test[f"{column}_mean"] == pytest.approx(np.nanmean(values), abs=1e-5)


def test_no_result_holds_a_path_of_the_machine_it_was_made_on():
    for file in RESULTS.rglob("*.json*"):
        assert not re.search(r'"/\w+', file.read_text()), file


def sections_of(page):
    """By heading: a page's text, and the cells of its tables by their first two cells."""
    sections = {}
    for section in re.split("^## ", page.read_text(), flags=re.MULTILINE):
        title, *lines = section.splitlines()
        rows = {}
        for line in lines:
            if line.startswith("| "):
                first, second, *others = (cell.strip() for cell in line.strip("|").split("|"))
                assert (first, second) not in rows
                rows[first, second] = others
        sections[title] = (" ".join(lines), rows)
    return sections


def numbers(text):
    return np.array(re.findall(DECIMAL, text), float)


def assert_says(cells, expected, digits):
    """The numbers in the cells begin with those expected, each rounded to so many digits."""
    found = numbers(" ".join(cells))[: len(expected)]
    slack = 1.1 * 10.0 ** -np.array(digits)
    assert len(found) == len(expected)
    assert (np.abs(found - expected) <= slack).all(), (found, expected)


IMAGES = {
    "postprocessed": "test images, post-processed",
    "jsrt": "JSRT",
    "jsrt-postprocessed": "JSRT, post-processed",
}
ROW = [4, 4, 4, 4, 2, 2, 4]
"""Digits of Dice, its interval, IoU, HD95, ASSD and the lowest Dice."""


# Each takes about ten seconds.
TABLES = [
    "split-random-128",
    *(
        pytest.param(f"split-{table}", marks=pytest.mark.slow)
        for table in ("grouped-128", "random-256")
    ),
]


def test_every_published_run_is_in_a_table():
    named = {"split-random-128", "split-grouped-128", "split-random-256"}
    assert {"-".join(run.name.split("-")[1:4]) for run in RUNS} == named


@pytest.fixture(scope="module", params=TABLES)
def group(request):
    """Published runs of one split and size: their section of the README and what a report says."""
    _, split, size = request.param.split("-")
    runs = [run for run in RUNS if f"-{request.param}-" in run.name]
    baseline_first = sorted(runs, key=lambda run: run.name)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        comparison_table.show([RunDirectory(run) for run in baseline_first])
    text, table = sections_of(EXPERIMENTS / "README.md")[f"Split `{split}`, {size} x {size}"]
    lines = [line for line in printed.getvalue().splitlines() if line.startswith("| ")]
    return text, table, [line.strip("| ").split(" | ") for line in lines]


def test_the_readme_says_what_a_report_of_the_published_runs_says(group):
    text, table, (headers, _, *rows) = group
    columns = itertools.zip_longest(headers[2:], *(row[2:] for row in rows), fillvalue="")
    filled = [name for name, *cells in columns if any(cell.strip() for cell in cells)]
    assert list(table["recipe", "images"]) == filled
    assert any(", over images" in recipe for recipe, *_ in rows)
    for recipe, images, *cells in rows:
        label, name = re.sub("(baseline|lungs)", r"`\1`", recipe), images.rsplit(" (", 1)[0]
        published = table[label, IMAGES.get(name, "test images")]
        digits = [len(decimals) for decimals in re.findall(r"\.(\d+)", " ".join(published))]
        assert_says(published, numbers(" ".join(cells)), digits)
    for name in ("test images", "JSRT"):
        if len({recipe for recipe, where in table if where == name}) > 1:
            recipes = ("`baseline`", "`lungs`")
            worse, better = (1 - numbers(table[recipe, name][0])[0] for recipe in recipes)
            assert f"{1 - better / worse:.0%}".replace("%", " % lower") in text


@pytest.mark.parametrize("where", ["test images", "JSRT"])
@pytest.mark.parametrize("split", ["random", "grouped"])
def test_the_readme_says_what_the_published_ensemble_scores(split, where):
    folder = RESULTS / f"ensemble-lungs-split-{split}-128" / ("jsrt" if where == "JSRT" else "")
    ensemble = json.loads((folder / "ensemble.json").read_text())
    test, disagreement = ensemble["test"], ensemble["disagreement"]
    text, table = sections_of(EXPERIMENTS / "README.md")[f"Split `{split}`, 128 x 128"]
    names = ("iou_mean", "hd95_mean", "assd_mean", "dice_worst")
    expected = [test["dice_mean"], *test["dice_ci95"], *(test[name] for name in names)]
    expected.append(test["calibration"]["expected_error"])
    assert_says(table["ensemble of three `lungs`", where], expected, [*ROW, 4])
    assert f"{disagreement['rank_correlation']:.2f}" in text
    assert f"{disagreement['worst_found']:.0%}".replace("%", " %") in text


def test_the_first_page_says_what_the_results_say():
    shown, rows = sections_of(EXPERIMENTS.parent / "README.md")["Results"]
    _, table = sections_of(EXPERIMENTS / "README.md")["Split `random`, 128 x 128"]
    own = [cells for (run, _), cells in rows.items() if "seeds" in run or "` runs" in run]
    assert len(own) == 5, shown
    places = [("`baseline`", "test images"), ("`baseline`", "JSRT"), ("`lungs`", "test images")]
    places += [("`lungs`", "JSRT"), ("`lungs`", "JSRT, post-processed")]
    for cells, place in zip(own, places, strict=True):
        assert_says(cells, numbers(" ".join(table[place]))[:6], ROW[:6])


def test_the_model_card_says_what_the_pretrained_network_scores():
    _, table = sections_of(EXPERIMENTS.parent / "docs/model_card.md")["Scores"]
    folders = sorted((RESULTS / "pretrained-lungs").glob("*/evaluation.json"))
    assert len(folders) == len(table) - 1 == 4
    for path in folders:
        said = json.loads(path.read_text())
        test, is_postprocessed = said["test"], said["postprocessing"]["fill_holes"]
        place = "JSRT" if "jsrt" in path.parent.name else "Viral Pneumonia"
        cells = table[f"{test['images']} of {place}", "yes" if is_postprocessed else "no"]
        intervals = _intervals(path.with_name("per_image.csv"))
        expected = [number for interval in intervals for number in interval]
        expected += [test["dice_worst"], test["calibration"]["expected_error"]]
        assert_says(cells, expected, [4, 4, 4, 4, 4, 4, 2, 2, 2, 2, 2, 2, 4, 4])


def test_the_first_page_says_what_the_pretrained_network_scores():
    _, rows = sections_of(EXPERIMENTS.parent / "README.md")["Results"]
    own = [cells for (run, _), cells in rows.items() if "network" in run or "pretrained" in run]
    folders = ("test", "jsrt", "jsrt-postprocessed")
    for cells, folder in zip(own, folders, strict=True):
        said = json.loads((RESULTS / "pretrained-lungs" / folder / "evaluation.json").read_text())
        test = said["test"]
        names = ("iou_mean", "hd95_mean", "assd_mean", "pixel_accuracy")
        expected = [test["dice_mean"], *test["dice_ci95"], *(test[name] for name in names)]
        assert_says(cells, expected, [4, 4, 4, 4, 2, 2, 4])


def test_the_guide_says_what_the_learning_curve_is():
    _, table = sections_of(EXPERIMENTS.parent / "docs/fine_tuning.md")["What it gains"]
    with open(RESULTS / "learning-curve.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * (len(table) - 1) == 8
    for row in rows:
        (cells,) = (
            [key[1], *own] for key, own in table.items() if key[0] == row["training_images"]
        )
        cell = cells[0 if row["start"] == "pretrained" else 1]
        expected = [float(row[name]) for name in ("dice", "low", "high")]
        assert_says([cell], expected, [4, 4, 4])


def test_the_guide_says_what_the_learning_curve_with_heart_is():
    _, table = sections_of(EXPERIMENTS.parent / "docs/fine_tuning.md")["With a second class"]
    with open(RESULTS / "learning-curve-heart.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 * (len(table) - 1) == 16
    cells = {count: [first, *others] for (count, first), others in table.items()}
    columns = [(name, start) for name in ("heart", "lungs") for start in ("pretrained", "random")]
    for row in rows:
        cell = cells[row["training_images"]][columns.index((row["class"], row["start"]))]
        assert_says([cell], [float(row[name]) for name in ("dice", "low", "high")], [4, 4, 4])


def test_the_page_on_jsrt_says_what_its_run_scores():
    _, table = sections_of(EXPERIMENTS.parent / "docs/jsrt.md")["# Lungs and heart on JSRT"]
    run = json.loads((RESULTS / "jsrt-lungs-heart/summary.json").read_text())
    for name, test in run["test"]["classes"].items():
        (cells,) = ([key[1], *own] for key, own in table.items() if key[0] == name)
        names = ("iou_mean", "hd95_mean", "assd_mean")
        expected = [test["dice_mean"], *test["dice_ci95"], *(test[name] for name in names)]
        assert_says(cells, expected, [4, 4, 4, 4, 2, 2])


def _intervals(table):
    """Means and 95 % intervals of Dice, IoU, HD95 and ASSD."""
    read = scores.read(table)
    for name in ("dice", "iou", "hd95", "assd"):
        interval = scores.bootstrap_interval(read.columns[name], read.groups)
        yield interval.mean, interval.low, interval.high


def test_the_weights_are_those_of_the_run_whose_scores_are_published():
    own = json.loads((pretrained.FOLDER / "lungs.json").read_text())["summary"]["test"]
    again = json.loads((RESULTS / "pretrained-lungs/test/evaluation.json").read_text())["test"]
    for name in ("dice_mean", "iou_mean", "hd95_mean", "assd_mean"):
        assert own[name] == pytest.approx(again[name], rel=1e-4)
