"""Several seeds of one configuration as one job, and their ensemble."""

import csv
import json
import re
import signal
import socket
import time

import jax
import numpy as np
import pytest
from scipy import stats

from experiments import dataset, ensemble, seeds
from experiments.command import Diverged, Stopped
from experiments.configs import CONFIGURATIONS
from experiments.runs import CLOCKED, RunDirectory, load_trained
from jaxseg import parallel
from jaxseg.data import phantom
from jaxseg.errors import InputError
from tests.processes import output, start

EPOCHS = 12


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """The options and the folder of two seeds, trained."""
    folder = tmp_path_factory.mktemp("seeds")
    counts = {"COVID": 10, "Lung_Opacity": 10, "Normal": 10, "Viral Pneumonia": 10}
    phantom.write_archive(folder / "archive", images=counts, seed=1)
    options = [
        "phantom", "--manual-dir", folder / "archive", "--data-dir", folder / "data",
        "--workdir", folder / "job", "--size", 32, "--widths", 4, 8, "--epochs", EPOCHS,
        "--batch-size", 8, "--seed", 5, "--seeds", 2,
    ]  # fmt: skip
    output(start("train", *options))
    return options, folder / "job"


@pytest.mark.slow
def test_the_job_has_a_run_for_each_seed_and_what_they_say_together(job):
    _, folder = job
    runs = [RunDirectory(folder / f"seed-{seed}") for seed in (5, 6)]
    dice = [json.loads(run.summary.read_text())["test"]["dice_mean"] for run in runs]
    assert dice[0] != dice[1]
    together = json.loads((folder / "summary.json").read_text())
    assert together["seeds"] == [5, 6]
    assert together["test"]["dice_mean"]["mean"] == pytest.approx(sum(dice) / 2)
    assert together["test"]["dice_mean"]["std"] == pytest.approx(abs(dice[0] - dice[1]) / 2**0.5)


def trained_results(run):
    """What a run measured, without times."""
    rows = [{k: v for k, v in row.items() if k not in CLOCKED} for row in run.read_metrics()]
    return rows, run.test_scores.read_text()


@pytest.mark.slow
def test_a_stopped_job_continues_with_the_seed_that_it_was_training(job, tmp_path):
    options, folder = list(job[0]), job[1]
    options[options.index("--workdir") + 1] = tmp_path
    runs = [RunDirectory(tmp_path / f"seed-{seed}") for seed in (5, 6)]
    process = start("train", *options)
    until = time.monotonic() + 200
    while not runs[1].read_metrics():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    output(process, 75)
    assert [run.summary.exists() for run in runs] == [True, False]

    said, _ = output(start("train", *options, "--resume"))
    assert "seed 5 is already trained" in said
    assert said.count("resuming from step") == 1
    expected = [trained_results(RunDirectory(folder / run.path.name)) for run in runs]
    assert list(map(trained_results, runs)) == expected
    assert json.loads((tmp_path / "summary.json").read_text())["seeds"] == [5, 6]


@pytest.mark.slow
def test_two_processes_train_what_one_trains(job, tmp_path):
    options, folder = list(job[0]), job[1]
    options[options.index("--workdir") + 1] = tmp_path
    # One process on one device chooses its microbatches; these images are too small for any.
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    options += ["--coordinator", address, "--num-processes", 2, "--process-id"]
    for process in [start("train", *options, number, devices=2) for number in range(2)]:
        output(process)
    for seed in (5, 6):
        many, one = (RunDirectory(place / f"seed-{seed}") for place in (tmp_path, folder))
        losses = [[row["loss"] for row in run.read_steps()] for run in (many, one)]
        np.testing.assert_allclose(*losses, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::jaxseg.data.archive.PartialReleaseWarning")
def test_the_ensembles_masks_are_those_of_the_mean_probability(job, tmp_path):
    _, folder = job
    output(start("ensemble", folder / "seed-5", folder / "seed-6", "--out", tmp_path / "joint"))
    rows = list(csv.DictReader((tmp_path / "joint" / "per_image.csv").read_text().splitlines()))

    members = [load_trained(RunDirectory(folder / f"seed-{seed}")) for seed in (5, 6)]
    images_of_runs = dataset.load(members[0].configuration)
    images = images_of_runs.arrays.images[images_of_runs.test]
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

    # Pixels at one half may fall either way: they bound the Dice.
    joint = np.mean([1 / (1 + np.exp(-each)) for each in logits], axis=0)
    labels = images_of_runs.arrays.labels[images_of_runs.test] == 1
    is_sure, is_near = joint > 0.5 + 1e-4, np.abs(joint - 0.5) <= 1e-4

    def dice(predicted: np.ndarray) -> np.ndarray:
        overlap = (predicted & labels).sum((1, 2))
        return 2 * overlap / (predicted.sum((1, 2)) + labels.sum((1, 2)))

    written = np.array([float(row["dice_network_size"]) for row in rows])
    assert (written >= dice(is_sure | (is_near & ~labels)) - 1e-5).all()
    assert (written <= dice(is_sure | (is_near & labels)) + 1e-5).all()

    summary = json.loads((tmp_path / "joint" / "ensemble.json").read_text())
    on_grid = [float(row["dice"]) for row in rows]
    rank = summary["disagreement"]["rank_correlation"]
    # After so little training all images may have the same disagreement.
    if len(set(found)) == 1 or len(set(on_grid)) == 1:
        assert rank is None
    else:
        ranks = stats.rankdata(found), stats.rankdata(1 - np.array(on_grid))
        assert rank == pytest.approx(np.corrcoef(*ranks)[0, 1], abs=0.02)
    assert (tmp_path / "joint" / "ensemble.png").stat().st_size > 1000


@pytest.mark.slow
def test_runs_with_other_options_are_no_ensemble(job):
    _, folder = job
    with pytest.raises(InputError, match="two or more"):
        ensemble.load_members([folder / "seed-5"], same_test_images=False)
    config = folder / "seed-6" / "config.json"
    kept, both = config.read_text(), [folder / "seed-5", folder / "seed-6"]
    try:
        config.write_text(kept.replace('"image_resize": "bilinear"', '"image_resize": "nearest"'))
        with pytest.raises(InputError, match="image_resize is nearest"):
            ensemble.load_members(both, same_test_images=False)
        # An image that is tested in one run may be a training image in the other.
        config.write_text(re.sub('"split": "[a-z]+"', '"split": "random"', kept))
        with pytest.raises(InputError, match="split is random"):
            ensemble.load_members(both, same_test_images=True)
        assert len(ensemble.load_members(both, same_test_images=False)) == 2
        config.write_text(re.sub('"data_fingerprint": "', '"data_fingerprint": "other', kept))
        with pytest.raises(InputError, match="data_fingerprint is other"):
            ensemble.load_members(both, same_test_images=True)
    finally:
        config.write_text(kept)
    assert jax.process_count() == 1


def test_a_seed_that_diverges_does_not_keep_the_next_from_training(tmp_path, monkeypatch):
    begun, compared = [], []

    def train(configuration, *_, **__):
        begun.append(configuration.optimization.seed)
        if configuration.optimization.seed == 1:
            raise Diverged("nan")

    monkeypatch.setattr(seeds.comparison, "across_seeds", compared.append)
    mesh = parallel.make_mesh(jax.devices()[:1])
    with pytest.raises(Diverged, match="nan"):
        seeds.train_seeds(train, CONFIGURATIONS["phantom"], tmp_path, mesh, seeds=4, resume=False)
    assert begun == [0, 1, 2, 3]
    assert not compared


def test_a_folder_of_one_seed_or_of_other_seeds_is_no_jobs(tmp_path):
    def train_seeds(count):
        mesh = parallel.make_mesh(jax.devices()[:1])
        configuration = CONFIGURATIONS["phantom"]
        seeds.train_seeds(print, configuration, tmp_path, mesh, seeds=count, resume=True)

    RunDirectory(tmp_path).config.write_text("{}")
    with pytest.raises(InputError, match="is the directory of a single seed"):
        train_seeds(2)
    RunDirectory(tmp_path).config.unlink()
    RunDirectory(tmp_path).summary.write_text('{"seeds": [0, 1]}')
    with pytest.raises(InputError, match=r"has the scores of seeds 0, 1\. Name another"):
        train_seeds(3)
    assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]


def test_a_preempted_seed_ends_the_job(tmp_path):
    def train(configuration, *_, **__):
        raise Stopped(None, f"seed {configuration.optimization.seed}")

    mesh = parallel.make_mesh(jax.devices()[:1])
    with pytest.raises(Stopped, match="seed 0"):
        seeds.train_seeds(train, CONFIGURATIONS["phantom"], tmp_path, mesh, seeds=2, resume=False)
