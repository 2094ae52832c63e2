"""Calibration sums and scores against a loop over pixels in float64, and in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec

from jaxseg import metrics

sums_jit = jax.jit(metrics.calibration_sums, static_argnames="bins")
SCORES = {
    "expected": metrics.expected_calibration_error,
    "maximum": metrics.maximum_calibration_error,
    "brier": metrics.brier_score,
}


def host_sums(*args, **kwargs):
    """Sums as NumPy arrays, which spares compiling every score for every shape."""
    return jax.device_get(sums_jit(*args, **kwargs))


def batch_of(num_classes, shape=(8, 6, 7), seed=0):
    random = np.random.default_rng(seed)
    logits = random.normal(size=(*shape, num_classes)).astype(np.float32) * 2
    return logits, random.integers(0, max(num_classes, 2), shape)


def scores_of_pixels(logits, labels, where, bins):
    """Expected and maximum calibration error and Brier score of one image, pixel by pixel."""
    members: dict[int, list[tuple[float, bool]]] = {}
    squares = []
    for pixel in zip(*np.nonzero(where), strict=True):
        if logits.shape[-1] == 1:
            confidence = float(1 / (1 + np.exp(-logits[pixel][0].astype(np.float64))))
            hit = bool(labels[pixel] == 1)
            squares.append((confidence - hit) ** 2)
        else:
            exact = np.exp(logits[pixel].astype(np.float64))
            p = exact / exact.sum()
            confidence, hit = p.max(), bool(p.argmax() == labels[pixel])
            squares.append(sum((p[k] - (k == labels[pixel])) ** 2 for k in range(len(p))))
        members.setdefault(min(int(confidence * bins), bins - 1), []).append((confidence, hit))
    gaps = {b: abs(sum(hit - c for c, hit in pixels)) for b, pixels in members.items()}
    return {
        "expected": sum(gaps.values()) / where.sum(),
        "maximum": max(gap / len(members[b]) for b, gap in gaps.items()),
        "brier": np.mean(squares),
    }


@pytest.mark.parametrize("num_classes", [1, 3])
def test_scores_per_image_are_those_of_a_loop_over_pixels(num_classes):
    logits, labels = batch_of(num_classes, shape=(2, 4, 5))
    where = np.random.default_rng(1).random(labels.shape) < 0.7
    sums = host_sums(logits, labels, where=where, bins=7)
    for image in range(2):
        expected = scores_of_pixels(logits[image], labels[image], where[image], bins=7)
        for name, score in SCORES.items():
            np.testing.assert_allclose(score(sums)[image], expected[name], rtol=1e-5)


@pytest.mark.parametrize("num_classes", [1, 3])
def test_pooled_scores_are_those_of_one_image_made_of_all_images(num_classes):
    logits, labels = batch_of(num_classes)
    valid = np.arange(8) < 5
    pooled = metrics.pooled(host_sums(logits, labels), valid=valid)
    one = host_sums(logits[:5].reshape(1, -1, 7, num_classes), labels[:5].reshape(1, -1, 7))
    assert pooled.pixels.dtype == np.int64
    for score in SCORES.values():
        np.testing.assert_allclose(score(pooled), score(one)[0], rtol=1e-5)


def test_a_forecast_that_is_right_as_often_as_it_says_has_no_calibration_error():
    p = np.array([0.2, 0.5, 0.9])
    logits = np.broadcast_to(np.log(p / (1 - p))[:, None], (3, 10))[None, ..., None]
    labels = np.arange(10)[None, :] < (10 * p)[:, None] - 1e-9
    sums = host_sums(logits.astype(np.float32), labels[None].astype(np.int32))
    np.testing.assert_allclose(metrics.expected_calibration_error(sums), [0], atol=1e-7)
    np.testing.assert_allclose(metrics.maximum_calibration_error(sums), [0], atol=1e-7)
    np.testing.assert_allclose(metrics.brier_score(sums), [(p * (1 - p)).mean()], rtol=1e-5)
    diagram = metrics.reliability(sums)
    filled = np.asarray(diagram.fraction[0]) > 0
    np.testing.assert_allclose(np.asarray(diagram.fraction[0])[filled], [1 / 3] * 3, rtol=1e-6)
    np.testing.assert_allclose(np.asarray(diagram.confidence[0])[filled], p, rtol=1e-6)
    np.testing.assert_allclose(np.asarray(diagram.frequency[0])[filled], p, rtol=1e-6)
    assert np.isnan(np.asarray(diagram.frequency[0])[~filled]).all()


def test_a_sure_and_wrong_forecast_scores_the_worst():
    labels = np.zeros((1, 3, 3), np.int32)
    sums = host_sums(np.full((1, 3, 3, 1), 1e4, np.float32), labels)
    assert [score(sums).tolist() for score in SCORES.values()] == [[1.0]] * 3
    wrong = np.broadcast_to(np.array([-1e4, 1e4, -1e4], np.float32), (1, 3, 3, 3))
    sums = host_sums(wrong, labels)
    assert [score(sums).tolist() for score in SCORES.values()] == [[1.0], [1.0], [2.0]]


def test_a_bin_holds_its_lower_edge_and_the_last_one_holds_one():
    # sigmoid(0) is exactly 0.5, the lower edge of the second of two bins.
    logits = np.array([0.0, -1e4, 1e4], np.float32).reshape(1, 1, 3, 1)
    sums = host_sums(logits, np.ones((1, 1, 3), np.int32), bins=2)
    assert sums.pixels.tolist() == [[1, 2]]
    assert sums.hits.tolist() == [[1, 2]]
    assert sums.confidence.tolist() == [[0.0, 1.5]]


@given(seed=st.integers(0, 1000), num_classes=st.sampled_from([1, 3]))
@settings(max_examples=20)
def test_every_counted_pixel_is_in_one_bin_and_scores_keep_their_bounds(seed, num_classes):
    logits, labels = batch_of(num_classes, seed=seed)
    where = np.random.default_rng(seed + 1).random(labels.shape) < 0.5
    sums = host_sums(logits, labels, where=where)
    np.testing.assert_array_equal(sums.pixels.sum(-1), where.sum((1, 2)))
    assert (sums.hits <= sums.pixels).all()
    expected, maximum, brier = (np.asarray(score(sums)) for score in SCORES.values())
    assert (expected >= 0).all()
    assert (expected <= maximum * (1 + 1e-6)).all()
    assert (maximum <= 1).all()
    assert ((brier >= 0) & (brier <= min(num_classes, 2))).all()


@pytest.mark.parametrize("num_classes", [1, 3])
def test_where_equals_cropping_and_the_order_of_pixels_does_not_matter(num_classes):
    logits, labels = batch_of(num_classes)
    where = np.zeros(labels.shape, bool)
    where[:, 1:4, 2:7] = True
    garbage = np.where(where[..., None], logits, np.nan)
    masked = sums_jit(garbage, np.where(where, labels, 255), where=where)
    cropped = sums_jit(logits[:, 1:4, 2:7], labels[:, 1:4, 2:7])
    turned = sums_jit(logits[:, 3:0:-1, 6:1:-1], labels[:, 3:0:-1, 6:1:-1])
    for other in (masked, turned):
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), cropped, other)


def test_any_number_of_spatial_axes_gives_the_sums_of_two():
    logits, labels = batch_of(3, shape=(2, 8, 8))
    two, other = (
        host_sums(logits, labels),
        host_sums(logits.reshape(2, 4, 4, 4, 3), labels.reshape(2, 4, 4, 4)),
    )
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), two, other)


def test_the_first_of_equally_likely_classes_is_the_guess():
    labels = np.array([[[0, 1, 2]]])
    sums = host_sums(np.zeros((1, 1, 3, 3), np.float32), labels, bins=2)
    assert sums.pixels.tolist() == [[3, 0]]
    assert sums.hits.tolist() == [[1, 0]]


def test_eight_devices_give_the_sums_of_one():
    logits, labels = batch_of(3)
    mesh = jax.make_mesh((8,), ("data",))
    sharded = jax.device_put((logits, labels), NamedSharding(mesh, PartitionSpec("data")))
    one, eight = sums_jit(logits, labels), sums_jit(*sharded)
    assert len(eight.pixels.sharding.device_set) == 8
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), one, eight)
    np.testing.assert_array_equal(one.pixels, eight.pixels)


@pytest.mark.parametrize(("num_classes", "fault"), [(1, "label"), (3, "logit")])
def test_a_label_outside_the_classes_or_a_logit_of_nan_makes_that_image_nan(num_classes, fault):
    logits, labels = batch_of(num_classes)
    if fault == "label":
        labels[2, 1, 1] = 255
    else:
        logits[2, 1, 1, 0] = np.nan
    sums = host_sums(logits, labels)
    for score in SCORES.values():
        np.testing.assert_array_equal(np.isnan(score(sums)), np.arange(8) == 2)
        assert np.isnan(score(metrics.pooled(sums)))
    fraction = metrics.reliability(sums).fraction
    np.testing.assert_array_equal(np.isnan(fraction).all(-1), np.arange(8) == 2)


def test_an_image_that_is_masked_out_has_no_score():
    logits, labels = batch_of(1)
    sums = host_sums(logits, labels, where=np.zeros(labels.shape, bool))
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(sums))
    for score in SCORES.values():
        assert np.isnan(score(sums)).all()
    assert np.isnan(metrics.reliability(sums).fraction).all()


def test_bfloat16_logits_are_binned_in_float32():
    logits, labels = batch_of(1)
    rounded = jnp.asarray(logits, jnp.bfloat16)
    half, full = sums_jit(rounded, labels), sums_jit(rounded.astype(jnp.float32), labels)
    jax.tree.map(np.testing.assert_array_equal, half, full)
    assert half.confidence.dtype == jnp.float32


def test_sums_are_right_with_64_bit_types_enabled():
    logits, labels = batch_of(3)
    plain = sums_jit(logits, labels)
    with jax.enable_x64(True):
        wide = sums_jit(logits, labels.astype(np.int64))
    np.testing.assert_array_equal(plain.pixels, wide.pixels)
    np.testing.assert_allclose(plain.squared_error, wide.squared_error, rtol=1e-5)
