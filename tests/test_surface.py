"""Surface distances against SciPy, sets of pixels, closed forms and themselves on more devices."""

import math
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
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


SHAPE = (5, 40, 40)
"""Of most batches, so that most tests share one compiled program."""


def blobs(seed, shape=SHAPE):
    """Smooth random masks, some of which reach the picture's border."""
    noise = np.random.default_rng(seed).standard_normal(shape)
    return ndimage.gaussian_filter(noise, (0, 4, 4)) > 0.02


def all_measures(distances):
    return {
        "hausdorff": distances.hausdorff(),
        "hd95": distances.hausdorff(95.0),
        "average": distances.average(),
        "dice": distances.normalized_dice(1.5),
        "averages": distances.one_way_averages().T,
    }


@cache
def measured(convention):
    """One compiled program for each convention and shape."""

    def run(predicted, actual, spacing):
        return surface.measure(
            all_measures, predicted, actual, spacing=spacing, convention=convention
        )

    return jax.jit(run)


def measure(predicted, actual, spacing=(1.0, 1.0), convention="monai"):
    spacing = np.broadcast_to(np.float32(spacing), (len(predicted), 2))
    return {
        name: np.asarray(value)
        for name, value in measured(convention)(predicted, actual, spacing).items()
    }


# The oracle: Python sets of points, and nothing of the library.


def edge_pixels(mask, _spacing):
    """Each edge pixel with a length of 1."""
    pixels = {(int(y), int(x)) for y, x in zip(*np.nonzero(mask), strict=True)}
    steps = ((0, 1), (0, -1), (1, 0), (-1, 0))
    return {(y, x): 1.0 for y, x in pixels if any((y + a, x + b) not in pixels for a, b in steps)}


def contour_corners(mask, spacing):
    """Each corner of pixels that the outline runs through, with the outline's length there."""
    pixels = {(int(y), int(x)) for y, x in zip(*np.nonzero(mask), strict=True)}
    diagonal = math.hypot(*spacing)
    lengths = {}
    for y, x in np.ndindex(mask.shape[0] + 1, mask.shape[1] + 1):
        around = [(y - 1, x - 1) in pixels, (y - 1, x) in pixels]
        around += [(y, x - 1) in pixels, (y, x) in pixels]
        if sum(around) in (1, 3):
            lengths[y, x] = diagonal / 2
        elif sum(around) == 2:
            level, upright = around[0] == around[1], around[0] == around[2]
            lengths[y, x] = spacing[1] if level else spacing[0] if upright else diagonal
    return lengths


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


def expected_measures(predicted, actual, spacing, convention):
    boundary = {"monai": edge_pixels, "surface-distance": contour_corners}[convention]
    source, target = boundary(predicted, spacing), boundary(actual, spacing)
    there, back = nearest(source, target, spacing), nearest(target, source, spacing)
    one, two = list(source.values()), list(target.values())

    def hausdorff(percentile):
        return np.fmax(
            percentile_of(there, one, percentile, convention),
            percentile_of(back, two, percentile, convention),
        )

    return {
        "hausdorff": hausdorff(100),
        "hd95": hausdorff(95),
        "average": mean_of(there + back, one + two),
        "dice": mean_of([float(d <= 1.5) for d in there + back], one + two),
        "averages": (mean_of(there, one), mean_of(back, two)),
    }


# The distance transform.


def scipys(mask, spacing=(1.0, 1.0)):
    return np.asarray(ndimage.distance_transform_edt(mask, sampling=spacing))


@pytest.mark.parametrize("spacing", [*SPACINGS, (3.0, 0.4)])
@pytest.mark.parametrize("shape", [(1, 1), (1, 70), (70, 1), (33, 47), (95, 129)])
def test_distance_transform_is_scipys(shape, spacing):
    masks = np.stack([random_masks(0, shape, density) for density in (0.3, 0.9, 0.999)])
    masks[:, 0, 0] = False
    ours = surface.distance_transform(masks, spacing=spacing)
    assert ours.dtype == jnp.float32
    theirs = [scipys(mask, spacing) for mask in masks]
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_one_false_pixel_gives_the_distance_to_it_from_everywhere():
    mask = np.ones((150, 200), bool)
    mask[140, 3] = False
    rows, columns = np.indices(mask.shape)
    expected = np.hypot((rows - 140) * 0.7, (columns - 3) * 1.3)
    ours = surface.distance_transform(mask, spacing=(0.7, 1.3))
    np.testing.assert_allclose(ours, expected, rtol=1e-6)


def test_a_mask_without_false_pixels_is_infinitely_far_and_an_empty_one_is_all_zero():
    masks = np.stack([np.ones((20, 40), bool), np.zeros((20, 40), bool), random_masks(1, (20, 40))])
    ours = surface.distance_transform(masks)
    assert np.all(np.isinf(ours[0]))
    assert np.all(ours[1] == 0)
    np.testing.assert_allclose(ours[2], scipys(masks[2]), atol=1e-5)


@pytest.mark.parametrize("lead", [(), (3,), (2, 3), (0,), (2, 0)])
def test_distance_transform_keeps_any_leading_axes(lead):
    masks = random_masks(2, (*lead, 19, 23))
    ours = surface.distance_transform(masks)
    assert ours.shape == masks.shape
    for index in np.ndindex(*lead):
        np.testing.assert_allclose(ours[index], scipys(masks[index]), atol=1e-5)


def test_distance_transform_takes_a_spacing_for_each_mask():
    masks = random_masks(3, (2, 19, 23), 0.9)
    ours = surface.distance_transform(masks, spacing=np.asarray(SPACINGS))
    for i, spacing in enumerate(SPACINGS):
        np.testing.assert_allclose(ours[i], scipys(masks[i], spacing), atol=1e-5)


# Measures against the oracle.


@pytest.mark.parametrize("convention", CONVENTIONS)
@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    density=st.sampled_from([0.05, 0.3, 0.6, 0.95]),
    spacing=st.sampled_from([*SPACINGS, (1.5, 0.8)]),
)
# Where elements make up 95 % to the very element.
@example(seed=453654, density=0.6, spacing=(1.5, 0.8))
@example(seed=941920, density=0.05, spacing=(1, 1))
@example(seed=625399, density=0.05, spacing=(0.5, 2))
def test_measures_are_those_of_sets_of_points(convention, seed, density, spacing):
    predicted, actual = random_masks(seed, (2, 1, 7, 9), density)
    ours = measure(predicted, actual, spacing, convention)
    expected = expected_measures(predicted[0], actual[0], spacing, convention)
    for name, value in expected.items():
        np.testing.assert_allclose(ours[name], [value], rtol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    ("shape", "spacing"),
    [((1, 1, 40), SPACINGS[1]), ((1, 40, 1), SPACINGS[1]), *((SHAPE, s) for s in SPACINGS)],
)
def test_measures_of_larger_masks_are_those_of_sets_of_points(shape, spacing):
    predicted, actual = blobs(4, shape), blobs(5, shape)
    ours = measure(predicted, actual, spacing)
    for i, masks in enumerate(zip(predicted, actual, strict=True)):
        for name, value in expected_measures(*masks, spacing, "monai").items():
            np.testing.assert_allclose(ours[name][i], value, rtol=1e-5, err_msg=name)


def test_noise_overflows_the_small_buffers_and_loses_no_edge_pixel():
    """Its boundary is several times longer than the usual one, and takes many chunks."""
    predicted, actual = random_masks(6, (2, 2, 130, 150))
    ours = measure(predicted, actual)
    for i in range(2):
        edges = [m & np.logical_not(ndimage.binary_erosion(m)) for m in (predicted[i], actual[i])]
        points = [np.argwhere(e) for e in edges]
        assert min(len(p) for p in points) > 4 * (130 + 150)
        there = KDTree(points[1]).query(points[0])[0]
        back = KDTree(points[0]).query(points[1])[0]
        both = np.concatenate([there, back])
        np.testing.assert_allclose(ours["hausdorff"][i], both.max(), rtol=1e-6)
        np.testing.assert_allclose(ours["average"][i], both.mean(), rtol=1e-6)
        np.testing.assert_allclose(ours["dice"][i], (both <= 1.5).mean(), rtol=1e-6)
        np.testing.assert_allclose(ours["averages"][i], (there.mean(), back.mean()), rtol=1e-6)


def test_percentiles_beside_a_wide_gap_are_interpolated_exactly():
    """21 edge pixels meet their like, one lies 3000 columns off: the 95th is before the gap."""
    percentiles = (0.0, 94.0, 95.0, 95.5, 99.999, 100.0)
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
    # Of 76 edge pixels those in the top and bottom rows are 0 or, 7 a row, 1 to 7 columns off. The
    # outer side's 18 are 7 off. The inner side's lie within the other square, whose top and bottom
    # are nearer in the first and last 6 rows than its side, 7 off.
    rows = np.minimum(np.arange(1, 19), np.arange(18, 0, -1))
    total = 2 * sum(range(1, 8)) + 18 * 7 + np.minimum(rows, 7).sum()
    np.testing.assert_allclose(ours["average"], total / 76, rtol=1e-6)
    np.testing.assert_allclose(ours["averages"], total / 76, rtol=1e-6)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_empty_masks_give_the_documented_values(convention):
    square, empty, full = np.zeros((3, *SHAPE[1:]), bool)
    square[5:9, 6:12] = True
    full[:] = True
    predicted = np.stack([empty, empty, square, full, square])
    actual = np.stack([empty, square, empty, full, square])
    ours = measure(predicted, actual, convention=convention)
    nan, inf = math.nan, math.inf
    for name in ("hausdorff", "hd95", "average"):
        np.testing.assert_array_equal(ours[name], [nan, inf, inf, 0, 0], err_msg=name)
    np.testing.assert_array_equal(ours["dice"], [nan, 0, 0, 1, 1])
    np.testing.assert_array_equal(ours["averages"][:, 0], [nan, nan, inf, 0, 0])
    np.testing.assert_array_equal(ours["averages"][:, 1], [nan, inf, nan, 0, 0])


# Symmetries.


@pytest.mark.parametrize("convention", CONVENTIONS)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_flips_moves_and_an_exchange_of_the_masks_change_nothing(convention, seed):
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
        changed = measure(change(predicted), change(actual), convention=convention)
        for name, value in plain.items():
            np.testing.assert_allclose(changed[name], value, rtol=1e-6, err_msg=name)
    exchanged = measure(actual, predicted, convention=convention)
    exchanged["averages"] = exchanged["averages"][:, ::-1]
    for name, value in plain.items():
        np.testing.assert_allclose(exchanged[name], value, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_distances_grow_with_the_spacing_and_turn_with_the_masks(convention):
    predicted, actual = blobs(7), blobs(8)
    plain = measure(predicted, actual, (0.6, 1.4), convention)
    double = measure(predicted, actual, (1.2, 2.8), convention)
    turned = measure(predicted.swapaxes(1, 2), actual.swapaxes(1, 2), (1.4, 0.6), convention)
    for name in ("hausdorff", "hd95", "average", "averages"):
        np.testing.assert_allclose(double[name], 2 * plain[name], rtol=1e-6)
        np.testing.assert_allclose(turned[name], plain[name], rtol=1e-6)


def test_each_image_may_have_a_spacing_of_its_own():
    predicted, actual = blobs(7), blobs(8)
    spacings = np.linspace((0.5, 2.0), (1.5, 0.7), len(predicted))
    together = measure(predicted, actual, spacings)
    for i, spacing in enumerate(spacings):
        alone = measure(predicted, actual, spacing)
        for name, value in together.items():
            np.testing.assert_allclose(value[i], alone[name][i], rtol=1e-6)


# One search, several forms.


@pytest.mark.parametrize(
    ("name", "function", "convention"),
    [
        ("hd95", partial(surface.hausdorff, percentile=95), "surface-distance"),
        ("average", surface.average_surface_distance, "monai"),
        ("dice", partial(surface.normalized_surface_dice, tolerance=1.5), "surface-distance"),
    ],
)
def test_each_function_gives_what_one_search_for_all_gives(name, function, convention):
    predicted, actual = blobs(11), blobs(12)
    together = measure(predicted, actual, (0.5, 2.0), convention)
    alone = function(predicted, actual, spacing=(0.5, 2.0), convention=convention)
    assert alone.shape == (SHAPE[0],)
    assert alone.dtype == jnp.float32
    np.testing.assert_allclose(alone, together[name], rtol=1e-6)


@pytest.mark.parametrize("spacing", [(0.7, 0.7), (1.5, 0.7), (0.1, 0.3)])
def test_an_edge_at_the_tolerance_is_within_it(spacing):
    """However the distance of a few steps was rounded."""
    predicted, actual = np.zeros((2, *SHAPE), bool)
    predicted[:, 8, 5] = True
    for steps in range(1, 5):
        for axis, shift in enumerate(((steps, 0), (0, steps))):
            actual[:] = np.roll(predicted, shift, axis=(1, 2))
            distances = surface.surface_distances(predicted, actual, spacing=spacing)
            tolerance = steps * spacing[axis]
            assert np.all(distances.normalized_dice(tolerance) == 1)
            assert np.all(distances.normalized_dice(0.999 * tolerance) == 0)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_surface_distances_hold_every_element_once(convention):
    predicted, actual = blobs(13, (2, 24, 24)), blobs(14, (2, 24, 24))
    boundary = {"monai": edge_pixels, "surface-distance": contour_corners}[convention]
    ours = surface.surface_distances(predicted, actual, convention=convention)
    sources, targets = (predicted, actual), (actual, predicted)
    for way, image in np.ndindex(2, 2):
        source = boundary(sources[way][image], (1.0, 1.0))
        target = boundary(targets[way][image], (1.0, 1.0))
        elements, distances = len(source), ours.distances[way, image]
        assert ours.elements[way, image] == elements
        exact = sorted(nearest(source, target, (1.0, 1.0)))
        np.testing.assert_allclose(np.sort(distances[:elements]), exact, rtol=1e-6)
        assert np.all(np.isinf(distances[elements:]))
        if ours.lengths is not None:
            total = ours.lengths[way, image].sum()
            np.testing.assert_allclose(total, sum(source.values()), rtol=1e-6)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_a_buffer_cut_to_its_elements_measures_the_same(convention):
    predicted, actual = blobs(15, (8, 112, 112)), blobs(16, (8, 112, 112))
    whole = surface.surface_distances(predicted, actual, convention=convention)
    room = int(np.max(whole.elements))
    lengths = None if whole.lengths is None else whole.lengths[..., :room]
    cut = whole._replace(distances=whole.distances[..., :room], lengths=lengths)
    assert room % chunk_size(8, room)
    assert_same(all_measures(cut), all_measures(whole))


# One device, several devices, no host.


def transform_and_measure(predicted, actual):
    measures = surface.measure(all_measures, predicted, actual, convention="surface-distance")
    return surface.distance_transform(predicted), measures


def assert_same(ours, expected):
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), ours, expected)


@pytest.fixture(scope="module")
def eight_pairs():
    """Eight pairs of masks, an empty and a noisy one among them, and what one device gives."""
    predicted, actual = blobs(15, (8, 40, 40)), blobs(16, (8, 40, 40))
    predicted[2], actual[5] = False, random_masks(0, (40, 40))
    return predicted, actual, jax.jit(transform_and_measure)(predicted, actual)


def by_image():
    return NamedSharding(Mesh(np.asarray(jax.devices()), ("data",)), PartitionSpec("data"))


def test_eight_devices_give_what_one_gives(eight_pairs):
    predicted, actual, expected = eight_pairs
    shards = [jax.device_put(mask, by_image()) for mask in (predicted, actual)]
    ours = jax.jit(transform_and_measure)(*shards)
    assert_same(ours, expected)
    assert ours[0].sharding.is_equivalent_to(by_image(), 3)


@pytest.mark.slow
def test_devices_exchange_no_pictures():
    """They only agree on how far to go on: these masks are large enough to need both branches."""
    masks = jax.ShapeDtypeStruct((8, 100, 100), jnp.bool_, sharding=by_image())
    program = jax.jit(transform_and_measure).lower(masks, masks).compile().as_text() or ""
    assert "all-reduce" in program
    for exchange in ("all-gather", "all-to-all", "collective-permute"):
        assert exchange not in program


@pytest.mark.slow
@pytest.mark.parametrize("mapping", [jax.vmap, jax.pmap])
def test_a_mapped_program_gives_what_a_batch_gives(mapping, eight_pairs):
    predicted, actual, expected = eight_pairs
    ours = mapping(transform_and_measure)(predicted[:, None], actual[:, None])
    assert_same(jax.tree.map(lambda value: value[:, 0], ours), expected)


def test_an_image_has_the_same_measures_alone_as_in_a_batch(eight_pairs):
    predicted, actual, expected = eight_pairs
    alone = jax.jit(transform_and_measure)
    for i in range(8):
        ours = alone(predicted[i : i + 1], actual[i : i + 1])
        assert_same(ours, jax.tree.map(lambda value, i=i: value[i : i + 1], expected))


def test_64_bit_mode_changes_nothing(eight_pairs):
    predicted, actual, expected = eight_pairs
    with jax.enable_x64(True):
        assert_same(jax.jit(transform_and_measure)(predicted, actual), expected)


def test_the_program_calls_no_host_and_lowers_for_every_platform():
    masks = jax.ShapeDtypeStruct((2, 300, 300), jnp.bool_)
    exporting = export.export(jax.jit(transform_and_measure), platforms=("cpu", "cuda", "tpu"))
    assert "custom_call" not in exporting(masks, masks).mlir_module()


def test_an_empty_batch_gives_empty_results():
    masks = np.zeros((0, 16, 16), bool)
    assert all(len(value) == 0 for value in measure(masks, masks).values())


@pytest.mark.slow
def test_a_mask_of_4096_by_4096_works():
    size, gap = 4096, 16
    grid = np.ones((size, size), bool)
    grid[gap // 2 :: gap, gap // 2 :: gap] = False
    to_dot = np.abs(np.arange(size) % gap - gap // 2)
    expected = np.hypot(to_dot[:, None], to_dot[None]).astype(np.float32)
    np.testing.assert_allclose(surface.distance_transform(grid), expected, rtol=1e-6)


@pytest.mark.slow
def test_squares_in_pictures_of_4096_by_4096_have_the_distances_of_their_shift():
    predicted, actual = np.zeros((2, 1, 4096, 4096), bool)
    predicted[0, 100:4000, 100:4000] = True
    actual[0, 103:4000, 104:4000] = True
    assert surface.hausdorff(predicted, actual) == 5.0


# What is refused.


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
    ("predicted", "actual", "error", "message"),
    [
        (np.zeros((1, 8, 8), np.int32), None, TypeError, "predicted must be a boolean mask.*int32"),
        (None, np.zeros((1, 8, 8), np.float32), TypeError, "actual must be a boolean.*float32"),
        (None, np.zeros((1, 8, 9), bool), ValueError, r"\(1, 8, 8\) and \(1, 8, 9\)"),
        (np.zeros((8, 8), bool), np.zeros((8, 8), bool), ValueError, r"\[B, H, W\].*\(8, 8\)"),
        (np.zeros((1, 0, 8), bool), None, ValueError, r"predicted must .* one pixel.*\(1, 0, 8\)"),
    ],
)
def test_wrong_masks_are_refused_by_name_and_shape(predicted, actual, error, message):
    plain = np.zeros((1, 8, 8), bool)
    predicted = plain if predicted is None else predicted
    actual = plain if actual is None else actual
    for function in (
        surface.hausdorff,
        surface.average_surface_distance,
        partial(surface.normalized_surface_dice, tolerance=1.0),
        partial(surface.measure, all_measures),
        surface.surface_distances,
    ):
        with pytest.raises(error, match=message):
            jax.jit(function)(predicted, actual)


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
def test_distance_transform_refuses_what_is_no_mask(mask, error, message):
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
def test_options_out_of_range_are_refused(options, message):
    masks = np.zeros((3, 8, 8), bool)
    with pytest.raises(ValueError, match=message):
        surface.hausdorff(masks, masks, **options)


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize("tolerance", [-1.0, math.nan, math.inf])
def test_a_tolerance_out_of_range_is_refused(tolerance):
    masks = np.zeros((1, 8, 8), bool)
    with pytest.raises(ValueError, match="tolerance must be at least 0"):
        surface.normalized_surface_dice(masks, masks, tolerance=tolerance)
