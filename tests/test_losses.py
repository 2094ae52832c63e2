"""Every loss has its formula, its bounds and symmetries, and finite derivatives."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from loss_formulas import (
    CHANNELS,
    CLASS_IDS_ONLY,
    DISTANCE_LOSSES,
    EACH_LOSS,
    LOSSES,
    MULTILABEL,
    POSITION_LOSSES,
    SHAPE,
    SORTING_LOSSES,
    as_probabilities,
    by_formula,
    compiled,
    derivatives,
    draw,
    has_option,
    jitted,
    slow_but,
)

AT_MOST = {
    "soft_dice": 1.0,
    "jaccard": 1.0,
    "tversky": 1.0,
    "focal_tversky": 1.0,
    "generalized_dice": 1.0,
    "log_cosh_dice": 0.4338,
    "lovasz_softmax": 1.0,
    "matthews": 2.000001,
    "soft_cl_dice": 1.000001,
}
FEW = settings(max_examples=12)


@EACH_LOSS
def test_each_loss_has_the_values_and_gradients_of_its_formula(name, channels):
    """Gradients are compared with central differences of the formula in float64.

    An integer weight is a pixel that occurs several times.
    """
    logits, labels, where = draw(channels)
    labels[1] = 0
    direction = np.random.default_rng(5).normal(size=logits.shape)
    for weights in (where, np.random.default_rng(3).integers(0, 4, SHAPE)):
        value, gradient = compiled(name)(logits, labels, weights)
        assert value.dtype == np.float32
        np.testing.assert_allclose(
            value, by_formula(name, logits, labels, weights), rtol=2e-5, atol=1e-6
        )
        ahead, behind = (
            np.array(by_formula(name, logits + step * direction, labels, weights))
            for step in (1e-6, -1e-6)
        )
        derivative = (gradient * direction).sum((1, 2, 3))
        np.testing.assert_allclose(derivative, (ahead - behind) / 2e-6, rtol=1e-4, atol=1e-8)
        assert not gradient[weights == 0].any()
        assert gradient[weights > 0].any()


def hard_images(channels: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """Images on which losses or their derivatives become infinite or NaN."""
    rng = np.random.default_rng(0)
    mixed = rng.integers(0, max(channels, 2), SHAPE[1:])
    empty, full = np.zeros_like(mixed), np.full_like(mixed, max(channels, 2) - 1)
    noise = rng.normal(size=(*SHAPE[1:], channels))
    towards = 2 * as_probabilities(mixed, channels) - 1
    others = np.ones_like(noise) * (np.arange(channels) >= min(channels - 1, 1))
    ones, all_valid = np.ones_like(noise), np.ones(SHAPE[1:])
    one_pixel = np.arange(mixed.size).reshape(mixed.shape) == 7
    one_sure = np.where(one_pixel[..., None], 1, -1) * ones
    images = {
        f"{name} mask, logits of scale {scale:g}": (scale * noise, labels, valid)
        for scale in (0, 1, 30, 100, 1e4)
        for name, labels, valid in [
            ("empty", empty, all_valid),
            ("full", full, all_valid),
            ("mixed", mixed, rng.choice([0.0, 0.5, 1.0, 3.0], SHAPE[1:])),
            ("masked out", mixed, 0 * all_valid),
        ]
    } | {
        "empty mask, confident": (-1e4 * ones, empty, all_valid),
        "full mask, confident": (1e4 * ones, full, all_valid),
        "right by far": (1e4 * towards, mixed, all_valid),
        "wrong by far": (-1e4 * towards, mixed, all_valid),
        "right at the smallest probability": (88 * towards, mixed, all_valid),
        "right at the largest probability below 1": (17 * towards, mixed, all_valid),
        "smallest probability in an empty mask": (-88 * ones, empty, all_valid),
        "tiny probabilities in an empty mask": (-60 * others, empty, all_valid),
        "one confident pixel in an empty mask": (1e4 * one_sure, empty, all_valid),
        "one valid pixel": (noise, mixed, 1.0 * one_pixel),
    }
    logits, labels, where = (np.stack(arrays) for arrays in zip(*images.values(), strict=True))
    return logits.astype(np.float32), labels, where.astype(np.float32), list(images)


FINITE_CASES = [
    *((name, channels, "class ids") for name in LOSSES for channels in CHANNELS[name]),
    ("generalized_dice", 3, "multilabel"),
    ("soft_dice", 3, "bfloat16 and a boolean where"),
    *(
        pytest.param(
            name, 3, "probabilities, other options",
            marks=() if name in ("soft_dice", "focal") else pytest.mark.slow,
        )
        for name in LOSSES
        if has_option(name, "smooth") or has_option(name, "gamma")
    ),
]  # fmt: skip


@pytest.mark.parametrize(("name", "channels", "kind"), FINITE_CASES)
def test_values_gradients_and_hessian_vector_products_are_finite(name, channels, kind):
    """A new loss joins by being in `jaxseg.losses`."""
    logits, labels, where, images = hard_images(channels)
    options: dict[str, Any] = {}
    targets: Any = labels
    if kind == "multilabel":
        targets, options = as_probabilities(labels, channels).astype(int), {"multilabel": True}
    if kind == "bfloat16 and a boolean where":
        logits, where = jnp.asarray(logits, jnp.bfloat16), where > 0
    if kind == "probabilities, other options":
        targets = as_probabilities(labels, channels)
        options |= {"smooth": 0.0} if has_option(name, "smooth") else {}
        options |= {"gamma": 0.5} if has_option(name, "gamma") else {}
    # In batches of the shape that is compiled for other tests.
    for rows in np.resize(np.arange(len(images)), (-(-len(images) // SHAPE[0]), SHAPE[0])):
        arrays = logits[rows], targets[rows], where[rows]
        value, gradient, product = derivatives(name, **options)(*arrays)
        assert value.dtype == np.float32
        assert gradient.dtype == logits.dtype
        if kind == "bfloat16 and a boolean where":
            expected, _ = compiled(name)(np.float32(arrays[0]), *arrays[1:])
            np.testing.assert_allclose(value, expected, rtol=1e-6)
        for row, image in enumerate(rows):
            assert np.isfinite(value[row]), images[image]
            assert np.isfinite(np.float32(gradient[row])).all(), images[image]
            assert np.isfinite(np.float32(product[row])).all(), images[image]
            if not where[image].any():
                assert value[row] == 0
                assert not gradient[row].any()


@pytest.mark.parametrize(
    "name",
    ["cross_entropy", "top_k_cross_entropy", "focal", *sorted(CLASS_IDS_ONLY | DISTANCE_LOSSES)],
)
def test_losses_without_smoothing_do_not_depend_on_the_size_of_the_weights(name):
    logits, labels, where = draw(1)
    weights = where * np.float32(1e-10)
    value, _ = compiled(name)(logits, labels, weights)
    np.testing.assert_allclose(value, compiled(name)(logits, labels, where)[0], rtol=1e-5)


@pytest.mark.parametrize("name", sorted(set(MULTILABEL) - {"generalized_dice", "log_cosh_dice"}))
def test_a_multilabel_loss_is_the_mean_of_the_binary_losses_of_its_channels(name):
    logits, _, where = draw(3)
    labels = np.random.default_rng(4).integers(0, 2, logits.shape).astype(np.int32)
    value = jitted(name, multilabel=True)(logits, labels, where=where)
    each = [compiled(name)(logits[..., k : k + 1], labels[..., k], where)[0] for k in range(3)]
    np.testing.assert_allclose(value, np.mean(each, 0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["generalized_dice", "log_cosh_dice"])
def test_multilabel_with_one_channel_is_binary(name):
    logits, labels, where = draw(1)
    expected, _ = compiled(name)(logits, labels, where)
    value = jitted(name, multilabel=True)(logits, labels[..., None], where=where)
    np.testing.assert_allclose(value, expected, rtol=1e-6)


@pytest.mark.parametrize("name", ["soft_dice", "lovasz_hinge"])
def test_multilabel_labels_other_than_0_and_1_make_that_image_nan(name):
    logits, _, where = draw(3)
    labels = np.random.default_rng(4).integers(0, 2, logits.shape).astype(np.int32)
    row, column = np.argwhere(where[1])[0]
    labels[1, row, column, 2] = 2
    value = jitted(name, multilabel=True)(logits, labels, where=where)
    np.testing.assert_array_equal(np.isnan(value), np.arange(SHAPE[0]) == 1)


@pytest.mark.parametrize("name", ["cross_entropy", "lovasz_softmax"])
def test_volumes_have_the_loss_of_their_slices_side_by_side(name):
    flat = draw(3)
    logits, labels, where = (array.reshape(SHAPE[0], 2, 3, *array.shape[2:]) for array in flat)
    value = jitted(name)(logits, labels, where=where)
    np.testing.assert_allclose(value, compiled(name)(*flat)[0], rtol=1e-6)


@EACH_LOSS
def test_an_infinite_logit_of_a_class_that_is_not_there_has_the_loss_of_the_limit(name, channels):
    """Minus infinity on the background, or on a class that no label has."""
    logits, labels, where = draw(channels)
    labels[labels == 2] = 1
    limit = logits.copy()
    limit[..., -1] = np.where(labels == 0, -1e4, limit[..., -1]) if channels == 1 else -1e4
    infinite = np.where(limit == -1e4, -np.inf, limit).astype(np.float32)
    expected = compiled(name)(limit, labels, where)
    value, gradient = compiled(name)(infinite, labels, where)
    np.testing.assert_allclose(value, expected[0], rtol=1e-5)
    np.testing.assert_allclose(gradient, expected[1], atol=1e-6)


@pytest.mark.parametrize("name", ["cross_entropy", "focal"])
def test_a_class_with_logit_minus_infinity_is_as_if_absent(name):
    logits, labels, where = draw(2)
    ruled_out = np.concatenate([logits, np.full_like(logits[..., :1], -np.inf)], -1)
    expected, expected_gradient = compiled(name)(logits, labels, where)
    value, gradient = compiled(name)(ruled_out, labels, where)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(gradient[..., :2], expected_gradient, atol=1e-6)
    assert not gradient[..., 2].any()


@EACH_LOSS
def test_invalid_pixels_may_hold_anything(name, channels):
    logits, labels, where = draw(channels)
    spoiled = np.where(where[..., None], logits, np.nan).astype(np.float32)
    value, gradient = compiled(name)(spoiled, np.where(where, labels, 255), where)
    expected_value, expected_gradient = compiled(name)(logits, labels, where)
    np.testing.assert_array_equal(value, expected_value)
    np.testing.assert_array_equal(gradient, expected_gradient)
    assert not gradient[~where].any()


BAD_IMAGES = np.isin(np.arange(SHAPE[0]), [0, 1, 3])


@EACH_LOSS
def test_a_valid_label_outside_the_classes_makes_that_image_nan(name, channels):
    logits, labels, where = draw(channels)
    expected, _ = compiled(name)(logits, labels, where)
    for image, label in [(0, -1), (1, 3), (3, 2**31 - 1)]:
        row, column = np.argwhere(where[image])[0]
        labels[image, row, column] = label
    value, gradient = compiled(name)(logits, labels, where)
    np.testing.assert_array_equal(value, np.where(BAD_IMAGES, np.nan, expected))
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("name", ["cross_entropy", "soft_dice"])
def test_a_valid_probability_outside_0_and_1_makes_that_image_nan(name):
    logits, labels, where = draw(3)
    targets = as_probabilities(labels, 3)
    value, gradient = compiled(name)(logits, targets, where)
    as_ids = compiled(name)(logits, labels, where)
    np.testing.assert_allclose(value, as_ids[0], rtol=1e-6)
    np.testing.assert_allclose(gradient, as_ids[1], atol=1e-7)
    for image, bad in [(0, -0.5), (1, 1.5), (3, np.nan)]:
        row, column = np.argwhere(where[image])[0]
        targets[image, row, column, 0] = bad
    targets[~where] = np.inf
    bad_value, gradient = compiled(name)(logits, targets, where)
    np.testing.assert_array_equal(bad_value, np.where(BAD_IMAGES, np.nan, value))
    assert np.isfinite(gradient).all()


# Properties on random images.


@st.composite
def images(draw: Any, channels: int) -> Any:
    """Logits from 0 to saturated, labels from one class to noise, from no to all pixels valid."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scale = draw(st.sampled_from([0.0, 0.3, 3.0, 50.0, 1e4]))
    foreground = draw(st.sampled_from([0.0, 0.02, 0.5, 1.0]))
    valid = draw(st.sampled_from([0.0, 0.05, 0.8, 1.0]))
    logits = (scale * rng.normal(size=(*SHAPE, channels))).astype(np.float32)
    labels = rng.integers(0, max(channels, 2), SHAPE) * (rng.random(SHAPE) < foreground)
    return logits, labels.astype(np.int32), rng.random(SHAPE) < valid


def assert_same(one: Any, other: Any, rtol: float = 2e-6) -> None:
    for a, b in zip(one, other, strict=True):
        # Gradients of saturated images are only rounding.
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * max(np.abs(b).max(), 1e-2))


def has_ties(name: str, logits: np.ndarray) -> bool:
    """Whether pixels have equal errors, whose order decides the gradient of a Lovász loss."""
    scale = np.abs(logits).max()
    return name in SORTING_LOSSES and (scale == 0 or scale > 10)


@EACH_LOSS
def test_losses_keep_their_bounds_and_a_right_answer_has_loss_0(name, channels):
    """Except under the boundary loss, which has no minimum."""

    @FEW
    @given(batch=images(channels))
    def check(batch: Any) -> None:
        _, labels, where = batch
        value, gradient = compiled(name)(*batch)
        assert np.isfinite(value).all()
        assert np.isfinite(gradient).all()
        assert (value <= AT_MOST.get(name, np.inf)).all()
        assert not value[~where.any((1, 2))].any()
        if name != "boundary":
            assert (value >= 0).all()
            right = 1e4 * (2 * as_probabilities(labels, channels) - 1)
            value, gradient = compiled(name)(right, labels, where)
            np.testing.assert_array_equal(value, 0)
            np.testing.assert_array_equal(gradient, 0)

    check()


@EACH_LOSS
def test_moving_pixels_moves_gradients_and_leaves_values(name, channels):
    """Any permutation of pixels; if positions matter, rotating the image by 180 degrees."""

    @FEW
    @given(batch=images(channels), seed=st.integers(0, 2**32 - 1))
    def check(batch: Any, seed: int) -> None:
        size = SHAPE[1] * SHAPE[2]
        order = np.random.default_rng(seed).permutation(size)
        if name in POSITION_LOSSES:
            order = np.arange(size)[::-1]

        def move(array: np.ndarray) -> np.ndarray:
            return array.reshape(SHAPE[0], size, -1)[:, order].reshape(array.shape)

        value, gradient = compiled(name)(*batch)
        moved_value, moved_gradient = compiled(name)(*map(move, batch))
        assert_same([moved_value], [value], rtol=1e-5)
        if not has_ties(name, batch[0]):
            assert_same([moved_gradient], [move(gradient)], rtol=1e-5)

    check()


@pytest.mark.parametrize("name", sorted(LOSSES.keys() - {"lovasz_hinge"}))
def test_renaming_the_classes_changes_nothing(name):
    @FEW
    @given(batch=images(3), order=st.permutations(range(3)))
    def check(batch: Any, order: list[int]) -> None:
        logits, labels, where = batch
        renamed = compiled(name)(logits[..., order], np.argsort(order)[labels], where)
        value, gradient = compiled(name)(*batch)
        assert_same(renamed, (value, gradient[..., order]), rtol=1e-5)

    check()


@pytest.mark.parametrize(
    "name",
    [
        "cross_entropy",
        "top_k_cross_entropy",
        "focal",
        "generalized_dice",
        "matthews",
        "lovasz_hinge",
        "lovasz_softmax",
    ],
)
def test_background_and_foreground_may_be_exchanged(name):
    """Except under the hinge, which is of the foreground's Jaccard index only."""

    @FEW
    @given(batch=images(1))
    def check(batch: Any) -> None:
        logits, labels, where = batch
        value, gradient = compiled(name)(*batch)
        changed = compiled(name)(-logits, 1 - labels, where)
        compared = 1 if has_ties(name, logits) else 2
        assert_same(changed[:compared], (value, -gradient)[:compared], rtol=1e-5)

    if name == "lovasz_hinge":
        with pytest.raises(AssertionError):
            check()
    else:
        check()


@pytest.mark.parametrize(
    "name", ["soft_dice", "jaccard", "log_cosh_dice", "matthews", "soft_cl_dice"]
)
def test_confident_predictions_and_labels_may_be_exchanged(name):
    @FEW
    @given(batch=images(1), other=images(1))
    def check(batch: Any, other: Any) -> None:
        one, two, where = batch[1], other[1], batch[2]
        value, back = (
            compiled(name)(1e4 * (2.0 * a[..., None] - 1).astype(np.float32), b, where)[0]
            for a, b in ((one, two), (two, one))
        )
        np.testing.assert_allclose(value, back, rtol=1e-6)

    check()


# Pooled losses, and many devices.


@pytest.mark.parametrize(
    "name", slow_but({"soft_dice", "lovasz_softmax"}, sorted(LOSSES.keys() - POSITION_LOSSES))
)
def test_a_pooled_loss_is_that_of_the_images_stacked_into_one(name):
    logits, labels, where = draw(1 if name == "lovasz_hinge" else 3)
    tall = (array.reshape(1, -1, *array.shape[2:]) for array in (logits, labels, where))
    value, gradient = compiled(name, pooled=True)(logits, labels, where)
    tall_value, tall_gradient = compiled(name)(*tall)
    assert value.shape == ()
    assert_same((value, gradient), (tall_value[0], tall_gradient.reshape(gradient.shape)), 1e-5)


@pytest.mark.parametrize("name", sorted(DISTANCE_LOSSES))
def test_a_pooled_distance_loss_weights_images_by_their_valid_pixels(name):
    logits, labels, where = draw(3)
    where[0] = False
    each, pixels = compiled(name)(logits, labels, where)[0], where.sum((1, 2))
    value = jitted(name, pooled=True)(logits, labels, where=where)
    np.testing.assert_allclose(value, np.average(each, weights=pixels), rtol=1e-5)


@pytest.mark.parametrize("name", ["soft_dice"])
def test_a_label_outside_the_classes_makes_the_pooled_loss_nan(name):
    logits, labels, where = draw(3)
    labels[2, 0, 0], where[2, 0, 0] = 3, True
    value, gradient = compiled(name, pooled=True)(logits, labels, where)
    assert np.isnan(value)
    np.testing.assert_array_equal(gradient, 0)
    where[2, 0, 0] = False
    value, _ = compiled(name, pooled=True)(logits, labels, where)
    assert np.isfinite(value)


@pytest.mark.slow
@pytest.mark.parametrize("name", slow_but({"soft_dice", "lovasz_softmax"}, LOSSES))
def test_eight_devices_give_what_one_gives(name):
    """Per image and pooled, value and gradient, under jit with the batch sharded over a mesh."""

    @jax.jit
    def values(logits: Any, labels: Any, where: Any) -> Any:
        def both(logits: Any) -> Any:
            each, pooled = (
                LOSSES[name](logits, labels, where=where, pooled=pooled) for pooled in (False, True)
            )
            return each.sum() + pooled, (each, pooled)

        return jax.grad(both, has_aux=True)(logits)

    batch = draw(1 if name == "lovasz_hinge" else 3)
    batch = *batch[:2], np.float32(batch[2])
    mesh = Mesh(np.array(jax.devices()), ("data",))
    on_mesh = jax.device_put(batch, NamedSharding(mesh, P("data")))
    assert len(on_mesh[0].sharding.device_set) == 8
    gradient, sharded = values(*on_mesh)
    single = [compiled(name, **options)(*batch) for options in ({}, {"pooled": True})]
    for one, (other, _) in zip(sharded, single, strict=True):
        assert_same([one], [other], rtol=1e-6)
    assert_same([gradient], [single[0][1] + single[1][1]], rtol=1e-6)
