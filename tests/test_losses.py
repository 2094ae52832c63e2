"""Every loss keeps the contract: its formula, finite everywhere, clear about what does not fit."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.test_util import check_grads
from loss_formulas import (
    CHANNELS,
    CLASS_IDS_ONLY,
    DISTANCE_LOSSES,
    EACH_LOSS,
    EACH_LOSS_QUICKLY,
    LOSSES,
    QUICK,
    SHAPE,
    as_probabilities,
    by_formula,
    compiled,
    has_option,
)

from jaxseg import losses, metrics, parallel
from jaxseg.losses import lovasz


def draw(channels: int, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    logits = (2 * rng.normal(size=(*SHAPE, channels))).astype(np.float32)
    labels = rng.integers(0, max(channels, 2), SHAPE).astype(np.int32)
    where = rng.random(SHAPE) < 0.7
    return logits, labels, where


@EACH_LOSS
def test_each_loss_is_its_formula_on_the_pixels_that_count(name, channels):
    logits, labels, where = draw(channels)
    labels[1] = 0
    value, _ = compiled(name)(logits, labels, where)
    assert value.dtype == np.float32
    np.testing.assert_allclose(value, by_formula(name, logits, labels, where), rtol=2e-5, atol=1e-6)


@EACH_LOSS
def test_each_loss_has_the_slope_of_its_formula(name, channels):
    """Along a random direction, by central differences of the formula in float64."""
    logits, labels, where = draw(channels)
    direction = np.random.default_rng(5).normal(size=logits.shape)
    step = 1e-6 * direction
    ahead = by_formula(name, logits + step, labels, where)
    behind = by_formula(name, logits - step, labels, where)
    _, gradient = compiled(name)(logits, labels, where)
    expected = (np.array(ahead) - np.array(behind)) / 2e-6
    np.testing.assert_allclose((gradient * direction).sum((1, 2, 3)), expected, rtol=1e-4)


@pytest.mark.parametrize("name", ["cross_entropy", "focal", "soft_dice", "lovasz_softmax"])
def test_many_channels_cost_what_the_formula_says(name):
    rng = np.random.default_rng(0)
    shape = (2, 8, 8)
    logits = (2 * rng.normal(size=(*shape, 20))).astype(np.float32)
    labels = rng.integers(0, 20, shape).astype(np.int32)
    where = rng.random(shape) < 0.7
    step = 1e-6 * (direction := rng.normal(size=logits.shape))
    value, gradient = compiled(name)(logits, labels, where)
    np.testing.assert_allclose(value, by_formula(name, logits, labels, where), rtol=2e-5)
    ahead, behind = (
        np.array(by_formula(name, logits + sign * step, labels, where)) for sign in (1, -1)
    )
    slope = (gradient * direction).sum((1, 2, 3))
    np.testing.assert_allclose(slope, (ahead - behind) / 2e-6, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("cross_entropy", 1),
        ("soft_dice", 3),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in [("cross_entropy", 3), ("soft_dice", 1), ("focal", 3)]
        ),
    ],
)
def test_derivatives_by_logits_and_probabilities_hold_in_both_modes(name, channels):
    """Against differences, which float32 leaves two digits of."""
    logits, labels, where = draw(channels)
    logits, where = 0.3 * logits, where[:1]
    targets = 0.8 * as_probabilities(labels, channels) + 0.1

    def cost(logits: jax.Array, targets: jax.Array) -> jax.Array:
        return LOSSES[name](logits, targets, where=where)[0]

    check_grads(jax.jit(cost), (logits[:1], targets[:1]), order=1, eps=1e-2, atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("size", [1, 2, 50, 64])
def test_both_ways_to_find_the_slopes_of_the_jaccard_loss_agree(size):
    """With runs of equal keys, whose slopes add up to what the run adds to the loss."""
    keys = np.random.default_rng(size).integers(-6, 6, (3, size)).astype(np.int32)
    one = jax.jit(lovasz._slopes_by_search)(keys)
    other = jax.jit(lovasz._slopes_by_sorting)(keys)
    np.testing.assert_allclose(one, other, rtol=1e-6)
    np.testing.assert_allclose(one.sum(-1), 1, rtol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_cross_entropy_weighs_and_smooths_by_its_formula(channels):
    logits, labels, where = draw(channels)
    weights = np.array([0.5, 2.0, 0.0][: max(channels, 2)], np.float32)
    value = losses.cross_entropy(
        logits, labels, where=where, class_weights=weights, label_smoothing=0.2
    )
    scores = logits.astype(np.float64)
    scores = scores if channels > 1 else np.concatenate([0 * scores, scores], -1)
    surprise = np.log(np.exp(scores).sum(-1, keepdims=True)) - scores
    truth = np.eye(len(weights))[labels]
    shares = weights * (0.8 * truth + 0.2 / len(weights))
    cost = (where * (shares * surprise).sum(-1)).sum((1, 2))
    weight = (where * (weights * truth).sum(-1)).sum((1, 2))
    np.testing.assert_allclose(value, cost / weight, rtol=1e-5)


def test_cross_entropy_is_the_mean_of_optaxs():
    logits, labels, where = draw(1)
    each = optax.losses.sigmoid_binary_cross_entropy(jnp.asarray(logits[..., 0]), labels)
    expected = each.mean((1, 2), where=where)
    np.testing.assert_allclose(compiled("cross_entropy")(logits, labels, where)[0], expected, 1e-5)
    logits, labels, where = draw(3)
    each = optax.losses.softmax_cross_entropy_with_integer_labels(jnp.asarray(logits), labels)
    expected = each.mean((1, 2), where=where)
    np.testing.assert_allclose(compiled("cross_entropy")(logits, labels, where)[0], expected, 1e-5)


def test_classes_of_weight_0_cost_nothing():
    logits, labels, _ = draw(3)
    value, gradient = compiled("cross_entropy", class_weights=(1.0, 1.0, 0.0))(
        logits, np.full_like(labels, 2), np.ones(SHAPE, bool)
    )
    np.testing.assert_array_equal(value, 0)
    np.testing.assert_array_equal(gradient, 0)


def test_focal_takes_one_alpha_for_the_foreground_or_one_for_each_class():
    logits, labels, _ = draw(1)
    np.testing.assert_array_equal(
        losses.focal(logits, labels, alpha=0.25), losses.focal(logits, labels, alpha=(0.75, 0.25))
    )


def test_focal_tversky_is_flat_where_only_errors_without_weight_are_left():
    """A full prediction of an empty mask, with false positives free."""
    logits, labels, where = draw(1)
    value, gradient = compiled("focal_tversky", alpha=0.0)(logits, 0 * labels, where)
    np.testing.assert_array_equal(value, 0)
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("name", sorted(DISTANCE_LOSSES))
def test_distances_are_in_the_unit_of_the_spacing(name):
    logits, labels, where = draw(1)
    options = {"alpha": 1.0} if name == "hausdorff_dt" else {}
    loss = partial(LOSSES[name], **options)
    unit = loss(logits, labels, where=where)
    np.testing.assert_allclose(
        loss(logits, labels, where=where, spacing=(2.0, 2.0)), 2 * unit, rtol=1e-5
    )
    one = loss(logits, labels, where=where, spacing=(0.5, 2.0))
    logits, labels, where = (np.swapaxes(array, 1, 2) for array in (logits, labels, where))
    other = loss(logits, labels, where=where, spacing=(2.0, 0.5))
    np.testing.assert_allclose(one, other, rtol=1e-5)
    assert not np.allclose(one, unit)


@pytest.mark.parametrize("name", ["cross_entropy", "soft_dice"])
def test_a_label_outside_the_classes_makes_the_pooled_loss_nan(name):
    logits, labels, where = draw(3)
    labels[2, 0, 0], where[2, 0, 0] = 3, True
    value, gradient = compiled(name, pooled=True)(logits, labels, where)
    assert np.isnan(value)
    np.testing.assert_array_equal(gradient, 0)
    where[2, 0, 0] = False
    value, _ = compiled(name, pooled=True)(logits, labels, where)
    assert np.isfinite(value)


def hard_images(channels: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """What breaks losses, one image each; no pixel of the last counts."""
    rng = np.random.default_rng(0)
    mixed = rng.integers(0, max(channels, 2), SHAPE[1:])
    empty, full = np.zeros_like(mixed), np.full_like(mixed, max(channels, 2) - 1)
    small = rng.normal(size=(*SHAPE[1:], channels))
    towards = 2 * as_probabilities(mixed, channels) - 1
    ones, counted = np.ones_like(small), np.ones(SHAPE[1:], bool)
    one_pixel = np.arange(mixed.size).reshape(mixed.shape) == 7
    images = {
        "empty mask": (small, empty, counted),
        "full mask": (small, full, counted),
        "empty mask, sure of it": (-1e4 * ones, empty, counted),
        "full mask, sure of it": (1e4 * ones, full, counted),
        "right by far": (1e4 * towards, mixed, counted),
        "wrong by far": (-1e4 * towards, mixed, counted),
        "right until float32 ends": (88 * towards, mixed, counted),
        "almost nothing in an empty mask": (-88 * ones, empty, counted),
        "equal logits": (0 * ones, mixed, counted),
        "one sure pixel in an empty mask": (
            1e4 * np.where(one_pixel[..., None], 1, -1) * ones,
            empty,
            counted,
        ),
        "one pixel counts": (small, mixed, one_pixel),
        "no pixel counts": (small, mixed, ~counted),
    }
    logits, labels, where = (np.stack(part) for part in zip(*images.values(), strict=True))
    return logits.astype(np.float32), labels.astype(np.int32), where, list(images)


@pytest.mark.parametrize(
    ("name", "channels", "dtype", "options"),
    [
        pytest.param(name, channels, dtype, options, marks=marks)
        for name in LOSSES
        for channels in CHANNELS[name]
        for dtype, options, marks in [
            (jnp.float32, {}, ()),
            (jnp.bfloat16, {}, pytest.mark.slow if name not in QUICK else ()),
            (jnp.float32, {"smooth": 0.0}, pytest.mark.slow if name not in QUICK else ()),
        ]
        if not options or has_option(name, "smooth")
    ],
)
def test_values_and_gradients_are_finite(name, channels, dtype, options):
    """A loss joins by being in `jaxseg.losses`."""
    *arrays, images = hard_images(channels)
    results = {}
    for first in range(0, len(images), SHAPE[0]):
        rows = np.arange(first, first + SHAPE[0]) % len(images)
        logits, labels, where = (array[rows] for array in arrays)
        value, gradient = compiled(name, **options)(jnp.asarray(logits, dtype), labels, where)
        assert value.dtype == np.float32
        assert gradient.dtype == dtype
        for row, image in enumerate(rows):
            results[images[image]] = value[row], gradient[row].astype(np.float32)
    assert len(results) == len(images)
    for image, (value, gradient) in results.items():
        assert np.isfinite(value), image
        assert np.isfinite(gradient).all(), image
    value, gradient = results["no pixel counts"]
    assert value == 0
    assert not gradient.any()


@EACH_LOSS
def test_pixels_that_do_not_count_may_hold_anything(name, channels):
    logits, labels, where = draw(channels)
    spoiled = np.where(where[..., None], logits, np.nan).astype(np.float32)
    value, gradient = compiled(name)(spoiled, np.where(where, labels, 255), where)
    expected_value, expected_gradient = compiled(name)(logits, labels, where)
    np.testing.assert_array_equal(value, expected_value)
    np.testing.assert_array_equal(gradient, expected_gradient)
    assert not gradient[~where].any()


SPOILED = np.isin(np.arange(SHAPE[0]), [0, 1, 3])


@EACH_LOSS
def test_a_counted_label_outside_the_classes_makes_that_image_nan(name, channels):
    logits, labels, where = draw(channels)
    expected, _ = compiled(name)(logits, labels, where)
    for image, label in [(0, -1), (1, 3), (3, 2**31 - 1)]:
        row, column = np.argwhere(where[image])[0]
        labels[image, row, column] = label
    value, gradient = compiled(name)(logits, labels, where)
    np.testing.assert_array_equal(value, np.where(SPOILED, np.nan, expected))
    assert np.isfinite(gradient).all()


@EACH_LOSS_QUICKLY
def test_a_counted_probability_outside_0_and_1_makes_that_image_nan(name, channels):
    logits, labels, where = draw(channels)
    if name in CLASS_IDS_ONLY:
        with pytest.raises(TypeError, match="labels must be class ids here, got probabilities"):
            LOSSES[name](logits, as_probabilities(labels, channels))
        return
    targets = as_probabilities(labels, channels)
    value, gradient = compiled(name)(logits, targets, where)
    as_ids = compiled(name)(logits, labels, where)
    np.testing.assert_allclose(value, as_ids[0], rtol=1e-6)
    np.testing.assert_allclose(gradient, as_ids[1], atol=1e-7)
    for image, bad in [(0, -0.5), (1, 1.5), (3, np.nan)]:
        row, column = np.argwhere(where[image])[0]
        targets[image, row, column, 0] = bad
    targets[~where] = np.inf
    bad_value, gradient = compiled(name)(logits, targets, where)
    np.testing.assert_array_equal(bad_value, np.where(SPOILED, np.nan, value))
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.bool_])
def test_labels_of_every_integer_dtype_and_boolean_masks_mean_the_same(dtype):
    logits, labels, where = draw(1)
    value, _ = compiled("cross_entropy")(logits, labels.astype(dtype), where)
    np.testing.assert_array_equal(value, compiled("cross_entropy")(logits, labels, where)[0])


@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.parametrize("kind", [np.int64, np.uint64])
def test_labels_beyond_int32_do_not_wrap_into_the_classes(kind, x64):
    logits, labels, _ = draw(1)
    wide, mesh = labels.astype(kind) + kind(2**32), parallel.make_mesh(jax.devices()[:1])
    with jax.enable_x64(x64):
        value = losses.cross_entropy(logits, wide)
        counts = metrics.count(wide, labels, num_classes=1)
    assert np.isnan(value).all()
    assert (np.asarray(counts.outside) > 0).all()
    batches = (
        parallel.shard_batch({"labels": wide}, mesh),
        parallel.take_batch({"labels": wide}, np.arange(len(wide)), mesh),
    )
    for batch in batches:
        assert np.isnan(jax.jit(losses.cross_entropy)(logits, batch["labels"])).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_smoothed_labels_of_weight_zero_cost_nothing(channels):
    logits, _, _ = draw(channels)
    labels = np.zeros(logits.shape[:3], np.int32)
    weights = [0.0] + [1.0] * max(1, channels - 1)

    def cost(logits):
        return losses.cross_entropy(
            logits, labels, class_weights=weights, label_smoothing=0.1
        ).sum()

    value, slope = jax.value_and_grad(cost)(jnp.asarray(logits))
    assert value == 0
    assert not np.asarray(slope).any()


@pytest.mark.parametrize("name", ["cross_entropy", "soft_dice", "jaccard", "tversky"])
def test_class_weights_of_any_size_give_the_same(name):
    logits, labels, where = draw(3)
    plain, tiny = (
        LOSSES[name](logits, labels, where=where, class_weights=np.array([1.0, 3.0, 9.0]) * size)
        for size in (1.0, 1e-10)
    )
    np.testing.assert_allclose(tiny, plain, rtol=1e-5)


@pytest.mark.parametrize("name", ["cross_entropy", "focal"])
@pytest.mark.parametrize("soft", [False, True])
def test_logits_far_from_zero_cost_what_their_differences_do(name, soft):
    near = np.array([30.0, 20.0, 25.0], np.float32).reshape(1, 1, 1, 3)
    labels = np.zeros((1, 1, 1), np.int32)
    if soft:
        labels = np.eye(3, dtype=np.float32)[labels]
    exact = np.log1p(np.exp(-10.0) + np.exp(-5.0))
    if name == "focal":
        exact *= np.expm1(-exact) ** 2
    for shift in (0, 1000):
        np.testing.assert_allclose(LOSSES[name](near + shift, labels), [exact], rtol=2e-4)


@pytest.mark.parametrize("name", ["cross_entropy", "focal"])
@pytest.mark.parametrize("soft", [False, True])
def test_a_class_ruled_out_by_an_infinite_logit_is_as_if_it_were_not_there(name, soft):
    logits, labels, where = draw(2)
    ruled_out = np.concatenate([logits, np.full_like(logits[..., :1], -np.inf)], -1)
    targets = labels
    if soft:
        targets = np.eye(3, dtype=np.float32)[labels]

    def cost(logits, targets):
        return LOSSES[name](logits, targets, where=where).sum()

    value, slope = jax.value_and_grad(cost)(jnp.asarray(ruled_out), targets)
    expected, expected_slope = jax.value_and_grad(cost)(
        jnp.asarray(logits), targets[..., :2] if soft else targets
    )
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(slope[..., :2], expected_slope, atol=1e-6)
    assert not np.asarray(slope[..., 2]).any()


@EACH_LOSS_QUICKLY
def test_low_precision_logits_cost_what_the_same_numbers_cost_in_float32(name, channels):
    logits, labels, where = draw(channels)
    low = jnp.asarray(logits, jnp.bfloat16)
    value, _ = compiled(name)(low, labels, where)
    expected, _ = compiled(name)(np.asarray(low, np.float32), labels, where)
    np.testing.assert_allclose(value, expected, rtol=1e-6)


def film_boundary(side: int) -> float:
    """The boundary loss of the film below: the background is the first column's top two pixels."""
    rows, columns = np.ogrid[:side, :side]
    field = 1 - np.hypot(np.maximum(rows - 1, 0), columns)
    field[:2, 0] = 1
    field[-1, -1] = 0
    return field.mean()


FILM_DTYPES = [jnp.float32, jnp.bfloat16, jnp.float16]


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        pytest.param(name, dtype, marks=() if name == "cross_entropy" else pytest.mark.slow)
        for name in LOSSES
        for dtype in (FILM_DTYPES if name not in DISTANCE_LOSSES else FILM_DTYPES[:1])
    ],
)
def test_a_film_of_4096_by_4096_loses_no_pixel(name, dtype):
    """Three wrong pixels among 2^24 cost what the formula says they do."""
    side = 4096
    logits = np.full((1, side, side, 1), 100.0, np.float32)
    labels = np.ones((1, side, side), np.uint8)
    labels[0, :2, 0] = 0
    logits[0, -1, -1, 0] = -100.0
    tp, fp, fn = side * side - 3, 2, 1
    dice = (fp + fn) / (2 * tp + fp + fn + 1)
    index = (0.3 * fp + 0.7 * fn) / (tp + 0.3 * fp + 0.7 * fn + 1)
    weight = (2 / (tp + fn)) ** 2
    wrong = (1 + weight) * 3
    expected = {
        "soft_dice": lambda: dice,
        "log_cosh_dice": lambda: np.log1p(2 * np.sinh(dice / 2) ** 2),
        "jaccard": lambda: (fp + fn) / (tp + fp + fn + 1),
        "tversky": lambda: index,
        "focal_tversky": lambda: index**0.75,
        "generalized_dice": lambda: wrong / (2 * weight * tp + wrong + 1),
        "cross_entropy": lambda: 300 / side**2,
        "focal": lambda: 300 / side**2,
        # Errors of 101 and of 1; the background has two pixels and all three errors.
        "lovasz_hinge": lambda: 101 * 3 / side**2,
        "lovasz_softmax": lambda: (3 / side**2 + 1) / 2,
        "boundary": lambda: film_boundary(side),
        "hausdorff_dt": lambda: (3 + 2 * 4094**2 + 4 * 4095**2) / side**2,
    }
    assert name in expected, f"what does a film with three wrong pixels cost under {name}?"
    value = jax.jit(LOSSES[name])(jnp.asarray(logits, dtype), labels)
    np.testing.assert_allclose(value, [expected[name]()], rtol=2e-6)


@pytest.mark.slow
def test_a_film_of_4096_by_4096_with_two_channels_loses_no_pixel():
    side = 4096
    logits = np.full((1, side, side, 2), [-100.0, 100.0], np.float32)
    labels = np.ones((1, side, side), np.uint8)
    labels[0, :2, 0] = 0
    logits[0, -1, -1] = [100.0, -100.0]
    foreground, background = 3 / (2 * (side**2 - 3) + 3 + 1), 3 / (3 + 1)
    value = jax.jit(losses.soft_dice)(jnp.asarray(logits, jnp.bfloat16), labels)
    np.testing.assert_allclose(value, [(foreground + background) / 2], rtol=1e-6)
    alone = jax.jit(partial(losses.soft_dice, class_weights=(0.0, 1.0)))(logits, labels)
    np.testing.assert_allclose(alone, [foreground], rtol=1e-6)


CLEAR_ERRORS = {
    "integer logits": (
        TypeError,
        r"logits must be floating point, got int32",
        {"logits": np.zeros((2, 4, 4, 1), np.int32)},
    ),
    "logits without channels": (
        ValueError,
        r"logits must have shape \[B, H, W, K\] with K > 0, got \(2, 4, 4\)",
        {"logits": np.zeros((2, 4, 4), np.float32)},
    ),
    "labels of another size": (
        ValueError,
        r"labels .* shape \(2, 4, 5\) does not fit logits of shape \(2, 4, 4, 1\)",
        {"labels": np.zeros((2, 4, 5), np.int32)},
    ),
    "labels with a channel": (
        ValueError,
        r"class ids \[B, H, W\].*\(2, 4, 4, 1\) does not fit logits of shape \(2, 4, 4, 1\)",
        {"labels": np.zeros((2, 4, 4, 1), np.int32)},
    ),
    "probabilities without a channel": (
        ValueError,
        r"probabilities \[B, H, W, K\].*\(2, 4, 4\) does not fit logits of shape \(2, 4, 4, 1\)",
        {"labels": np.zeros((2, 4, 4), np.float32)},
    ),
    "complex labels": (
        TypeError,
        r"labels must be class ids or probabilities, got complex64",
        {"labels": np.zeros((2, 4, 4), np.complex64)},
    ),
    "where of another dtype": (
        TypeError,
        r"where must be boolean, got float32",
        {"where": np.ones((2, 4, 4), np.float32)},
    ),
    "where of another size": (
        ValueError,
        r"where has shape \(2, 4, 4, 1\).*logits of shape \(2, 4, 4, 1\)",
        {"where": np.ones((2, 4, 4, 1), bool)},
    ),
    "axis_name without pooled": (
        ValueError,
        r"axis_name='data' .* needs pooled=True",
        {"axis_name": "data"},
    ),
}


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize("case", CLEAR_ERRORS)
@pytest.mark.parametrize("name", LOSSES)
def test_what_does_not_fit_is_named_at_trace_time(name, case):
    error, message, wrong = CLEAR_ERRORS[case]
    arrays = {
        "logits": np.zeros((2, 4, 4, 1), np.float32),
        "labels": np.zeros((2, 4, 4), np.int32),
        "where": np.ones((2, 4, 4), bool),
    }
    options = {key: value for key, value in wrong.items() if key not in arrays}
    arrays.update({key: value for key, value in wrong.items() if key in arrays})
    with pytest.raises(error, match=message):
        jax.eval_shape(
            lambda logits, labels, where: LOSSES[name](logits, labels, where=where, **options),
            *arrays.values(),
        )


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
    ("name", "channels", "options", "message"),
    [
        ("lovasz_hinge", 3, {}, r"lovasz_hinge needs logits with K = 1, got shape \(8, 6, 5, 3\)"),
        ("cross_entropy", 3, {"class_weights": (1.0, 2.0)}, r"class_weights .*\(3,\).*\(2,\)"),
        ("cross_entropy", 1, {"class_weights": (1.0,)}, r"class_weights .*\(2,\).*\(1,\)"),
        ("soft_dice", 3, {"class_weights": (1.0, -1.0, 0.0)}, r"class_weights must not be neg"),
        ("cross_entropy", 1, {"label_smoothing": 1.5}, r"label_smoothing must be in \[0, 1\]"),
        ("soft_dice", 1, {"smooth": -1.0}, r"smooth must not be negative, got -1.0"),
        ("jaccard", 1, {"smooth": float("nan")}, r"smooth must not be negative, got nan"),
        ("tversky", 1, {"alpha": -0.1}, r"alpha must not be negative"),
        ("focal_tversky", 1, {"beta": -0.1}, r"beta must not be negative"),
        ("focal_tversky", 1, {"gamma": -0.1}, r"gamma must not be negative"),
        ("focal", 1, {"gamma": -2.0}, r"gamma must not be negative"),
        ("focal", 1, {"alpha": 1.5}, r"alpha must be in \[0, 1\], got 1.5"),
        ("focal", 3, {"alpha": (1.0, 1.0)}, r"alpha must have shape \(3,\).*got \(2,\)"),
        ("generalized_dice", 1, {"smooth": -1.0}, r"smooth must not be negative"),
        ("hausdorff_dt", 1, {"alpha": -1.0}, r"alpha must not be negative"),
        ("boundary", 1, {"spacing": (1.0, 0.0)}, r"spacing must be positive"),
    ],
)
def test_options_out_of_range_are_named(name, channels, options, message):
    logits, labels, _ = draw(channels)
    with pytest.raises(ValueError, match=message):
        LOSSES[name](logits, labels, **options)


@pytest.mark.usefixtures("unchecked_types")
def test_a_boolean_mask_needs_a_single_channel():
    with pytest.raises(TypeError, match=r"boolean only where logits have K = 1.*\(2, 4, 4, 3\)"):
        losses.soft_dice(np.zeros((2, 4, 4, 3), np.float32), np.zeros((2, 4, 4), bool))


def test_combine_is_the_weighted_sum_of_its_terms():
    logits, labels, where = draw(1)
    combined = jax.jit(
        losses.combine({losses.cross_entropy: 0.5, partial(losses.soft_dice, smooth=0.0): 2.0})
    )
    np.testing.assert_allclose(
        combined(logits, labels, where=where),
        0.5 * compiled("cross_entropy")(logits, labels, where)[0]
        + 2 * compiled("soft_dice", smooth=0.0)(logits, labels, where)[0],
        rtol=1e-6,
    )


def test_combine_hands_its_options_to_every_term():
    logits, labels, _ = draw(1)
    seen = []

    def constant(logits: Any, labels: Any, *, where: Any = None, **options: Any) -> jax.Array:
        seen.append((logits.shape, labels.shape, where, options))
        return jnp.float32(3)

    value = losses.combine({constant: 2.0})(logits, labels, pooled=True, axis_name=None)
    assert value == 6
    assert seen == [(logits.shape, labels.shape, None, {"pooled": True, "axis_name": None})]


def test_combine_refuses_no_loss_and_a_mix_of_pooled_and_per_image():
    logits, labels, _ = draw(1)
    with pytest.raises(ValueError, match="at least one loss"):
        losses.combine({})
    mixed = losses.combine({partial(losses.soft_dice, pooled=True): 1.0, losses.cross_entropy: 1.0})
    with pytest.raises(ValueError, match=r"\[\(\), \(8,\)\]"):
        jax.eval_shape(mixed, logits, labels)


def test_deep_supervision_adds_the_depths_at_their_own_sizes():
    """At a third of the height the row nearest to each centre is the middle one of three."""
    fine, labels, where = draw(1)
    coarse = draw(1, seed=1)[0][:, :2, :2]
    supervised = jax.jit(losses.deep_supervision(losses.cross_entropy))
    weighted = jax.jit(losses.deep_supervision(losses.cross_entropy, weights=(0.0, 3.0)))
    rows, columns = [1, 4], [1, 3]
    picked = labels[:, rows][:, :, columns], where[:, rows][:, :, columns]
    at_coarse = jax.jit(losses.cross_entropy)(coarse, picked[0], where=picked[1])
    np.testing.assert_allclose(
        supervised([fine, coarse], labels, where=where),
        compiled("cross_entropy")(fine, labels, where)[0] + 0.5 * at_coarse,
        rtol=1e-6,
    )
    targets = as_probabilities(labels, 1)
    np.testing.assert_allclose(
        weighted([fine, coarse], targets, where=where), 3 * at_coarse, rtol=1e-6
    )


def test_deep_supervision_refuses_weights_that_do_not_match_the_depths():
    fine, labels, _ = draw(1)
    supervised = losses.deep_supervision(losses.soft_dice, weights=(1.0, 0.5))
    with pytest.raises(ValueError, match="2 weights for 1 depths"):
        supervised([fine], labels)
    with pytest.raises(ValueError, match="0 depths"):
        losses.deep_supervision(losses.soft_dice)([], labels)
