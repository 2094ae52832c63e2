"""Properties of every loss on random images: bounds, symmetries, sharding."""

from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from loss_formulas import (
    CHANNELS,
    DISTANCE_LOSSES,
    EACH_LOSS,
    EACH_LOSS_QUICKLY,
    LOSSES,
    POSITION_LOSSES,
    QUICK,
    SHAPE,
    SORTING_LOSSES,
    compiled,
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
def test_losses_keep_their_bounds(name, channels):
    @FEW
    @given(batch=images(channels))
    def check(batch: Any) -> None:
        value, gradient = compiled(name)(*batch)
        assert np.isfinite(value).all()
        assert np.isfinite(gradient).all()
        if name != "boundary":
            assert (value >= 0).all()
        assert (value <= AT_MOST.get(name, np.inf)).all()
        assert not value[~batch[2].any((1, 2))].any()

    check()


@pytest.mark.parametrize(
    ("name", "channels"),
    [(name, channels) for name in LOSSES for channels in CHANNELS[name] if name != "boundary"],
)
def test_a_right_answer_has_loss_0(name, channels):
    """Except under the boundary loss, which has no minimum."""

    @FEW
    @given(batch=images(channels))
    def check(batch: Any) -> None:
        _, labels, where = batch
        targets = np.eye(max(channels, 2), dtype=np.float32)[labels][..., -channels:]
        value, gradient = compiled(name)(1e4 * (2 * targets - 1), labels, where)
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
    "name", ["soft_dice", "jaccard", "log_cosh_dice", "tversky", "matthews", "soft_cl_dice"]
)
def test_confident_predictions_and_labels_may_be_exchanged(name):
    """Under Tversky together with the weights of both kinds of error."""
    swapped = {"alpha": 0.7, "beta": 0.3} if name == "tversky" else {}

    @FEW
    @given(batch=images(1), other=images(1))
    def check(batch: Any, other: Any) -> None:
        one, two, where = batch[1], other[1], batch[2]
        value, _ = compiled(name)(1e4 * (2.0 * one[..., None] - 1).astype(np.float32), two, where)
        back, _ = compiled(name, **swapped)(
            1e4 * (2.0 * two[..., None] - 1).astype(np.float32), one, where
        )
        np.testing.assert_allclose(value, back, rtol=1e-6)

    check()


@EACH_LOSS_QUICKLY
def test_an_image_has_the_loss_of_its_valid_rectangle_alone(name, channels):
    """``where`` acts like cropping, and images of a batch do not affect each other."""

    @FEW
    @given(batch=images(channels), top=st.integers(0, 2), left=st.integers(0, 1))
    def check(batch: Any, top: int, left: int) -> None:
        logits, labels, inner = batch
        rectangle = np.zeros(SHAPE, bool)
        at = np.s_[:, top : top + 4, left : left + 4]
        rectangle[at] = True
        value, gradient = compiled(name)(logits, labels, inner & rectangle)
        for image in range(0, SHAPE[0], 3):
            row = np.s_[image : image + 1]
            alone = compiled(name)(logits[at][row], labels[at][row], inner[at][row])
            assert_same(alone, (value[row], gradient[at][row]))

    check()


@pytest.mark.parametrize("name", slow_but(QUICK, sorted(LOSSES.keys() - POSITION_LOSSES)))
def test_a_pooled_loss_is_that_of_the_images_stacked_into_one(name):
    channels = 1 if name == "lovasz_hinge" else 3

    @FEW
    @given(batch=images(channels))
    def check(batch: Any) -> None:
        value, gradient = compiled(name, pooled=True)(*batch)
        tall = [array.reshape(1, SHAPE[0] * SHAPE[1], *array.shape[2:]) for array in batch]
        tall_value, tall_gradient = compiled(name)(*tall)
        assert value.shape == ()
        assert_same((value, gradient), (tall_value[0], tall_gradient.reshape(gradient.shape)), 1e-5)

    check()


@pytest.mark.parametrize("name", sorted(DISTANCE_LOSSES))
def test_a_pooled_distance_loss_weights_images_by_their_valid_pixels(name):
    @FEW
    @given(batch=images(3))
    def check(batch: Any) -> None:
        value, _ = compiled(name, pooled=True)(*batch)
        each, _ = compiled(name)(*batch)
        pixels = batch[2].sum((1, 2))
        expected = (each * pixels).sum() / max(pixels.sum(), 1)
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)

    check()


def fixed_batch(name: str) -> Any:
    """One image for each of eight devices."""
    rng = np.random.default_rng(2)
    channels = 1 if name == "lovasz_hinge" else 3
    logits = (2 * rng.normal(size=(*SHAPE, channels))).astype(np.float32)
    labels = rng.integers(0, max(channels, 2), SHAPE).astype(np.int32)
    return logits, labels, rng.random(SHAPE) < 0.7


@pytest.mark.parametrize("name", slow_but({"soft_dice", "lovasz_softmax", "hausdorff_dt"}, LOSSES))
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

    batch = fixed_batch(name)
    mesh = Mesh(np.array(jax.devices()), ("data",))
    on_mesh = jax.device_put(batch, NamedSharding(mesh, P("data")))
    assert len(on_mesh[0].sharding.device_set) == 8
    gradient, sharded = values(*on_mesh)
    single = [compiled(name, **options)(*batch) for options in ({}, {"pooled": True})]
    for one, (other, _) in zip(sharded, single, strict=True):
        assert_same([one], [other], rtol=1e-6)
    assert_same([gradient], [single[0][1] + single[1][1]], rtol=1e-6)
