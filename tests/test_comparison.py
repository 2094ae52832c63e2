"""Reports of several runs: on runs whose files are written here."""

import json

import jax
import numpy as np
import pytest
from scipy import stats

from experiments import comparison, comparison_table, ensemble, html_page, report, scores
from experiments.configs import CONFIGURATIONS
from experiments.files import write_json
from experiments.runs import RunDirectory
from experiments.scores import ScoreTable
from jaxseg import metrics
from jaxseg.errors import InputError

RNG = np.random.default_rng(0)
CALIBRATION = {"calibration": {"expected_error": 0.1}}
MADE = {"subset": None, "mask_values": None, "postprocessing": {}}


def table(dice, ids=None, groups=None):
    dice = np.asarray(dice, np.float64)
    ids = [f"image{i}" for i in range(len(dice))] if ids is None else ids
    columns = {"dice": dice, "iou": dice / (2 - dice), "hd95": 10 * (1 - dice), "assd": 1 - dice}
    return ScoreTable(ids, [""] * len(dice), groups or ids, columns)


def finished(path, dice, *, name="phantom", seed=0, ids=None, groups=None, **options):
    run = RunDirectory(path)
    path.mkdir()
    configuration = CONFIGURATIONS[name].with_seed(seed).as_json()
    for group in ("data", "optimization", "augment"):
        for option in configuration[group].keys() & options.keys():
            configuration[group][option] = options.pop(option)
    assert not options
    write_json(run.config, {"configuration": configuration, "data_fingerprint": "f"})
    table(dice, ids, groups).write(run.test_scores)
    write_json(
        run.summary,
        {
            "test": CALIBRATION,
            "parameters": 100,
            "images": {"train": 10, "validation": 2, "test": len(dice)},
            "train_seconds": 60.0,
        },
    )
    return run


@pytest.fixture
def shown(capsys):
    """Prints a comparison; returns its lines, and its cells by recipe and images."""

    def show(runs):
        comparison_table.show(runs)
        lines = capsys.readouterr().out.splitlines()
        rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")]
        return lines, {(recipe, images): cells for recipe, images, *cells in rows}

    return show


def test_a_table_of_scores_is_read_as_it_was_written(tmp_path):
    written = table([0.5, np.nan, 0.25], groups=["image0", "image0", "image2"])
    written.write(tmp_path / "scores.csv")
    read = scores.read(tmp_path / "scores.csv")
    assert (read.ids, read.classes, read.groups) == (written.ids, written.classes, written.groups)
    for name, values in written.columns.items():
        np.testing.assert_allclose(read.columns[name], values, rtol=1e-5)


@pytest.mark.parametrize("text", ["", "id,class,group,dice\na,,,much\n", "a,b,c\n1,2,3\n"])
def test_what_is_no_table_of_scores_is_named(tmp_path, text):
    (tmp_path / "scores.csv").write_text(text)
    with pytest.raises(InputError, match=r"scores\.csv: not a table of scores"):
        scores.read(tmp_path / "scores.csv")


def test_the_folds_of_a_cross_validation_are_one_set_of_images(tmp_path):
    dice = {1: [0.9, 0.8], 2: [0.7], 3: [0.6, 0.5, 0.4]}
    runs = [
        finished(
            tmp_path / f"{seed}-{fold}",
            np.array(values) + seed / 100,
            ids=[f"{fold}-{i}" for i in range(len(values))],
            seed=seed,
            split=f"fold:{fold}/3",
        )
        for seed in (0, 1)
        for fold, values in dice.items()
    ]
    (recipe,) = comparison.gather(runs[::-1])
    assert [run.path.name for run in recipe.runs] == [f"{s}-{f}" for s in (0, 1) for f in dice]
    (name, by_recipe), *_ = comparison.image_sets([recipe]).items()
    assert name == "test images of split 3 folds"
    scored = by_recipe["phantom"]
    assert scored.ids == ["1-0", "1-1", "2-0", "3-0", "3-1", "3-2"]
    expected = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    np.testing.assert_allclose(scored.by_seed["dice"], [expected, expected + 0.01])
    with pytest.raises(InputError, match="fold 2 of 3 with --seed 1 is missing"):
        comparison.gather([run for run in runs if run.path.name != "1-2"])
    with pytest.raises(InputError, match="same --seed and fold"):
        comparison.gather([*runs, runs[0]])


def test_runs_that_differ_in_their_seed_alone_are_one_recipe(tmp_path):
    runs = [
        finished(tmp_path / "a", [0.9, 0.8], seed=1),
        finished(tmp_path / "b", [0.9, 0.8], seed=0, data_dir="/elsewhere"),
        finished(tmp_path / "c", [0.9, 0.8], learning_rate=1e-3),
        finished(tmp_path / "d", [0.9, 0.8], name="lungs"),
        finished(tmp_path / "e", [0.9, 0.8], name="lungs", rotation=1.0),
    ]
    recipes = comparison.gather(runs)
    assert [[run.path.name for run in recipe.runs] for recipe in recipes] == [
        ["b", "a"],
        ["c"],
        ["d"],
        ["e"],
    ]
    assert [recipe.label for recipe in recipes] == [
        "phantom, learning_rate 0.004",
        "phantom, learning_rate 0.001",
        "lungs, augment.rotation 6.0",
        "lungs, augment.rotation 1.0",
    ]


def test_a_seed_named_twice_and_an_unfinished_run_are_refused(tmp_path):
    runs = [finished(tmp_path / name, [0.9]) for name in "ab"]
    with pytest.raises(InputError, match="same configuration and same --seed"):
        comparison.gather(runs)
    runs[1].summary.unlink()
    with pytest.raises(InputError, match="b: training has not finished"):
        comparison.gather(runs)


def test_intervals_draw_groups(tmp_path, shown):
    base = RNG.uniform(0.5, 0.9, 40)
    groups = [f"patient {i // 4}" for i in range(40)]
    others = base + np.repeat(RNG.normal(0, 0.1, 10), 4)
    runs = [
        finished(tmp_path / "a", base, groups=groups),
        finished(tmp_path / "b", others, name="lungs", groups=groups),
    ]
    sets = comparison.image_sets(comparison.gather(runs))
    scored = sets["test images of split grouped"]
    found = comparison.differences(scored["lungs"], scored["phantom"])["dice"].over_images
    means = {label: own.mean("dice") for label, own in scored.items()}
    both = (means["lungs"], means["phantom"])
    assert found == metrics.paired_bootstrap(jax.random.key(0), *both, groups=groups)
    interval = metrics.bootstrap_mean(jax.random.key(0), means["lungs"], groups=groups)
    dice, *_ = shown(runs)[1]["lungs", "test images of split grouped (40)"]
    assert dice == f"{interval.mean:.4f} ({interval.low:.4f} to {interval.high:.4f})"


def test_differences_are_taken_image_by_image_on_the_images_that_both_have(tmp_path):
    base = RNG.uniform(0.5, 0.9, 40)
    better = [f"image{i}" for i in range(5, 45)]
    runs = [
        finished(tmp_path / "a", base),
        finished(tmp_path / "b", base + 0.05, name="lungs", ids=better),
    ]
    sets = comparison.image_sets(comparison.gather(runs))
    scored = sets["test images of split grouped"]
    found, across_seeds = comparison.differences(scored["lungs"], scored["phantom"])["dice"]
    assert across_seeds is None
    by_hand = np.array([base[i] + 0.05 - base[i + 5] for i in range(35)])
    assert found.images == 35
    assert found.difference == pytest.approx(by_hand.mean(), abs=1e-6)
    assert found.low < by_hand.mean() < found.high


def test_an_interval_across_seeds_is_welchs_of_their_means(tmp_path):
    base, runs = RNG.uniform(0.5, 0.9, 12), []
    shifts = {"phantom": [0.0, 0.03, 0.01, 0.02], "lungs": [0.05, 0.06, 0.08]}
    for name, own in shifts.items():
        for seed, shift in enumerate(own):
            path = tmp_path / f"{name}-{seed}"
            runs.append(finished(path, base + shift, name=name, seed=seed))
    (scored,) = comparison.image_sets(comparison.gather(runs)).values()
    found = comparison.differences(scored["lungs"], scored["phantom"])["dice"].across_seeds
    # Welch 1947, by hand.
    ours, theirs = np.array(shifts["lungs"]), np.array(shifts["phantom"])
    parts = ours.var(ddof=1) / 3, theirs.var(ddof=1) / 4
    freedom = sum(parts) ** 2 / (parts[0] ** 2 / 2 + parts[1] ** 2 / 3)
    half = stats.t.ppf(0.975, freedom) * np.sqrt(sum(parts))
    difference = ours.mean() - theirs.mean()
    assert found == pytest.approx((difference - half, difference + half), abs=1e-5)


def test_runs_of_other_data_are_of_other_recipes_and_not_compared_image_by_image(tmp_path, shown):
    runs = [finished(tmp_path / name, [0.9, 0.8], seed=seed) for seed, name in enumerate("ab")]
    kept = json.loads(runs[1].config.read_text())
    write_json(runs[1].config, kept | {"data_fingerprint": "0123456789"})
    first, second = comparison.gather(runs)
    assert first.label == "phantom, data_fingerprint f"
    sets = comparison.image_sets([first, second])
    assert list(sets) == [
        "test images of split grouped, data f",
        "test images of split grouped, data 01234567",
    ]
    assert not any(" - " in recipe for recipe, _ in shown(runs)[1])


@pytest.mark.parametrize("name", ["phantom", "lungs"])
def test_scores_of_masks_made_in_different_ways_are_not_of_one_name(tmp_path, name):
    runs = [
        finished(tmp_path / "a", [0.9], seed=0),
        finished(tmp_path / "b", [0.9], seed=1, name=name),
    ]
    for run, largest in zip(runs, (2, None), strict=True):
        (run.path / "clean").mkdir()
        table([0.5]).write(run.path / "clean" / "per_image.csv")
        written = {"subset": None, "mask_values": None, "postprocessing": {"keep_largest": largest}}
        written["test"] = CALIBRATION
        write_json(run.path / "clean" / "evaluation.json", written)
    with pytest.raises(
        InputError, match=r"postprocessing is {'keep_largest': None}, but {'keep_largest': 2} in"
    ):
        comparison.image_sets(comparison.gather(runs))


def test_the_table_has_means_intervals_the_lowest_dice_and_differences(tmp_path, shown):
    dice = np.array([[0.9, 0.8, np.nan], [0.8, 0.7, 0.6], [0.7, 0.6, 0.5]])
    runs = [finished(tmp_path / f"a{seed}", own, seed=seed) for seed, own in enumerate(dice)]
    runs.append(finished(tmp_path / "b", [0.95, 0.9, 0.85], name="lungs"))
    lines, rows = shown(runs)
    assert "phantom: 3 seeds, 100 parameters, 10 training images, 8 epochs, 60 s in " in lines[0]
    images = "test images of split grouped"
    mean, *_, lowest, deviation, error = rows["phantom", f"{images} (3)"]
    # Two images have a score of every seed: 0.8 and 0.7. The seeds' means are 0.85, 0.7, 0.6.
    assert mean.startswith("0.7500 (0.7000 to 0.8000")
    assert (lowest, deviation, error) == ("0.7000", "0.1258", "0.1000")
    dice, _, hd95, *_ = rows["lungs - phantom, over images", f"{images} (2)"]
    assert dice == "+0.1750 (0.1500 to 0.2000)"
    assert hd95 == "-1.75 (-2.00 to -1.50)"
    assert ("lungs - phantom, across seeds", f"{images} (2)") not in rows, "lungs has one seed"
    assert f"phantom, {images}: HD95, px is undefined and left out for 1 images" in lines


def test_a_report_of_several_runs_leaves_the_runs_as_they_are(tmp_path, monkeypatch):
    runs = [finished(tmp_path / name, [0.9, 0.8], seed=seed) for seed, name in enumerate("ab")]
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr("sys.argv", ["report", *(str(run.path) for run in runs)])
    report.main()
    assert sorted(tmp_path.rglob("*")) == before


def test_recipes_without_a_image_in_common_are_not_compared(tmp_path, shown):
    runs = [
        finished(tmp_path / "a", [0.9, 0.8]),
        finished(tmp_path / "b", [0.9, 0.8], name="lungs", ids=["other0", "other1"]),
    ]
    lines, rows = shown(runs)
    assert "lungs - phantom, test images of split grouped: no image in common" in lines
    assert len(rows) == 4, "headers, a rule, and a row for each recipe"


def test_seeds_have_their_classes_scores_together(tmp_path):
    runs = []
    for seed, (left, heart) in enumerate([(0.9, 0.5), (0.8, 0.9)]):
        runs.append(finished(tmp_path / f"{seed}", [0.9, 0.8], seed=seed))
        classes = {"left": {"dice_mean": left}, "heart": {"dice_mean": heart}}
        write_json(runs[-1].summary, {"test": {"images": 2, "dice_mean": 0.85, "classes": classes}})
    together = comparison.across_seeds(runs)
    assert together["seeds"] == [0, 1]
    assert together["test"]["dice_mean"]["mean"] == 0.85
    classes = together["test"]["classes"]
    assert classes["left"]["dice_mean"]["mean"] == pytest.approx(0.85)
    assert classes["heart"]["dice_mean"]["std"] == pytest.approx(np.std([0.5, 0.9], ddof=1))


def test_images_from_elsewhere_come_under_their_folders_name(tmp_path):
    runs = [finished(tmp_path / name, [0.9], name=name) for name in ("phantom", "lungs")]
    for run, dice in zip(runs, (0.5, 0.75), strict=True):
        folder = run.path / "jsrt"
        folder.mkdir()
        table([dice]).write(folder / "per_image.csv")
        (folder / "evaluation.json").write_text(json.dumps({"test": CALIBRATION} | MADE))
        trained = run.path / "trained"
        trained.mkdir()
        table([dice]).write(trained / "per_image.csv")
        (trained / "evaluation.json").write_text(
            json.dumps({"test": {}} | MADE | {"subset": "train"})
        )
    sets = comparison.image_sets(comparison.gather(runs))
    assert "trained" not in sets
    assert sets["jsrt"]["lungs"].mean("dice").tolist() == [0.75]
    assert sets["jsrt"]["phantom"].mean("dice").tolist() == [0.5]


def test_images_that_one_seed_trained_are_no_images_from_elsewhere(tmp_path):
    runs = [finished(tmp_path / name, [0.9], seed=seed) for seed, name in enumerate("ab")]
    for run, part in zip(runs, ("validation", "train"), strict=True):
        (run.path / "part").mkdir()
        table([0.5]).write(run.path / "part" / "per_image.csv")
        write_json(
            run.path / "part" / "evaluation.json",
            {"test": CALIBRATION} | MADE | {"subset": part},
        )
    assert "part" not in comparison.image_sets(comparison.gather(runs))


def test_seeds_scored_on_other_images_are_refused(tmp_path):
    runs = [
        finished(tmp_path / "a", [0.9, 0.8], seed=0),
        finished(tmp_path / "b", [0.9, 0.8], seed=1, ids=["image0", "image7"]),
    ]
    with pytest.raises(InputError, match="has other images"):
        comparison.image_sets(comparison.gather(runs))


def test_disagreement_that_orders_images_as_their_errors_do_finds_them_all():
    dice = np.append(RNG.uniform(0.5, 1, 50), np.nan)
    found = ensemble.finds_bad_masks(1 - dice, dice)
    assert found == {"rank_correlation": pytest.approx(1), "worst_found": 1}
    assert ensemble.finds_bad_masks(dice, dice)["worst_found"] == 0
    assert ensemble.finds_bad_masks(dice, dice)["rank_correlation"] == pytest.approx(-1)


def test_disagreement_counts_the_worst_tenth_within_the_most_uncertain_fifth():
    dice = np.arange(20) / 20
    uncertainty = np.zeros(20)
    # The worst tenth are images 0 and 1; the most uncertain fifth 0, 10, 11 and 12.
    uncertainty[[0, 10, 11, 12]] = 4, 3, 2, 1
    assert ensemble.finds_bad_masks(uncertainty, dice)["worst_found"] == 0.5
    for undefined in (np.zeros(20), dice), (uncertainty, np.ones(20)), (uncertainty[:0], dice[:0]):
        assert all(np.isnan(list(ensemble.finds_bad_masks(*undefined).values())))


def test_images_alike_count_as_they_fall_on_average():
    # The worst tenth are two of the five images of Dice 0; the most uncertain fifth is image 0 and
    # three of the ten images of uncertainty 0.5, among which are images 1 and 2.
    dice = np.repeat([0.0, 1.0], [5, 15])
    uncertainty = np.zeros(20)
    uncertainty[0] = 1
    uncertainty[[1, 2, *range(12, 20)]] = 0.5
    # Image 0 is there in any order, images 1 and 2 in 3 of 10 orders.
    expected = 0.4 * (1 + 0.3 + 0.3) / 2
    assert ensemble.finds_bad_masks(uncertainty, dice)["worst_found"] == pytest.approx(expected)


def test_text_on_a_page_is_text():
    assert "<b>" not in html_page.table([("<b>", "<b>")], ("<b>", "<b>"))
    assert scores.number(float("nan")) == scores.number(None) == "undefined"
