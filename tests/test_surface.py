"""Surface distances match SciPy, a brute-force oracle and closed forms, on one and more devices."""

import itertools
import math
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import export
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from scipy import ndimage
from scipy.spatial import KDTree

from jaxseg import surface
from jaxseg.surface.distances import chunk_size

SPACINGS = [(1.0, 1.0), (0.5, 2.0)]
CONVENTIONS = ["monai", "surface-distance"]


def random_masks(seed, shape, density=0.5):
    return np.random.default_rng(seed).random(shape) < density


SHAPE = (8, 40, 40)
"""Shape of most batches, so that most tests share one compiled function."""


def blobs(seed, shape=SHAPE):
    """Smooth random masks, some of which touch the image border."""
    noise = np.random.default_rng(seed).standard_normal(shape)
    return ndimage.gaussian_filter(noise, (0, 4, 4)) > 0.02


def all_measures(distances):
    return {
        "hausdorff": distances.hausdorff(),
        "hd95": distances.hausdorff(95.0),
        "average": distances.average(),
        "dice": distances.normalized_dice(1.5),
        "f_score": distances.f_score(1.5),
        "within": distances.one_way_within(1.5).T,
        "averages": distances.one_way_averages().T,
        "elements": distances.elements.T,
    }


@cache
def jitted_measure(convention):
    """Compiled once for each convention and shape."""

    def run(predicted, actual, where, spacing):
        return surface.measure(
            all_measures, predicted, actual, where=where, spacing=spacing, convention=convention
        )

    return jax.jit(run)


def measure(predicted, actual, spacing=(1.0, 1.0), convention="monai", where=None):
    spacing = np.broadcast_to(np.float32(spacing), (len(predicted), 2))
    where = np.ones_like(predicted) if where is None else where
    return jax.device_get(jitted_measure(convention)(predicted, actual, where, spacing))


def assert_same(ours, expected):
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), ours, expected)


# The oracle uses Python dictionaries of points and nothing of the library.


def pixel_states(mask, where):
    """State of each pixel: True, False or None (invalid). Pixels outside the image are absent."""
    where = np.ones_like(mask) if where is None else where
    return {yx: bool(mask[yx]) if where[yx] else None for yx in np.ndindex(mask.shape)}


def edge_pixels(mask, _spacing, where=None):
    """Each edge pixel with the length 1."""
    states = pixel_states(mask, where)
    steps = ((0, 1), (0, -1), (1, 0), (-1, 0))
    return {
        (y, x): 1.0
        for (y, x), state in states.items()
        if state and any(states.get((y + dy, x + dx), False) is False for dy, dx in steps)
    }


def contour_corners(mask, spacing, where=None):
    """Each pixel corner on the contour, with the length of the contour there."""
    states = pixel_states(mask, where)
    diagonal = math.hypot(*spacing)
    lengths = {}
    for y, x in np.ndindex(mask.shape[0] + 1, mask.shape[1] + 1):
        around = [states.get((y + dy, x + dx), False) for dy in (-1, 0) for dx in (-1, 0)]
        true = around.count(True)
        if None in around:
            continue
        if true in (1, 3):
            lengths[y, x] = diagonal / 2
        elif true == 2:
            horizontal, vertical = around[0] == around[1], around[0] == around[2]
            lengths[y, x] = spacing[1] if horizontal else spacing[0] if vertical else diagonal
    return lengths


BOUNDARIES = {"monai": edge_pixels, "surface-distance": contour_corners}


def nearest(source, target, spacing):
    def distance(a, b):
        return math.hypot((a[0] - b[0]) * spacing[0], (a[1] - b[1]) * spacing[1])

    return [min((distance(a, b) for b in target), default=math.inf) for a in source]


def percentile_of(distances, lengths, percentile, convention):
    if not distances:
        return math.nan
    if convention == "monai":
        infinite = math.inf in distances
        return math.inf if infinite else float(np.percentile(distances, percentile))
    so_far, total = 0.0, sum(lengths)
    for distance, length in sorted(zip(distances, lengths, strict=True)):
        so_far += length
        if so_far >= total * percentile / 100 - 1e-6:
            return distance
    return math.nan


def mean_of(values, lengths):
    total = sum(lengths)
    return sum(v * n for v, n in zip(values, lengths, strict=True)) / total if total else math.nan


def f_score_of(precision, recall):
    if math.isnan(precision) and math.isnan(recall):
        return math.nan
    return 2 / (1 / precision + 1 / recall) if precision > 0 and recall > 0 else 0.0


def expected_measures(predicted, actual, spacing, convention, where=None):
    boundary = BOUNDARIES[convention]
    source, target = boundary(predicted, spacing, where), boundary(actual, spacing, where)
    forward, backward = nearest(source, target, spacing), nearest(target, source, spacing)
    lengths = list(source.values()), list(target.values())

    def hausdorff(percentile):
        return np.fmax(
            percentile_of(forward, lengths[0], percentile, convention),
            percentile_of(backward, lengths[1], percentile, convention),
        )

    within = [
        mean_of([float(d <= 1.5) for d in distances], n)
        for distances, n in zip((forward, backward), lengths, strict=True)
    ]
    both, both_lengths = forward + backward, lengths[0] + lengths[1]
    return {
        "hausdorff": hausdorff(100),
        "hd95": hausdorff(95),
        "average": mean_of(both, both_lengths),
        "dice": mean_of([float(d <= 1.5) for d in both], both_lengths),
        "f_score": f_score_of(*within),
        "within": within,
        "averages": (mean_of(forward, lengths[0]), mean_of(backward, lengths[1])),
        "elements": (len(source), len(target)),
    }


# The distance transform.


def scipy_transform(mask, spacing=(1.0, 1.0)):
    return np.asarray(ndimage.distance_transform_edt(mask, sampling=spacing))


@pytest.mark.parametrize("spacing", [*SPACINGS, (3.0, 0.4)])
@pytest.mark.parametrize("shape", [(1, 70), (70, 1), (33, 47), (95, 129)])
def test_distance_transform_matches_scipy(shape, spacing):
    masks = np.stack([random_masks(0, shape, density) for density in (0.3, 0.9, 0.999)])
    masks[:, 0, 0] = False
    ours = surface.distance_transform(masks, spacing=spacing)
    assert ours.dtype == jnp.float32
    theirs = [scipy_transform(mask, spacing) for mask in masks]
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_a_full_mask_has_infinite_distances_and_an_empty_mask_has_zeros():
    masks = random_masks(1, (3, 33, 47))
    masks[0], masks[1] = True, False
    ours = surface.distance_transform(masks)
    assert np.all(np.isinf(ours[0]))
    assert np.all(ours[1] == 0)
    np.testing.assert_allclose(ours[2], scipy_transform(masks[2]), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("lead", [(), (2, 3), (2, 0)])
def test_distance_transform_keeps_any_leading_axes(lead):
    masks = random_masks(2, (*lead, 19, 23))
    ours = surface.distance_transform(masks)
    assert ours.shape == masks.shape
    for index in np.ndindex(*lead):
        np.testing.assert_allclose(ours[index], scipy_transform(masks[index]), atol=1e-5)


def test_distance_transform_accepts_a_spacing_per_mask():
    masks, spacings = random_masks(3, (3, 33, 47), 0.9), np.array([*SPACINGS, (3.0, 0.4)])
    ours = surface.distance_transform(masks, spacing=spacings)
    for i, spacing in enumerate(spacings):
        np.testing.assert_allclose(ours[i], scipy_transform(masks[i], spacing), atol=1e-5)


# Measures against the oracle.


# Seed, density, spacing and fraction of valid pixels of one image. In the first three the lengths
# add up to exactly 95 %.
SMALL_IMAGES = [
    (453654, 0.6, (1.5, 0.8), 1.0),
    (941920, 0.05, (1, 1), 1.0),
    (625399, 0.05, (0.5, 2), 1.0),
    *(
        (seed, *options)
        for seed, options in enumerate(
            itertools.product(
                [0.05, 0.3, 0.6, 0.95], [(1, 1), (0.5, 2), (1.5, 0.8)], [1.0, 0.9, 0.6]
            )
        )
    ),
]


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_measures_of_small_images_match_a_brute_force_oracle(convention):
    masks = [random_masks(seed, (2, 1, 7, 9), density) for seed, density, _, _ in SMALL_IMAGES]
    valid = [random_masks(seed + 1, (1, 7, 9), valid) for seed, _, _, valid in SMALL_IMAGES]
    predicted, actual = np.concatenate(masks, 1)
    where, spacings = np.concatenate(valid), [spacing for _, _, spacing, _ in SMALL_IMAGES]
    ours = measure(predicted, actual, spacings, convention, where)
    for i, spacing in enumerate(spacings):
        expected = expected_measures(predicted[i], actual[i], spacing, convention, where[i])
        for name, value in expected.items():
            np.testing.assert_allclose(
                ours[name][i], value, rtol=1e-5, err_msg=f"{name} of {SMALL_IMAGES[i]}"
            )


@pytest.mark.slow
@pytest.mark.parametrize("spacing", SPACINGS)
def test_measures_of_larger_masks_match_a_brute_force_oracle(spacing):
    predicted, actual = blobs(4), blobs(5)
    ours = measure(predicted, actual, spacing)
    for i in range(3):
        expected = expected_measures(predicted[i], actual[i], spacing, "monai")
        for name, value in expected.items():
            np.testing.assert_allclose(ours[name][i], value, rtol=1e-5, err_msg=name)


def few_measures(distances):
    return {
        "hausdorff": distances.hausdorff(),
        "average": distances.average(),
        "dice": distances.normalized_dice(1.5),
    }


@pytest.mark.parametrize("density", [0.5, 0.001])
def test_measures_of_noise_match_a_k_d_tree(density):
    """Dense noise overflows the small buffers. Sparse noise needs many blocks of columns."""
    predicted, actual = random_masks(6, (2, 2, 130, 150), density)
    ours = surface.measure(few_measures, predicted, actual)
    for i in range(2):
        edges = [m & np.logical_not(ndimage.binary_erosion(m)) for m in (predicted[i], actual[i])]
        points = [np.argwhere(e) for e in edges]
        assert density < 0.5 or min(len(p) for p in points) > 4 * (130 + 150)
        forward = KDTree(points[1]).query(points[0])[0]
        backward = KDTree(points[0]).query(points[1])[0]
        both = np.concatenate([forward, backward])
        np.testing.assert_allclose(ours["hausdorff"][i], both.max(), rtol=1e-6)
        np.testing.assert_allclose(ours["average"][i], both.mean(), rtol=1e-6)
        np.testing.assert_allclose(ours["dice"][i], (both <= 1.5).mean(), rtol=1e-6)


def test_percentiles_next_to_a_wide_gap_are_interpolated_exactly():
    """21 edge pixels match and one is 3000 columns away; the 95th percentile is before the gap."""
    percentiles = (95.0, 99.999)
    predicted = np.zeros((1, 1, 3100), bool)
    predicted[0, 0, 0:42:2] = True
    actual = predicted.copy()
    predicted[0, 0, 3040] = True
    ours = surface.measure(
        lambda d: jnp.stack([d.hausdorff(p) for p in percentiles]), predicted, actual
    )
    expected = np.percentile(np.append(np.zeros(21), 3000.0), percentiles)
    np.testing.assert_allclose(ours[:, 0], expected, rtol=1e-6)


def test_shifted_squares_have_the_distances_of_their_shift():
    predicted, actual = np.zeros((2, *SHAPE), bool)
    predicted[:, 8:28, 5:25] = True
    actual[:, 8:28, 12:32] = True
    ours = measure(predicted, actual)
    assert np.all(ours["hausdorff"] == 7)
    # 76 edge pixels. Each of the top and bottom rows has 7 pixels that are 1 to 7 columns away from
    # the other square, and the rest match. The 18 pixels of the outer side are 7 away. Those of the
    # inner side are inside the other square: its side is 7 away, its top or bottom may be nearer.
    rows = np.minimum(np.arange(1, 19), np.arange(18, 0, -1))
    total = 2 * sum(range(1, 8)) + 18 * 7 + np.minimum(rows, 7).sum()
    np.testing.assert_allclose(ours["average"], total / 76, rtol=1e-6)
    np.testing.assert_allclose(ours["averages"], total / 76, rtol=1e-6)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_empty_masks_give_the_documented_values(convention):
    square, empty, full = np.zeros((3, *SHAPE[1:]), bool)
    square[5:9, 6:12] = True
    full[:] = True
    pairs = [(empty, empty), (empty, square), (square, empty), (full, full), (square, square)]
    predicted, actual = (np.resize(masks, SHAPE) for masks in zip(*pairs, strict=True))
    ours = {
        name: value[:5] for name, value in measure(predicted, actual, convention=convention).items()
    }
    nan, inf = math.nan, math.inf
    for name in ("hausdorff", "hd95", "average"):
        np.testing.assert_array_equal(ours[name], [nan, inf, inf, 0, 0], err_msg=name)
    for name in ("dice", "f_score"):
        np.testing.assert_array_equal(ours[name], [nan, 0, 0, 1, 1])
    np.testing.assert_array_equal(ours["within"][:, 0], [nan, nan, 0, 1, 1])
    np.testing.assert_array_equal(ours["averages"][:, 0], [nan, nan, inf, 0, 0])
    np.testing.assert_array_equal(ours["averages"][:, 1], [nan, inf, nan, 0, 0])


# Valid pixels.


@pytest.mark.parametrize(("convention", "count"), [("monai", 70), ("surface-distance", 72)])
def test_an_invalid_stripe_through_an_object_adds_no_boundary(convention, count):
    """The boundary only loses elements on the stripe: 3 edge pixels or 4 corners per side."""
    square, where = np.zeros(SHAPE, bool), np.ones(SHAPE, bool)
    square[:, 8:28, 5:25] = True
    where[:, :, 14:17] = False
    ours = measure(square & where, square, convention=convention, where=where)
    assert np.all(ours["elements"] == count)
    assert np.all(ours["hausdorff"] == 0)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_values_of_invalid_pixels_change_nothing(convention):
    predicted, actual, where = blobs(7), blobs(8), blobs(9) | random_masks(0, SHAPE, 0.9)
    where[0] = False
    plain = measure(predicted, actual, convention=convention, where=where)
    assert np.isnan(plain["hausdorff"][0])
    for seed in range(3):
        noise = random_masks(seed, (2, *SHAPE))
        masks = np.where(where, (predicted, actual), noise)
        ours = measure(*masks, convention=convention, where=where)
        jax.tree.map(np.testing.assert_array_equal, ours, plain)


# Boundary IoU.


def near_edge(mask, where, spacing, distance):
    """Valid True pixels with a valid False pixel, or one outside the image, within the distance."""
    states = pixel_states(np.pad(mask, 1), np.pad(where, 1, constant_values=True))
    outside = [at for at, state in states.items() if state is False]
    inside = [at for at, state in states.items() if state]
    apart = nearest(inside, outside, spacing)
    return {at for at, d in zip(inside, apart, strict=True) if d <= distance * (1 + 1e-5)}


@pytest.mark.parametrize(
    ("spacing", "distance", "valid"),
    [((1, 1), None, 1.0), ((1, 1), 2, 0.8), ((0.5, 2), 2.1, 1.0), ((0.7, 0.7), 2.1, 0.8)],
)
def test_boundary_iou_matches_a_brute_force_oracle(spacing, distance, valid):
    predicted, actual = blobs(7, (2, 12, 70)), blobs(8, (2, 12, 70))
    where = random_masks(9, predicted.shape, valid)
    ours = surface.boundary_iou(predicted, actual, distance=distance, where=where, spacing=spacing)
    if distance is None:
        distance = 0.02 * math.hypot(12, 70)
    for i, value in enumerate(ours):
        p, a = (near_edge(m[i], where[i], spacing, distance) for m in (predicted, actual))
        np.testing.assert_allclose(value, len(p & a) / len(p | a), rtol=1e-6)


def test_boundary_iou_of_empty_masks_and_small_images():
    """2 % of the diagonal of a small image is less than a pixel, so the band is one pixel wide."""
    square, empty, full, one_pixel_less = np.zeros((4, 12, 12), bool)
    square[3:8, 3:8], full[:], one_pixel_less[3:8, 3:8] = True, True, True
    one_pixel_less[3, 3] = False
    predicted = np.stack([empty, empty, square, full, square, one_pixel_less])
    actual = np.stack([empty, square, empty, full, full, square])
    ours = surface.boundary_iou(predicted, actual)
    np.testing.assert_allclose(ours, [math.nan, 0, 0, 1, 0, 15 / 16], rtol=1e-6)
    whole = surface.boundary_iou(predicted, actual, distance=12)
    np.testing.assert_allclose(whole, [math.nan, 0, 0, 1, 25 / 144, 24 / 25], rtol=1e-6)


def test_boundary_iou_takes_a_spacing_per_image_and_the_diagonal_in_its_unit():
    predicted, actual = (np.repeat(masks[:3], 2, axis=0)[:, :12] for masks in (blobs(7), blobs(8)))
    spacing = np.array([(1.0, 1.0), (20.0, 20.0)] * 3)
    ours = surface.boundary_iou(predicted, actual, spacing=spacing)
    np.testing.assert_allclose(ours[1::2], ours[::2])
    near = surface.boundary_iou(predicted, actual, spacing=spacing, distance=3.0)
    alone = surface.boundary_iou(predicted, actual, distance=3.0)
    np.testing.assert_allclose(near[::2], alone[::2])
    assert np.isnan(near[1::2]).all()


# Symmetries.


@pytest.mark.parametrize("convention", CONVENTIONS)
@settings(max_examples=3)
@given(seed=st.integers(0, 10**6))
def test_flips_shifts_and_exchanged_masks_change_nothing(convention, seed):
    predicted, actual = np.zeros((2, *SHAPE), bool)
    inside = np.s_[:, 9:30, 10:30]
    predicted[inside], actual[inside] = blobs(seed)[inside], blobs(seed + 1)[inside]
    plain = measure(predicted, actual, convention=convention)
    changes = [
        lambda mask: mask[:, ::-1],
        lambda mask: mask[:, :, ::-1],
        lambda mask: np.roll(mask, (8, -9), axis=(1, 2)),
        lambda mask: mask.swapaxes(1, 2),
    ]
    for change in changes:
        assert_same(measure(change(predicted), change(actual), convention=convention), plain)
    exchanged = measure(actual, predicted, convention=convention)
    for name in ("averages", "elements", "within"):
        exchanged[name] = exchanged[name][:, ::-1]
    assert_same(exchanged, plain)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_distances_scale_with_the_spacing_and_transpose_with_the_masks(convention):
    predicted, actual = blobs(7), blobs(8)
    plain = measure(predicted, actual, (0.6, 1.4), convention)
    double = measure(predicted, actual, (1.2, 2.8), convention)
    transposed = measure(predicted.swapaxes(1, 2), actual.swapaxes(1, 2), (1.4, 0.6), convention)
    for name in ("hausdorff", "hd95", "average", "averages"):
        np.testing.assert_allclose(double[name], 2 * plain[name], rtol=1e-6)
        np.testing.assert_allclose(transposed[name], plain[name], rtol=1e-6)


# Other ways to the same numbers.


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "function", "convention"),
    [
        ("hd95", partial(surface.hausdorff, percentile=95), "surface-distance"),
        ("average", surface.average_surface_distance, "monai"),
        ("dice", partial(surface.normalized_surface_dice, tolerance=1.5), "surface-distance"),
        ("f_score", partial(surface.boundary_f_score, tolerance=1.5), "monai"),
    ],
)
def test_each_metric_alone_without_where_equals_measure_where_all_pixels_are_valid(
    name, function, convention
):
    predicted, actual = blobs(11), blobs(12)
    together = measure(predicted, actual, (0.5, 2.0), convention)
    alone = function(predicted, actual, spacing=(0.5, 2.0), convention=convention)
    assert alone.shape == (SHAPE[0],)
    assert alone.dtype == jnp.float32
    np.testing.assert_allclose(alone, together[name], rtol=1e-6)


@pytest.mark.parametrize("spacing", [(0.7, 0.7), (1.5, 0.7), (0.1, 0.3)])
def test_an_edge_at_the_tolerance_is_within_it(spacing):
    """This holds although the distance of a few steps may be rounded up."""
    predicted, actual = np.zeros((2, *SHAPE), bool)
    predicted[:, 8, 5] = True
    for steps in range(1, 5):
        for axis, shift in enumerate(((steps, 0), (0, steps))):
            actual[:] = np.roll(predicted, shift, axis=(1, 2))
            distances = surface.surface_distances(predicted, actual, spacing=spacing)
            tolerance = steps * spacing[axis]
            assert np.all(distances.normalized_dice(tolerance) == 1)
            assert np.all(distances.normalized_dice(0.999 * tolerance) == 0)


@pytest.mark.slow
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_surface_distances_contain_every_element_once(convention):
    masks = blobs(13, (2, 24, 24)), blobs(14, (2, 24, 24))
    where = random_masks(0, (2, 24, 24), 0.95)
    ours = jax.device_get(surface.surface_distances(*masks, where=where, convention=convention))
    for direction, image in np.ndindex(2, 2):
        source, target = (
            BOUNDARIES[convention](mask[image], (1.0, 1.0), where[image])
            for mask in (masks[direction], masks[1 - direction])
        )
        count, distances = len(source), ours.distances[direction, image]
        assert ours.elements[direction, image] == count
        exact = sorted(nearest(source, target, (1.0, 1.0)))
        np.testing.assert_allclose(np.sort(distances[:count]), exact, rtol=1e-6)
        assert np.all(np.isinf(distances[count:]))
        if ours.lengths is not None:
            total = ours.lengths[direction, image].sum()
            np.testing.assert_allclose(total, sum(source.values()), rtol=1e-6)


@pytest.mark.parametrize("weighted", [False, True])
def test_distances_in_buffers_of_any_length_have_the_measures_of_numpy(weighted):
    """As after cutting the buffers to the elements, which leaves an incomplete last chunk."""
    rng = np.random.default_rng(15)
    elements = rng.integers(100, 150, (2, 64)).astype(np.int32)
    longest = int(elements.max())
    assert longest % chunk_size(64, longest)
    is_element = np.arange(longest) < elements[..., None]
    distances = np.where(is_element, rng.integers(0, 40, is_element.shape), np.inf)
    lengths = is_element * rng.uniform(0.5, 2.0, is_element.shape)
    found = jax.jit(lambda buffers: (buffers.hausdorff(95.0), buffers.average()))(
        surface.SurfaceDistances(
            distances.astype(np.float32), lengths.astype(np.float32) if weighted else None, elements
        )
    )
    for image in range(64):
        each = [
            (d[image][w[image]], n[image][w[image]])
            for d, n, w in zip(
                distances, lengths if weighted else 1.0 * is_element, is_element, strict=True
            )
        ]
        convention = "surface-distance" if weighted else "monai"
        expected = max(percentile_of(d.tolist(), n.tolist(), 95, convention) for d, n in each)
        np.testing.assert_allclose(found[0][image], expected, rtol=1e-6)
        d, n = (np.concatenate(arrays) for arrays in zip(*each, strict=True))
        np.testing.assert_allclose(found[1][image], np.average(d, weights=n), rtol=1e-5)


# One device and several devices.


jitted_transform = jax.jit(surface.distance_transform)


def transform_and_measure(predicted, *arrays):
    return jitted_transform(predicted), jitted_measure("surface-distance")(predicted, *arrays)


@pytest.fixture(scope="module")
def eight_pairs():
    """Masks of eight images, with an empty and a noisy mask, and the results of one device."""
    predicted, actual = blobs(15), blobs(16)
    predicted[2], actual[5] = False, random_masks(0, SHAPE[1:])
    spacing = np.ones((8, 2), np.float32)
    arrays = predicted, actual, random_masks(1, SHAPE, 0.99), spacing
    return arrays, transform_and_measure(*arrays)


def by_image():
    return NamedSharding(Mesh(np.asarray(jax.devices()), ("data",)), PartitionSpec("data"))


@pytest.mark.slow
def test_eight_devices_match_one_device(eight_pairs):
    arrays, expected = eight_pairs
    ours = transform_and_measure(*jax.device_put(arrays, by_image()))
    assert_same(ours, expected)
    assert ours[0].sharding.is_equivalent_to(by_image(), 3)


@pytest.mark.slow
def test_devices_exchange_no_images():
    """They only agree on when to stop. The masks are large enough for both buffer sizes."""
    mask = jax.ShapeDtypeStruct((8, 100, 100), jnp.bool_, sharding=by_image())
    spacing = jax.ShapeDtypeStruct((8, 2), jnp.float32, sharding=by_image())
    lowered = jax.jit(transform_and_measure).lower(mask, mask, mask, spacing)
    program = lowered.compile().as_text() or ""
    assert "all-reduce" in program
    for exchange in ("all-gather", "all-to-all", "collective-permute"):
        assert exchange not in program


@pytest.mark.slow
@pytest.mark.parametrize("mapping", [jax.vmap, jax.pmap])
def test_a_mapped_function_matches_a_batch(mapping, eight_pairs):
    arrays, expected = eight_pairs
    ours = mapping(transform_and_measure)(*(array[:, None] for array in arrays))
    assert_same(jax.tree.map(lambda value: value[:, 0], ours), expected)


@pytest.mark.slow
def test_64_bit_mode_changes_nothing(eight_pairs):
    arrays, expected = eight_pairs
    with jax.enable_x64(True):
        assert_same(transform_and_measure(*arrays), expected)


@pytest.mark.slow
def test_the_program_calls_no_host_and_lowers_for_every_platform():
    mask = jax.ShapeDtypeStruct((2, 300, 300), jnp.bool_)
    spacing = jax.ShapeDtypeStruct((2, 2), jnp.float32)
    exporting = export.export(jax.jit(transform_and_measure), platforms=("cpu", "cuda", "tpu"))
    assert "custom_call" not in exporting(mask, mask, mask, spacing).mlir_module()


def test_an_empty_batch_gives_empty_results():
    masks = np.zeros((0, 16, 16), bool)
    assert surface.hausdorff(masks, masks).shape == (0,)


@pytest.mark.slow
def test_a_mask_of_4096_by_4096_works():
    size, gap = 4096, 16
    grid = np.ones((size, size), bool)
    grid[gap // 2 :: gap, gap // 2 :: gap] = False
    to_dot = np.abs(np.arange(size) % gap - gap // 2)
    expected = np.hypot(to_dot[:, None], to_dot[None]).astype(np.float32)
    np.testing.assert_allclose(surface.distance_transform(grid), expected, rtol=1e-6)


@pytest.mark.slow
def test_shifted_squares_in_images_of_4096_by_4096_have_the_distance_of_their_shift():
    predicted, actual = np.zeros((2, 1, 4096, 4096), bool)
    predicted[0, 100:4000, 100:4000] = True
    actual[0, 103:4000, 104:4000] = True
    assert surface.hausdorff(predicted, actual) == 5.0


# Invalid arguments.


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"predicted": np.zeros((1, 8, 8), np.int32)}, TypeError, "predicted must be.*int32"),
        ({"actual": np.zeros((1, 8, 8), np.float32)}, TypeError, "actual must be a.*float32"),
        ({"where": np.ones((1, 8, 8), np.float32)}, TypeError, "where must be a.*float32"),
        ({"actual": np.zeros((1, 8, 9), bool)}, ValueError, r"\(1, 8, 8\) and \(1, 8, 9\)"),
        ({"where": np.ones((2, 8, 8), bool)}, ValueError, r"where must both.*\(2, 8, 8\)"),
        ({"predicted": np.zeros((8, 8), bool)}, ValueError, r"\[B, H, W\].*\(8, 8\)"),
        ({"predicted": np.zeros((1, 0, 8), bool)}, ValueError, r"one pixel.*\(1, 0, 8\)"),
    ],
)
def test_invalid_masks_raise_errors_with_their_name_and_shape(changed, error, message):
    masks = {name: np.zeros((1, 8, 8), bool) for name in ("predicted", "actual")}
    for function in (
        surface.hausdorff,
        surface.average_surface_distance,
        partial(surface.normalized_surface_dice, tolerance=1.0),
        partial(surface.boundary_f_score, tolerance=1.0),
        surface.boundary_iou,
        partial(surface.measure, all_measures),
        surface.surface_distances,
    ):
        with pytest.raises(error, match=message):
            jax.jit(function)(**masks | changed)


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        (
            np.zeros((4, 4), np.uint8),
            TypeError,
            r"mask must be a boolean mask, got uint8.*\(4, 4\)",
        ),
        (np.zeros((4,), bool), ValueError, r"mask must be \[..., H, W\].*\(4,\)"),
        (np.zeros((4, 0), bool), ValueError, r"at least one pixel, got \(4, 0\)"),
    ],
)
def test_distance_transform_raises_on_invalid_masks(mask, error, message):
    with pytest.raises(error, match=message):
        jax.jit(surface.distance_transform)(mask)


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"percentile": 101}, "percentile must be from 0 to 100, got 101"),
        ({"percentile": -1.0}, "percentile"),
        ({"percentile": math.nan}, "percentile"),
        ({"spacing": (1.0, 0.0)}, r"spacing must be positive and finite, got \[1.0, 0.0\]"),
        ({"spacing": (1.0, math.inf)}, "spacing must be positive"),
        ({"spacing": (1.0, 1.0, 1.0)}, r"one pair per mask, \(3, 2\), got shape \(3,\)"),
        ({"spacing": np.ones((2, 2))}, r"got shape \(2, 2\)"),
        ({"convention": "nnunet"}, "convention must be one of.*monai.*'nnunet'"),
    ],
)
def test_options_out_of_range_raise_errors(options, message):
    masks = np.zeros((3, 8, 8), bool)
    with pytest.raises(ValueError, match=message):
        surface.hausdorff(masks, masks, **options)


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize("tolerance", [-1.0, math.nan, math.inf])
def test_a_tolerance_out_of_range_raises_an_error(tolerance):
    masks = np.zeros((1, 8, 8), bool)
    with pytest.raises(ValueError, match="tolerance must be at least 0"):
        surface.normalized_surface_dice(masks, masks, tolerance=tolerance)
    with pytest.raises(ValueError, match="distance must be at least 0 and finite"):
        surface.boundary_iou(masks, masks, distance=tolerance)
