"""Several seeds of one configuration as one job, and their ensemble."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from scipy import stats

from experiments import films, trained
from experiments.run_directory import RunDirectory
from jaxseg.data import phantom
from jaxseg.types import InputError

ROOT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.slow


def command(name, *arguments):
    environment = {**os.environ, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
    return subprocess.run(
        [sys.executable, "-m", f"experiments.{name}", *map(str, arguments)],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """The options and the folder of two seeds, trained."""
    folder = tmp_path_factory.mktemp("seeds")
    counts = {"COVID": 10, "Lung_Opacity": 10, "Normal": 10, "Viral Pneumonia": 10}
    phantom.write_archive(folder / "films", films=counts, seed=1)
    options = [
        "phantom", "--manual-dir", folder / "films", "--data-dir", folder / "data",
        "--workdir", folder / "job", "--size", 32, "--widths", 4, 8, "--epochs", 2,
        "--batch-size", 8, "--seed", 5, "--seeds", 2,
    ]  # fmt: skip
    done = command("train", *options)
    assert done.returncode == 0, done.stderr
    return options, folder / "job"


def test_the_job_has_a_run_for_each_seed_and_what_they_say_together(job):
    _, folder = job
    runs = [RunDirectory(folder / f"seed-{seed}") for seed in (5, 6)]
    dice = [json.loads(run.summary.read_text())["test"]["dice_mean"] for run in runs]
    assert dice[0] != dice[1]
    together = json.loads((folder / "summary.json").read_text())
    assert together["seeds"] == [5, 6]
    assert together["test"]["dice_mean"]["mean"] == pytest.approx(sum(dice) / 2)
    assert together["test"]["dice_mean"]["spread"] == pytest.approx(abs(dice[0] - dice[1]) / 2**0.5)
    assert (folder / "comparison.html").exists()


def test_the_job_goes_on_where_it_stopped_and_ends_the_same(job):
    options, folder = job
    before = (folder / "seed-6" / "summary.json").read_text()
    (folder / "seed-6" / "summary.json").unlink()
    again = command("train", *options, "--resume")
    assert again.returncode == 0, again.stderr
    assert "seed 5 is trained already" in again.stderr + again.stdout
    after = json.loads((folder / "seed-6" / "summary.json").read_text())
    assert after["test"] == json.loads(before)["test"]
    refused = command("train", *options)
    assert refused.returncode == 2
    assert "is used already" in refused.stderr


@pytest.mark.filterwarnings("ignore::jaxseg.data.archive.PartialReleaseWarning")
def test_the_ensembles_masks_are_those_of_the_mean_probability(job, tmp_path):
    _, folder = job
    done = command("ensemble", folder / "seed-5", folder / "seed-6", "--out", tmp_path / "joint")
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader((tmp_path / "joint" / "per_image.csv").read_text().splitlines()))

    members = [trained.load(RunDirectory(folder / f"seed-{seed}")) for seed in (5, 6)]
    own = films.load(members[0].configuration)
    images = own.arrays.images[own.test]
    logits = [
        np.asarray(m.model.apply(m.state.variables(), images, train=False), np.float64)[..., 0]
        for m in members
    ]
    masks = np.stack(logits) > 0
    # Where both masks are empty they agree.
    expected = [
        1 - 2 * (one & other).sum() / max(1, one.sum() + other.sum()) if (one | other).any() else 0
        for one, other in zip(*masks, strict=True)
    ]
    found = [float(row["disagreement"]) for row in rows]
    np.testing.assert_allclose(found, expected, atol=1e-5)

    joint = np.mean([1 / (1 + np.exp(-each)) for each in logits], axis=0)
    sure = np.abs(joint - 0.5) > 1e-4
    labels = own.arrays.labels[own.test] == 1
    dice = [
        2 * (a & b).sum() / (a.sum() + b.sum())
        for a, b in zip((joint > 0.5) & sure, labels, strict=True)
    ]
    written = [float(row["dice_network_size"]) for row in rows]
    np.testing.assert_allclose(written, dice, atol=5e-3)

    summary = json.loads((tmp_path / "joint" / "ensemble.json").read_text())
    on_grid = [float(row["dice"]) for row in rows]
    rank = summary["disagreement"]["rank_correlation"]
    # So little was learnt that all films may be disagreed on alike.
    if len(set(found)) == 1 or len(set(on_grid)) == 1:
        assert rank is None
    else:
        ranks = stats.rankdata(found), stats.rankdata(1 - np.array(on_grid))
        assert rank == pytest.approx(np.corrcoef(*ranks)[0, 1], abs=0.02)
    for name in ("ensemble.png", "uncertainty.png"):
        assert (tmp_path / "joint" / name).stat().st_size > 1000


def test_runs_that_see_films_differently_are_no_ensemble(job):
    from experiments import ensemble

    _, folder = job
    with pytest.raises(InputError, match="two or more"):
        ensemble._load([folder / "seed-5"])
    config = folder / "seed-6" / "config.json"
    kept = config.read_text()
    config.write_text(kept.replace('"film_resize": "bilinear"', '"film_resize": "nearest"'))
    try:
        with pytest.raises(InputError, match="film_resize is nearest"):
            ensemble._load([folder / "seed-5", folder / "seed-6"])
    finally:
        config.write_text(kept)
    assert jax.process_count() == 1
