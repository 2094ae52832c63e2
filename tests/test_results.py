"""The published scores: each table says what its films say, and the README what the tables say."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest

from experiments import comparison_page
from experiments.run_directory import RunDirectory

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


def films(table):
    """By column the films' values; NaN where a cell is empty."""
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
def test_summaries_are_of_the_films_beside_them(said, table):
    test, of_films = json.loads(said.read_text())["test"], films(table)
    assert test["images"] == len(of_films["dice"])
    for column, values in of_films.items():
        assert test[f"{column}_mean"] == pytest.approx(np.nanmean(values), abs=1e-5)


def test_no_result_holds_a_path_of_the_machine_it_was_made_on():
    for file in RESULTS.rglob("*.json*"):
        assert not re.search(r'"/\w+', file.read_text()), file


@pytest.mark.parametrize("group", sorted({"-".join(run.name.split("-")[1:4]) for run in RUNS}))
def test_the_readme_says_what_a_report_of_the_published_runs_says(group, tmp_path, capsys):
    runs = [run for run in RUNS if f"-{group}-" in run.name]
    seed_first = sorted(runs, key=lambda run: (not run.name.startswith("seed-"), run.name))
    comparison_page.write([RunDirectory(run) for run in seed_first], tmp_path / "comparison.html")
    rows = [
        np.array(re.findall(DECIMAL, row), float)
        for row in (EXPERIMENTS / "README.md").read_text().splitlines()
        if row.startswith("|")
    ]
    for said in capsys.readouterr().out.splitlines():
        if " less " in said:
            found = re.findall(f"({DECIMAL}) \\(({DECIMAL}) to ({DECIMAL})\\)", said)
            expected = np.array(found, float).ravel()
            slack = np.repeat([1.1e-4, 1.1e-4, 0.011, 0.011], 3)
        elif " interval " in said:
            dice, low, high, *_, worst, iou, hd95, assd, _ = re.findall(DECIMAL, said)
            expected = np.array([dice, low, high, iou, hd95, assd, worst], float)
            slack = np.array([1.1e-4] * 4 + [0.011] * 2 + [1.1e-3])
        else:
            continue
        n = len(expected)
        assert any(len(row) >= n and (np.abs(row[:n] - expected) <= slack).all() for row in rows), (
            said
        )
