"""Options of the losses, invalid arguments, and losses made of others."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.test_util import check_grads
from loss_formulas import (
    CLASS_IDS_ONLY,
    DISTANCE_LOSSES,
    LOSSES,
    POSITION_LOSSES,
    as_probabilities,
    compiled,
    draw,
    has_option,
    jitted,
)

from jaxseg import losses, metrics, parallel


@pytest.mark.parametrize(("name", "channels"), [("soft_dice", 1), ("focal", 3)])
def test_derivatives_by_logits_and_probabilities_hold_in_both_modes(name, channels):
    """Against differences, which float32 leaves two digits of."""
    logits, labels, where = draw(channels)
    logits, where = 0.3 * logits, where[:1]
    targets = 0.8 * as_probabilities(labels, channels) + 0.1

    def cost(logits: jax.Array, targets: jax.Array) -> jax.Array:
        return LOSSES[name](logits, targets, where=where)[0]

    check_grads(jax.jit(cost), (logits[:1], targets[:1]), order=1, eps=1e-2, atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("channels", [1, 3])
def test_cross_entropy_weights_and_smooths_by_its_formula(channels):
    logits, labels, where = draw(channels)
    weights = np.array([0.5, 2.0, 0.0][: max(channels, 2)], np.float32)
    options = {"class_weights": tuple(weights), "label_smoothing": 0.2}
    value = jitted("cross_entropy", **options)(logits, labels, where=where)
    scores = logits.astype(np.float64)
    scores = scores if channels > 1 else np.concatenate([0 * scores, scores], -1)
    surprise = np.log(np.exp(scores).sum(-1, keepdims=True)) - scores
    targets = np.eye(len(weights))[labels]
    smoothed = weights * (0.8 * targets + 0.2 / len(weights))
    total = (where * (smoothed * surprise).sum(-1)).sum((1, 2))
    weight = (where * (weights * targets).sum(-1)).sum((1, 2))
    np.testing.assert_allclose(value, total / weight, rtol=1e-5)


def test_cross_entropy_is_the_mean_of_optaxs():
    for channels in (1, 3):
        logits, labels, where = draw(channels)
        if channels == 1:
            each = optax.losses.sigmoid_binary_cross_entropy(logits[..., 0], labels)
        else:
            each = optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels)
        value = jitted("cross_entropy")(logits, labels, where=where)
        np.testing.assert_allclose(value, each.mean((1, 2), where=where), 1e-5, err_msg=channels)


@pytest.mark.parametrize("channels", [1, 3])
def test_labels_of_weight_0_have_loss_0_also_smoothed(channels):
    logits, labels, where = draw(channels)
    options = {"class_weights": (0.0, 1.0, 1.0)[: max(channels, 2)], "label_smoothing": 0.1}
    value, gradient = compiled("cross_entropy", **options)(logits, 0 * labels, where)
    assert not value.any()
    assert not gradient.any()


def test_focal_takes_one_alpha_for_the_foreground_or_one_for_each_class():
    logits, labels, _ = draw(1)
    one, two = (jitted("focal", alpha=alpha)(logits, labels) for alpha in (0.25, (0.75, 0.25)))
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("channels", [1, 2])
def test_second_derivatives_of_focal_are_those_of_its_formula(channels):
    """Also where the prediction is saturated, against differences in float64."""
    scores = np.array([-44.0, -17.0, -3.0, 0.0, 2.0, 17.0, 44.0])
    labels = np.ones((1, 1), np.int32)

    def loss(score: jax.Array, gamma: jax.Array) -> jax.Array:
        logits = score.reshape(1, 1, 1)
        if channels == 2:
            logits = jnp.concatenate([jnp.zeros_like(logits), logits], -1)
        return losses.focal(logits, labels, gamma=gamma)[0]

    second = jax.jit(jax.vmap(jax.grad(jax.grad(loss)), (0, None)))
    for gamma in (0.0, 0.5, 2.0):
        behind, at, ahead = (
            (1 + np.exp(z)) ** -gamma * np.log1p(np.exp(-z))
            for z in (scores - 1e-3, scores, scores + 1e-3)
        )
        expected = (ahead - 2 * at + behind) / 1e-6
        found = second(np.float32(scores), np.float32(gamma))
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=3e-6, err_msg=f"{gamma=}")


@pytest.mark.parametrize("name", ["cross_entropy", "focal"])
def test_losses_depend_on_the_differences_of_large_logits(name):
    near = np.array([30.0, 20.0, 25.0], np.float32).reshape(1, 1, 1, 3)
    labels = np.zeros((1, 1, 1), np.int32)
    exact = np.log1p(np.exp(-10.0) + np.exp(-5.0))
    if name == "focal":
        exact *= np.expm1(-exact) ** 2
    for shift in (0, 1000):
        np.testing.assert_allclose(jitted(name)(near + shift, labels), [exact], rtol=2e-4)


def test_top_k_cross_entropy_of_all_pixels_is_cross_entropy():
    logits, labels, where = draw(3)
    expected = jitted("cross_entropy")(logits, labels, where=where)
    value = jitted("top_k_cross_entropy", fraction=1.0)(logits, labels, where=where)
    np.testing.assert_allclose(value, expected, rtol=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_generalized_dice_weights_classes_by_its_formula(channels):
    """A class of weight 0 is as if it were not there, also where it is the smallest."""
    logits, labels, _ = draw(channels)
    labels[0, 0, 0], labels[0, 1:] = 0, 1
    weights = np.array([0.0, 1.0, 3.0][: max(channels, 2)])
    value = jitted("generalized_dice", class_weights=tuple(weights))(logits, labels)
    scores = logits.astype(np.float64)
    scores = scores if channels > 1 else np.concatenate([0 * scores, scores], -1)
    p = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    for image, expected in enumerate(value):
        t = np.eye(len(weights))[labels[image]]
        sizes = t.sum((0, 1))
        smallest = min(sizes[1:][sizes[1:] > 0])
        each = weights * (smallest / np.where(sizes == 0, smallest, sizes)) ** 2
        overlaps = (p[image] * t).sum((0, 1)) @ each
        total = (p[image] + t).sum((0, 1)) @ each
        np.testing.assert_allclose(expected, 1 - (2 * overlaps + 1) / (total + 1), rtol=1e-5)
    nothing = jitted("generalized_dice", class_weights=(0.0,) * len(weights))(logits, labels)
    np.testing.assert_array_equal(nothing, 0)


def test_focal_tversky_is_flat_where_only_errors_without_weight_are_left():
    """A full prediction of an empty mask, with false positives free."""
    logits, labels, where = draw(1)
    value, gradient = compiled("focal_tversky", alpha=0.0)(logits, 0 * labels, where)
    np.testing.assert_array_equal(value, 0)
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("name", ["cross_entropy", "soft_dice"])
def test_class_weights_of_any_size_give_the_same(name):
    logits, labels, where = draw(3)
    loss = jax.jit(lambda weights: LOSSES[name](logits, labels, where=where, class_weights=weights))
    weights = np.array([1, 3, 9], np.float32)
    np.testing.assert_allclose(loss(1e-10 * weights), loss(weights), rtol=1e-5)


@pytest.mark.parametrize("name", ["cross_entropy", "soft_dice"])
def test_multilabel_class_weights_are_one_per_channel(name):
    logits, _, where = draw(3)
    labels = np.random.default_rng(4).integers(0, 2, logits.shape).astype(np.int32)
    weighted = jitted(name, multilabel=True, class_weights=(1.0, 0.0, 3.0))
    value = weighted(logits, labels, where=where)
    first, last = (
        jitted(name)(logits[..., k : k + 1], labels[..., k], where=where) for k in (0, 2)
    )
    np.testing.assert_allclose(value, (first + 3 * last) / 4, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(DISTANCE_LOSSES))
def test_distances_are_in_the_unit_of_the_spacing(name):
    logits, labels, where = draw(1)
    unit = jitted(name)(logits, labels, where=where)
    power = 2 if name == "hausdorff_dt" else 1
    double = jitted(name, spacing=(2.0, 2.0))(logits, labels, where=where)
    np.testing.assert_allclose(double, 2**power * unit, rtol=1e-5)
    one = jitted(name, spacing=(0.5, 2.0))(logits, labels, where=where)
    logits, labels, where = (np.swapaxes(array, 1, 2) for array in (logits, labels, where))
    other = jitted(name, spacing=(2.0, 0.5))(logits, labels, where=where)
    np.testing.assert_allclose(one, other, rtol=1e-5)
    assert not np.allclose(one, unit)


def test_the_soft_skeleton_of_straight_lines_is_their_center():
    """A line of 1, 3 or 5 pixels loses its edges one by one; two pixels have no center."""
    for width, iterations, center in [(1, 0, 1.0), (3, 0, 0.0), (3, 1, 1.0), (5, 2, 1.0)]:
        image = np.zeros((2, 9, 12), np.float32)
        image[:, 4 - width // 2 : 5 + width // 2] = [[[0.5]], [[1.0]]]
        image[:, :, 0] = 0.9  # Invalid.
        where = np.arange(12) > np.zeros_like(image)
        skeleton = jax.jit(partial(losses.soft_skeleton, iterations=iterations))(image, where=where)
        expected = np.zeros_like(image)
        expected[:, 4, 1:] = np.array([[0.5], [1.0]]) * center
        np.testing.assert_array_equal(skeleton, expected)


def test_a_pooled_cl_dice_is_that_of_the_images_side_by_side_with_a_gap():
    arrays = draw(3)
    logits, labels, where = (
        np.pad(array, [(0, 0), (0, 1)] + [(0, 0)] * (array.ndim - 2)).reshape(
            1, -1, *array.shape[2:]
        )
        for array in arrays
    )
    alone = jitted("soft_cl_dice")(logits, labels, where=where)
    value = jitted("soft_cl_dice", pooled=True)(*arrays[:2], where=arrays[2])
    np.testing.assert_allclose(alone, [value], rtol=1e-6)


def test_more_iterations_find_the_skeleton_of_wider_structures():
    """A missing half of a bar of nine rows has no loss until its center is found."""
    labels = np.zeros((1, 15, 30), np.int32)
    labels[:, 3:12, 3:27] = 1
    half = labels * (np.arange(30) < 15)
    logits = 100 * (2.0 * half[..., None] - 1).astype(np.float32)
    few, enough = (jitted("soft_cl_dice", iterations=n, smooth=0.0)(logits, labels) for n in (0, 4))
    np.testing.assert_array_equal(few, 0)
    sensitivity = 8 / 16
    np.testing.assert_allclose(enough, 1 - 2 * sensitivity / (1 + sensitivity), atol=0.1)


def test_balanced_class_weights_give_all_classes_present_the_same_total():
    frequencies = np.array([60, 0, 30, 10])
    weights = jax.device_get(jax.jit(losses.balanced_class_weights)(frequencies))
    assert weights.dtype == np.float32
    np.testing.assert_allclose(weights * frequencies, [100 / 3, 0, 100 / 3, 100 / 3], rtol=1e-6)
    fractions = losses.balanced_class_weights(frequencies / 100)
    np.testing.assert_allclose(fractions, weights, rtol=1e-6)
    root = np.asarray(losses.balanced_class_weights(frequencies, power=0.5))
    np.testing.assert_allclose(root[0] / root[3], 6**-0.5, rtol=1e-6)
    np.testing.assert_allclose((root * frequencies).sum(), 100, rtol=1e-6)
    np.testing.assert_allclose(losses.balanced_class_weights(frequencies, power=0), [1, 0, 1, 1])
    np.testing.assert_array_equal(losses.balanced_class_weights(np.zeros(3)), 0)
    with pytest.raises(ValueError, match="power must be at least 0"):
        losses.balanced_class_weights(frequencies, power=-1)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("focal", {"alpha": 0.25, "gamma": 1.5}),
        ("cross_entropy", {"label_smoothing": 0.25, "class_weights": (0.5, 2.0)}),
        ("focal_tversky", {"alpha": 0.5, "beta": 1.5, "gamma": 0.5, "smooth": 2.0}),
        ("top_k_cross_entropy", {"fraction": 0.25}),
    ],
)
def test_options_may_be_numbers_of_numpy_and_jax(name, options):
    logits, labels, _ = draw(1)
    converted = [
        {
            key: [kind(v) for v in value] if isinstance(value, tuple) else kind(value)
            for key, value in options.items()
        }
        for kind in (np.float64, jnp.float32)
    ]

    @jax.jit
    def values(traced: Any) -> list[jax.Array]:
        return [LOSSES[name](logits, labels, **each) for each in (options, traced, *converted)]

    expected, *others = values(options)
    np.testing.assert_allclose(others, [expected] * 3, rtol=1e-6)


def test_labels_of_other_integer_dtypes_and_boolean_masks_mean_the_same():
    logits, labels, where = draw(1)
    expected = jitted("cross_entropy")(logits, labels, where=where)
    for dtype in (np.uint8, np.int8, np.uint16, np.bool_):
        value = jitted("cross_entropy")(logits, labels.astype(dtype), where=where)
        np.testing.assert_array_equal(value, expected, err_msg=str(dtype))


@pytest.mark.parametrize("kind", [np.int64, np.uint64])
def test_labels_beyond_int32_do_not_wrap_into_the_classes(kind):
    logits, labels, _ = draw(1)
    wide, mesh = labels.astype(kind) + kind(2**32), parallel.make_mesh(jax.devices()[:1])
    assert np.isnan(losses.cross_entropy(logits, wide)).all()
    assert (np.asarray(metrics.count(wide, labels, num_classes=1).outside) > 0).all()
    with jax.enable_x64(True):
        assert np.isnan(jax.jit(losses.cross_entropy)(logits, wide)).all()
        counts = jax.jit(partial(metrics.count, num_classes=1))(wide, labels)
    assert (np.asarray(counts.outside) > 0).all()
    batches = (
        parallel.shard_batch({"labels": wide}, mesh),
        parallel.take_batch({"labels": wide}, np.arange(len(wide)), mesh),
    )
    for batch in batches:
        assert np.isnan(jitted("cross_entropy")(logits, batch["labels"])).all()


# Large images.


def large_image_boundary(side: int) -> float:
    """The boundary loss of the image below: the background is the first column's top two pixels."""
    rows, columns = np.ogrid[:side, :side]
    field = 1 - np.hypot(np.maximum(rows - 1, 0), columns)
    field[:2, 0] = 1
    field[-1, -1] = 0
    return field.mean()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "dtype"),
    # A loss of each way to sum.
    [
        ("cross_entropy", jnp.bfloat16),
        ("soft_dice", jnp.float32),
        ("lovasz_softmax", jnp.float32),
        ("boundary", jnp.float32),
    ],
)
def test_an_image_of_4096_by_4096_loses_no_pixel(name, dtype):
    """Three wrong pixels among 2^24 have the loss of the formula; distances take minutes there."""
    side = 512 if name in POSITION_LOSSES else 4096
    logits = np.full((1, side, side, 1), 100.0, np.float32)
    labels = np.ones((1, side, side), np.uint8)
    labels[0, :2, 0] = 0
    logits[0, -1, -1, 0] = -100.0
    expected = {
        "soft_dice": lambda: 3 / (2 * (side * side - 3) + 3 + 1),
        "cross_entropy": lambda: 300 / side**2,
        # Errors of 101 and of 1; the background has two pixels and all three errors.
        "lovasz_softmax": lambda: (3 / side**2 + 1) / 2,
        "boundary": lambda: large_image_boundary(side),
    }
    assert name in expected, f"add the loss of an image with three wrong pixels under {name}"
    value = jitted(name)(jnp.asarray(logits, dtype), labels)
    np.testing.assert_allclose(value, [expected[name]()], rtol=2e-6)


# Invalid arguments.


CLEAR_ERRORS = {
    "integer logits": (
        TypeError,
        r"logits must be floating point, got int32",
        {"logits": np.zeros((2, 4, 4, 1), np.int32)},
    ),
    "logits without channels": (
        ValueError,
        r"logits must have shape \[B, \*spatial, K\] with K > 0, got \(2, 4\)",
        {"logits": np.zeros((2, 4), np.float32)},
    ),
    "labels of another size": (
        ValueError,
        r"labels .* shape \(2, 4, 5\) does not match logits of shape \(2, 4, 4, 1\)",
        {"labels": np.zeros((2, 4, 5), np.int32)},
    ),
    "labels with a channel": (
        ValueError,
        r"class ids \[B, \*spatial\].*\(2, 4, 4, 1\) does not match logits of shape \(2, 4, 4, 1\)",
        {"labels": np.zeros((2, 4, 4, 1), np.int32)},
    ),
    "probabilities without a channel": (
        ValueError,
        r"probabilities \[B, \*spatial, K\].*\(2, 4, 4\) does not match .* \(2, 4, 4, 1\)",
        {"labels": np.zeros((2, 4, 4), np.float32)},
    ),
    "complex labels": (
        TypeError,
        r"labels must be class ids or probabilities, got complex64",
        {"labels": np.zeros((2, 4, 4), np.complex64)},
    ),
    "where of another dtype": (
        TypeError,
        r"where must be bool or float, got int32",
        {"where": np.ones((2, 4, 4), np.int32)},
    ),
    "where of another size": (
        ValueError,
        r"where has shape \(2, 4, 4, 1\).*logits of shape \(2, 4, 4, 1\)",
        {"where": np.ones((2, 4, 4, 1), bool)},
    ),
    "a boolean mask for several channels": (
        TypeError,
        r"boolean only if logits have K = 1.*\(2, 4, 4, 3\)",
        {"logits": np.zeros((2, 4, 4, 3), np.float32), "labels": np.zeros((2, 4, 4), bool)},
    ),
}


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
    ("name", "case"),
    [("soft_dice", case) for case in CLEAR_ERRORS]
    + [(name, "labels of another size") for name in LOSSES if name != "soft_dice"],
)
def test_wrong_arrays_raise_a_clear_error_at_trace_time(name, case):
    error, message, wrong = CLEAR_ERRORS[case]
    arrays = {
        "logits": np.zeros((2, 4, 4, 1), np.float32),
        "labels": np.zeros((2, 4, 4), np.int32),
        "where": np.ones((2, 4, 4), bool),
    }
    arrays.update(wrong)
    with pytest.raises(error, match=message):
        jax.eval_shape(
            lambda logits, labels, where: LOSSES[name](logits, labels, where=where),
            *arrays.values(),
        )


@pytest.mark.parametrize("name", sorted(POSITION_LOSSES))
def test_losses_of_positions_refuse_volumes(name):
    with pytest.raises(ValueError, match=r"two spatial axes, got spatial shape \(2, 4, 4\)"):
        jitted(name)(np.zeros((1, 2, 4, 4, 1), np.float32), np.zeros((1, 2, 4, 4), np.int32))


@pytest.mark.parametrize("name", sorted(CLASS_IDS_ONLY))
def test_losses_of_class_ids_refuse_probabilities(name):
    logits, labels, _ = draw(1)
    with pytest.raises(TypeError, match="labels must be class ids for this loss"):
        LOSSES[name](logits, as_probabilities(labels, 1))


LEAST_0 = ("alpha", "beta", "fraction", "gamma", "iterations", "label_smoothing", "smooth")


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
    ("name", "channels", "options", "message"),
    [
        ("lovasz_hinge", 3, {}, r"needs logits with K = 1 or multilabel=True.*\(8, 6, 5, 3\)"),
        ("cross_entropy", 3, {"class_weights": (1.0, 2.0)}, "class_weights must have 3 .*got 2"),
        ("generalized_dice", 1, {"class_weights": (1.0,)}, "class_weights must have 2 .*got 1"),
        ("soft_dice", 3, {"class_weights": (1.0, -1.0, 0.0)}, "class_weights must be at least 0"),
        ("cross_entropy", 1, {"label_smoothing": 1.5}, r"label_smoothing must be in \[0, 1\]"),
        ("jaccard", 1, {"smooth": float("nan")}, "smooth must be at least 0, got nan"),
        ("focal", 1, {"alpha": 1.5}, r"alpha must be in \[0, 1\], got 1.5"),
        ("focal", 3, {"alpha": (1.0, 1.0)}, "alpha must have 3 weights.*got 2"),
        ("top_k_cross_entropy", 1, {"fraction": 0.0}, "fraction must be above 0, got 0.0"),
        ("top_k_cross_entropy", 1, {"fraction": 1.5}, r"fraction must be in \[0, 1\], got 1.5"),
        ("boundary", 1, {"spacing": (1.0, 0.0)}, "spacing must be positive"),
        *(
            (name, 1, {option: -1}, f"{option} must be")
            for name in LOSSES
            for option in LEAST_0
            if has_option(name, option)
        ),
    ],
)
def test_options_out_of_range_raise_a_clear_error(name, channels, options, message):
    logits, labels, _ = draw(channels)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(partial(LOSSES[name], **options), logits, labels)


# Losses made of others.


def test_combine_is_the_weighted_sum_of_its_terms():
    logits, labels, where = draw(1)
    combined = jax.jit(
        losses.combine({losses.cross_entropy: 0.5, partial(losses.soft_dice, smooth=0.0): 2.0})
    )
    first = jitted("cross_entropy")(logits, labels, where=where)
    second = jitted("soft_dice", smooth=0.0)(logits, labels, where=where)
    found = combined(logits, labels, where=where)
    np.testing.assert_allclose(found, 0.5 * first + 2 * second, rtol=1e-6)


def test_combine_passes_its_options_to_every_term():
    logits, labels, _ = draw(1)
    seen = []

    def constant(logits: Any, labels: Any, *, where: Any = None, **options: Any) -> jax.Array:
        seen.append((logits.shape, labels.shape, where, options))
        return jnp.float32(3)

    value = losses.combine({constant: 2.0})(logits, labels, pooled=True, multilabel=False)
    assert value == 6
    assert seen == [(logits.shape, labels.shape, None, {"pooled": True, "multilabel": False})]


def test_combine_refuses_no_loss_and_a_mix_of_pooled_and_per_image():
    logits, labels, _ = draw(1)
    with pytest.raises(ValueError, match="at least one loss"):
        losses.combine({})
    mixed = losses.combine({partial(losses.soft_dice, pooled=True): 1.0, losses.cross_entropy: 1.0})
    with pytest.raises(ValueError, match=r"\[\(\), \(8,\)\]"):
        jax.eval_shape(mixed, logits, labels)


def test_deep_supervision_adds_the_losses_of_each_depth():
    """At a third of the height the row nearest to each center is the middle one of three."""
    fine, labels, where = draw(1)
    coarse = draw(1, seed=1)[0][:, :2, :2]
    supervised = jax.jit(losses.deep_supervision(losses.cross_entropy))
    weighted = jax.jit(losses.deep_supervision(losses.cross_entropy, weights=(0.0, 3.0)))
    rows, columns = [1, 4], [1, 3]
    picked = labels[:, rows][:, :, columns], where[:, rows][:, :, columns]
    at_coarse = jitted("cross_entropy")(coarse, picked[0], where=picked[1])
    at_fine = jitted("cross_entropy")(fine, labels, where=where)
    value = supervised([fine, coarse], labels, where=where)
    np.testing.assert_allclose(value, at_fine + 0.5 * at_coarse, rtol=1e-6)
    value = weighted([fine, coarse], as_probabilities(labels, 1), where=where)
    np.testing.assert_allclose(value, 3 * at_coarse, rtol=1e-6)


def test_deep_supervision_of_a_single_array_is_the_plain_loss():
    logits, labels, where = draw(1)
    supervised = losses.deep_supervision(losses.cross_entropy, weights=(3.0, 1.0))
    expected = jitted("cross_entropy", pooled=True)(logits, labels, where=where)
    for array in (logits, jnp.asarray(logits)):
        value = jax.jit(partial(supervised, array, labels, where=where, pooled=True))()
        np.testing.assert_allclose(value, expected, rtol=1e-6)


def test_deep_supervision_of_volumes_resizes_multilabel_labels_and_float_weights():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 2, 2, 2, 3)).astype(np.float32)
    labels, weights = rng.integers(0, 2, (2, 4, 6, 2, 3)), rng.random((2, 4, 6, 2), np.float32)
    supervised = jax.jit(partial(losses.deep_supervision(losses.soft_dice), multilabel=True))
    nearest = np.ix_(range(2), [1, 3], [1, 4], range(2))
    expected = jitted("soft_dice", multilabel=True)(logits, labels[nearest], where=weights[nearest])
    np.testing.assert_allclose(supervised((logits,), labels, where=weights), expected, rtol=1e-6)


def test_deep_supervision_refuses_weights_that_do_not_match_the_depths():
    fine, labels, _ = draw(1)
    supervised = losses.deep_supervision(losses.soft_dice, weights=(1.0, 0.5))
    with pytest.raises(ValueError, match="2 weights for 1 depths"):
        supervised([fine], labels)
    with pytest.raises(ValueError, match="0 depths"):
        losses.deep_supervision(losses.soft_dice)([], labels)
