"""The published scores: each table says what its films say, and the README what the tables say."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
RUNS = sorted(config.parent for config in (EXPERIMENTS / "results").glob("*/config.json"))


def films(table):
    """By column the films' values; NaN where a cell is empty."""
    with open(table) as file:
        rows = list(csv.DictReader(file))
    assert len({row["id"] for row in rows}) == len(rows)
    return {
        column: np.array([float(row[column] or "nan") for row in rows])
        for column in ("dice", "iou", "hd95", "assd")
    }


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_summaries_are_of_the_films_beside_them(run):
    pairs = [(run / "summary.json", run / "test_per_image.csv")]
    pairs += [(said, said.parent / "per_image.csv") for said in run.glob("*/evaluation.json")]
    for said, table in pairs:
        test = json.loads(said.read_text())["test"]
        for column, values in films(table).items():
            assert test[f"{column}_mean"] == pytest.approx(np.nanmean(values), abs=1e-5)
        assert test["images"] == len(values)


def test_no_result_holds_a_path_of_the_machine_it_was_made_on():
    for run in RUNS:
        for file in run.rglob("*.json*"):
            assert not re.search(r'"/\w+', file.read_text()), file
