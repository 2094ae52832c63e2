"""Surface metrics match MONAI and surface-distance, each in its convention."""

import math

import numpy as np
import pytest
from scipy import ndimage

from jaxseg import surface

pytestmark = pytest.mark.filterwarnings("ignore")

SPACINGS = [(1.0, 1.0), (0.5, 2.0)]


@pytest.fixture
def monai_metrics():
    return pytest.importorskip("monai.metrics", reason="MONAI is not installed")


@pytest.fixture
def surface_distance(monkeypatch):
    # The package uses np.Inf, which NumPy 2 removed.
    monkeypatch.setattr(np, "Inf", np.inf, raising=False)
    return pytest.importorskip("surface_distance", reason="surface-distance is not installed")


def blobs(seed, batch=12, size=64):
    """Smooth random masks, some of which touch the image border, and perturbed copies of them."""
    rng = np.random.default_rng(seed)
    shape = (batch, size, size)
    base = ndimage.gaussian_filter(rng.standard_normal(shape), (0, 6, 6))
    noise = ndimage.gaussian_filter(rng.standard_normal(shape), (0, 3, 3))
    return base + 0.2 * noise > 0.03, base > 0.03


def pairs():
    """Blobs, noise, and a mask with one far outlier."""
    predicted, actual = blobs(0)
    rng = np.random.default_rng(1)
    predicted[0], actual[0] = rng.random((2, *predicted.shape[1:])) < 0.5
    predicted[1], actual[1] = False, False
    predicted[1, 2:9, 3:20] = actual[1, 2:9, 3:20] = True
    predicted[1, 63, 63] = True
    return predicted, actual


def read(distances):
    return {
        "hausdorff": distances.hausdorff(),
        "hd95": distances.hausdorff(95.0),
        "hd50": distances.hausdorff(50.0),
        "average": distances.average(),
        "dice": distances.normalized_dice(2.0),
        "one_way": distances.one_way_averages(),
        "within": distances.one_way_within(2.0),
    }


@pytest.mark.parametrize("spacing", SPACINGS)
def test_the_default_convention_matches_monai(monai_metrics, spacing):
    torch = pytest.importorskip("torch")
    predicted, actual = pairs()
    ours = surface.measure(read, predicted, actual, spacing=spacing)
    forward = torch.tensor(predicted)[:, None], torch.tensor(actual)[:, None]
    backward = forward[::-1]
    options = {"include_background": True, "spacing": spacing}

    def monai(name, masks, *arguments, **more):
        return getattr(monai_metrics, name)(*masks, *arguments, **options, **more)[:, 0].numpy()

    hausdorff, average = "compute_hausdorff_distance", "compute_average_surface_distance"
    theirs = {
        "hausdorff": monai(hausdorff, forward),
        "hd95": monai(hausdorff, forward, percentile=95),
        "hd50": monai(hausdorff, forward, percentile=50),
        "average": monai(average, forward, symmetric=True),
        "dice": monai("compute_surface_dice", forward, [2.0]),
        "one_way": np.stack([monai(average, forward), monai(average, backward)]),
    }
    for name, value in theirs.items():
        np.testing.assert_allclose(ours[name], value, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("spacing", [*SPACINGS, (0.7, 1.3)])
def test_the_other_convention_matches_surface_distance(surface_distance, spacing):
    predicted, actual = pairs()
    ours = surface.measure(read, predicted, actual, spacing=spacing, convention="surface-distance")
    for i in range(len(predicted)):
        distances = surface_distance.compute_surface_distances(actual[i], predicted[i], spacing)
        backward, forward = surface_distance.compute_average_surface_distance(distances)
        theirs = {
            f: surface_distance.compute_robust_hausdorff(distances, percent)
            for f, percent in (("hausdorff", 100), ("hd95", 95), ("hd50", 50))
        }
        theirs["dice"] = surface_distance.compute_surface_dice_at_tolerance(distances, 2.0)
        for name, value in theirs.items():
            np.testing.assert_allclose(ours[name][i], value, atol=1e-4, err_msg=name)
        np.testing.assert_allclose(ours["one_way"][:, i], [forward, backward], atol=1e-4)
        recall, precision = surface_distance.compute_surface_overlap_at_tolerance(distances, 2.0)
        np.testing.assert_allclose(ours["within"][:, i], [precision, recall], atol=1e-4)


@pytest.mark.slow
def test_the_conventions_differ_by_no_more_than_a_diagonal():
    """This holds for the maximum only: means and percentiles also depend on the element counts.

    Every contour corner is at most half a diagonal from an edge pixel and vice versa, so the
    distance between two elements changes by at most a diagonal.
    """
    predicted, actual = blobs(2)
    monai, corners = (
        surface.measure(read, predicted, actual, convention=convention)["hausdorff"]
        for convention in ("monai", "surface-distance")
    )
    assert np.all(np.abs(monai - corners) <= math.sqrt(2) + 1e-5)
    assert np.any(monai != corners)


def eroded_band(mask, distance):
    """The band of the authors' boundary IoU: what as many erosions by 3 x 3 pixels remove."""
    inner = ndimage.binary_erosion(np.pad(mask, 1), np.ones((3, 3)), iterations=distance)
    return mask & np.logical_not(inner)[1:-1, 1:-1]


@pytest.mark.parametrize("distance", [1, 2, 5])
def test_boundary_iou_is_the_authors_on_rectangles_and_near_it_on_blobs(distance):
    """They erode by squares; distances here are Euclidean, so bands are narrower on diagonals."""
    predicted, actual = np.zeros((2, 2, 64, 64), bool)
    predicted[0, 5:40, 7:50], actual[0, 8:44, 7:55] = True, True
    predicted[1], actual[1] = (masks[0] for masks in blobs(3))
    found = surface.boundary_iou(predicted, actual, distance=distance)
    bands = [
        [eroded_band(m, distance) for m in pair] for pair in zip(predicted, actual, strict=True)
    ]
    theirs = [(p & a).sum() / (p | a).sum() for p, a in bands]
    np.testing.assert_allclose(found[0], theirs[0], rtol=1e-6)
    np.testing.assert_allclose(found[1], theirs[1], atol=0.1)


# Of the shape of `blobs`, so that no program is compiled for them.
EMPTY = np.zeros((12, 64, 64), bool)
SQUARE = EMPTY.copy()
SQUARE[:, 3:9, 4:12] = True


@pytest.mark.parametrize(
    ("predicted", "actual", "average", "dice"),
    [
        (EMPTY, EMPTY, math.nan, math.nan),
        (EMPTY, SQUARE, math.inf, 0.0),
        (SQUARE, EMPTY, math.inf, 0.0),
    ],
)
def test_empty_masks_match_monai_except_for_percentiles(
    monai_metrics, predicted, actual, average, dice
):
    """MONAI interpolates percentiles of infinite distances, which gives inf - inf."""
    torch = pytest.importorskip("torch")
    masks = torch.tensor(predicted)[:, None], torch.tensor(actual)[:, None]
    hausdorff = monai_metrics.compute_hausdorff_distance
    assert hausdorff(*masks, include_background=True, percentile=95).isnan().all()
    ours = surface.measure(read, predicted, actual)
    theirs = {
        "hausdorff": hausdorff(*masks, include_background=True),
        "average": monai_metrics.compute_average_surface_distance(
            *masks, include_background=True, symmetric=True
        ),
        "dice": monai_metrics.compute_surface_dice(*masks, [2.0], include_background=True),
    }
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value[:, 0].numpy(), err_msg=name)
    np.testing.assert_array_equal(ours["hd95"], ours["hausdorff"])
    np.testing.assert_array_equal(ours["average"], average)
    np.testing.assert_array_equal(ours["dice"], dice)


def test_two_empty_masks_are_infinitely_far_apart_in_surface_distance_and_nan_here(
    surface_distance,
):
    distances = surface_distance.compute_surface_distances(EMPTY[0], EMPTY[0], (1, 1))
    assert surface_distance.compute_robust_hausdorff(distances, 95) == math.inf
    ours = surface.measure(read, EMPTY, EMPTY, convention="surface-distance")
    assert np.isnan(ours["hd95"]).all()
    distances = surface_distance.compute_surface_distances(EMPTY[0], SQUARE[0], (1, 1))
    assert surface_distance.compute_robust_hausdorff(distances, 95) == math.inf
    ours = surface.measure(read, SQUARE, EMPTY, convention="surface-distance")
    assert np.isinf(ours["hd95"]).all()
