"""Gray values, random amounts, and equal results on one device and on eight."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxseg import augment, losses, parallel
from jaxseg.augment.batch import draw
from jaxseg.augment.strengths import LIMITS
from jaxseg.errors import InputError
from jaxseg.training import TrainState, make_train_step

EVERYTHING = dataclasses.replace(
    augment.ROBUST, elastic=0.05, flip_left_right=0.5, flip_up_down=0.5
)
CHANGE = augment.make_augment(EVERYTHING)


def random_batch(count, size=(24, 20), seed=0):
    rng = np.random.default_rng(seed)
    return {
        "images": rng.integers(0, 256, (count, *size, 1), np.uint8),
        "labels": rng.integers(0, 2, (count, *size), np.int32),
        "where": rng.random((count, *size)) < 0.8,
    }


def assert_close(actual, expected, *, unequal_labels=0):
    """Images agree to 1e-5, labels and where in all pixels but ``unequal_labels``."""
    assert set(actual) == set(expected)
    np.testing.assert_allclose(actual["images"], expected["images"], atol=1e-5)
    for name in ("labels", "where"):
        unequal = np.asarray(actual[name]) != np.asarray(expected[name])
        assert unequal.sum() <= unequal_labels, name


# Gray values.


@pytest.mark.parametrize("largest", [0.7, 2.0])
def test_blur_agrees_with_scipy(largest):
    ndimage = pytest.importorskip("scipy.ndimage")
    images = np.random.default_rng(0).random((4, 30, 41, 2), np.float32)
    sigmas = np.array([0.0, 0.3, 0.6, 1.0], np.float32) * np.float32(largest)
    blurred = augment.blur(images, sigmas, largest=largest)
    for image, sigma, actual in zip(images, sigmas, blurred, strict=True):
        expected = ndimage.gaussian_filter(
            image, max(sigma, 1e-9), axes=(0, 1), mode="nearest", radius=int(np.ceil(3 * largest))
        )
        np.testing.assert_allclose(actual, expected, atol=1e-5)
    np.testing.assert_array_equal(blurred[0], images[0])


@pytest.mark.parametrize("gamma", [0.5, 1.0, 1.7])
def test_gamma_agrees_with_scikit_image(gamma):
    exposure = pytest.importorskip("skimage.exposure")
    images = np.random.default_rng(0).random((2, 8, 8, 1), np.float32)
    images[0, 0, 0] = 0.0
    images[0, 0, 1] = 1.0
    ones, zeros = np.ones(2, np.float32), np.zeros(2, np.float32)
    actual = augment.adjust(images, contrast=ones, brightness=zeros, gamma=gamma * ones)
    np.testing.assert_allclose(actual, exposure.adjust_gamma(images, gamma), atol=1e-6)


def test_contrast_and_brightness_follow_their_formula_image_by_image():
    images = np.linspace(0, 1, 2 * 15, dtype=np.float32).reshape(2, 3, 5, 1)
    contrast, brightness = np.array([1.5, 0.5], np.float32), np.array([0.1, -0.2], np.float32)
    actual = augment.adjust(images, contrast=contrast, brightness=brightness)
    for i in range(2):
        expected = (images[i] - 0.5) * contrast[i] + 0.5 + brightness[i]
        np.testing.assert_allclose(actual[i], np.clip(expected, 0, 1), atol=1e-6)


def test_noise_is_gaussian_with_the_given_standard_deviations():
    stats = pytest.importorskip("scipy.stats")
    images = np.full((3, 200, 201, 1), 0.5, np.float32)
    sigmas = np.array([0.0, 0.02, 0.1], np.float32)
    noisy = np.asarray(augment.add_noise(jax.random.key(0), images, sigmas), np.float64) - 0.5
    np.testing.assert_array_equal(noisy[0], 0.0)
    for noise, sigma in zip(noisy[1:], sigmas[1:], strict=True):
        assert stats.kstest(noise.ravel() / sigma, "norm").pvalue > 1e-3
        assert abs(noise.std() / sigma - 1) < 0.01
    assert abs(np.corrcoef(noisy[1].ravel(), noisy[2].ravel())[0, 1]) < 0.02


def test_noise_stays_in_range():
    images = np.stack([np.zeros((9, 9, 1)), np.ones((9, 9, 1))]).astype(np.float32)
    noisy = augment.add_noise(jax.random.key(0), images, np.ones(2, np.float32))
    assert 0 <= float(noisy.min()) < float(noisy.max()) <= 1


@pytest.mark.slow
def test_narrow_floats_are_kept_and_computed_in_float32():
    images = jnp.linspace(0, 1, 64, dtype=jnp.bfloat16).reshape(1, 8, 8, 1)
    wide = images.astype(jnp.float32)
    one = np.ones(1, np.float32)
    for change in (
        lambda images: augment.blur(images, one, largest=1.0),
        lambda images: augment.adjust(images, contrast=one, brightness=0.1 * one, gamma=2 * one),
        lambda images: augment.add_noise(jax.random.key(0), images, 0.1 * one),
    ):
        narrow = change(images)
        assert narrow.dtype == jnp.bfloat16
        np.testing.assert_array_equal(narrow, change(wide).astype(jnp.bfloat16))


# Strengths and random amounts.

KINDS = [name for name in LIMITS if name != "probability"]
MOVING = {"rotation", "scale", "shift", "shear", "elastic", "flip_left_right", "flip_up_down"}


@pytest.mark.parametrize("name", ["probability", *KINDS])
@pytest.mark.parametrize("value", [-0.1, 1000.0, float("nan")])
def test_a_strength_out_of_range_is_refused_by_name(name, value):
    with pytest.raises(
        InputError, match=rf"augment\.{name}: must be between 0 and .*, got {value}"
    ):
        augment.Strengths(**{name: value})


def test_every_strength_has_a_limit():
    assert {field.name for field in dataclasses.fields(augment.Strengths)} == {
        "probability",
        *KINDS,
    }


def test_amounts_fill_their_ranges_uniformly_and_independently():
    strengths = augment.Strengths(
        rotation=10.0, scale=0.5, shift=0.2, shear=6.0, flip_left_right=0.25, blur=2.0,
        contrast=0.4, brightness=0.3, gamma=1.0, noise=0.1,
    )  # fmt: skip
    amounts = jax.jit(draw, static_argnums=(1, 2))(jax.random.key(1), 4000, strengths)
    ranges = {
        "rotation": (amounts.rotation, -10, 10),
        "scale": (np.log(amounts.scale), -np.log(1.5), np.log(1.5)),
        "down": (amounts.shift[:, 0], -0.2, 0.2),
        "right": (amounts.shift[:, 1], -0.2, 0.2),
        "shear": (amounts.shear, -6, 6),
        "blur": (amounts.blur, 0, 2),
        "contrast": (np.log(amounts.contrast), -np.log(1.4), np.log(1.4)),
        "brightness": (amounts.brightness, -0.3, 0.3),
        "gamma": (np.log(amounts.gamma), -np.log(2), np.log(2)),
        "noise": (amounts.noise, 0, 0.1),
    }
    fractions = []
    for name, (values, low, high) in ranges.items():
        fraction = (np.asarray(values, np.float64) - low) / (high - low)
        assert fraction.min() >= -1e-6, name
        assert fraction.max() <= 1 + 1e-6, name
        counts, _ = np.histogram(fraction, 10, (0, 1))
        assert abs(counts - 400).max() < 100, name
        fractions.append(fraction)
    assert abs(np.corrcoef(fractions) - np.eye(len(fractions))).max() < 0.08
    assert not amounts.flip[:, 0].any()
    assert abs(amounts.flip[:, 1].mean() - 0.25) < 0.03


@pytest.mark.slow
def test_the_changes_are_made_in_the_documented_order():
    batch, key = random_batch(6), jax.random.key(4)
    strengths = dataclasses.replace(EVERYTHING, elastic=0.0)
    changed = augment.make_augment(strengths)(key, batch)
    amounts_key, noise_key = jax.random.split(key)
    amounts = jax.jit(draw, static_argnums=(1, 2))(amounts_key, 6, strengths)
    images = augment.blur(batch["images"] / np.float32(255), amounts.blur, largest=strengths.blur)
    names = ("rotation", "scale", "shift", "shear", "flip")
    affine_matrices = jax.jit(augment.affine_matrices, static_argnums=0)
    matrices = affine_matrices((24, 20), **{name: getattr(amounts, name) for name in names})
    images, labels, where = augment.warp(images, batch["labels"], matrices, where=batch["where"])
    images = augment.adjust(
        images, contrast=amounts.contrast, brightness=amounts.brightness, gamma=amounts.gamma
    )
    images = augment.add_noise(noise_key, images, amounts.noise)
    inside = augment.warp(batch["images"], batch["labels"], matrices)[2]
    images = jnp.where(inside[..., None], images, 0.0)
    assert_close(changed, {"images": images, "labels": labels, "where": where})


# Batches.


@pytest.mark.parametrize("strengths", [{"rotation": 5.0}, {"noise": 0.1}])
def test_integer_images_other_than_uint8_are_refused(strengths):
    batch = {"images": np.zeros((1, 8, 8, 1), np.uint16), "labels": np.zeros((1, 8, 8), np.int32)}
    with pytest.raises(ValueError, match="images has dtype uint16; it must be uint8 or float"):
        augment.make_augment(augment.Strengths(**strengths))(jax.random.key(0), batch)


@pytest.mark.parametrize("strengths", [{}, {"rotation": 5.0, "noise": 0.1, "probability": 0.0}])
def test_if_nothing_can_change_the_batch_itself_is_returned(strengths):
    batch = random_batch(3)
    change = augment.make_augment(augment.Strengths(**strengths))
    assert change(jax.random.key(0), batch) is batch


@pytest.mark.parametrize(
    "kind",
    [
        "rotation", "elastic", "contrast",
        *(pytest.param(kind, marks=pytest.mark.slow)
          for kind in ("flip_up_down", "blur", "brightness", "gamma", "noise")),
    ],
)  # fmt: skip
def test_one_strength_changes_what_it_should_and_nothing_else(kind):
    batch = random_batch(8)
    strengths = augment.Strengths(**{kind: getattr(EVERYTHING, kind)})
    assert strengths.moves == (kind in MOVING)
    changed = augment.make_augment(strengths)(jax.random.key(0), batch)
    assert not np.allclose(changed["images"], batch["images"] / np.float32(255), atol=1e-3)
    assert np.array_equal(changed["labels"], batch["labels"]) == (kind not in MOVING)


def test_images_change_with_the_given_probability():
    batch = random_batch(40, size=(8, 8))
    change = augment.make_augment(dataclasses.replace(EVERYTHING, probability=0.6))
    changed = change(jax.random.key(0), batch)
    plain = batch["images"] / np.float32(255)
    same = np.isclose(changed["images"], plain, atol=1e-6).all((1, 2, 3))
    assert 8 <= same.sum() <= 24
    for name in ("labels", "where"):
        np.testing.assert_array_equal(np.asarray(changed[name])[same], batch[name][same])


def test_pixels_from_outside_are_black_background_and_invalid():
    batch = random_batch(6) | {"images": np.full((6, 24, 20, 1), 255, np.uint8)}
    del batch["where"]
    weighted = batch | {"where": np.full((6, 24, 20), 0.5, np.float32)}
    change = augment.make_augment(
        dataclasses.replace(EVERYTHING, shift=0.3, contrast=0.0, gamma=0.0)
    )
    moved, weights = (jax.device_get(change(jax.random.key(3), b)) for b in (batch, weighted))
    outside = ~moved["where"]
    assert 0.05 < outside.mean() < 0.8
    assert not moved["images"][outside].any()
    assert moved["images"][~outside].min() > 0.5
    assert not moved["labels"][outside].any()
    np.testing.assert_array_equal(weights["where"], np.where(outside, 0.0, 0.5))


@pytest.mark.slow
def test_labels_may_be_finer_and_have_channels():
    batch = random_batch(4)
    labels = batch["labels"].repeat(2, 1).repeat(2, 2)
    channels = np.stack([1 - labels, labels], -1).astype(np.float32)
    changed = CHANGE(jax.random.key(3), {"images": batch["images"], "labels": channels})
    assert changed["labels"].shape == (4, 48, 40, 2)
    assert changed["where"].shape == (4, 48, 40)
    np.testing.assert_array_equal(changed["labels"].sum(-1), changed["where"])


# One device and many.


@pytest.fixture(scope="module")
def expected():
    """A batch of 16 images, augmented on one device."""
    return CHANGE(jax.random.key(5), random_batch(16))


def test_another_key_gives_another_batch_and_other_entries_pass_through(expected):
    batch = random_batch(16) | {"ids": np.array(["a"] * 16)}
    other = CHANGE(jax.random.key(6), batch)
    assert not np.allclose(expected["images"], other["images"])
    assert other["ids"] is batch["ids"]


@pytest.mark.slow
def test_64_bit_floats_change_nothing(expected):
    with jax.enable_x64(True):
        changed = CHANGE(jax.random.key(5), random_batch(16))
    assert changed["images"].dtype == jnp.float32
    assert_close(changed, expected)


@pytest.mark.slow
def test_eight_devices_equal_one_device(expected):
    sharding = NamedSharding(Mesh(np.array(jax.devices()), ("data",)), PartitionSpec("data"))
    batch = jax.device_put(random_batch(16), sharding)
    changed = CHANGE(jax.random.key(5), batch)
    for array in map(jnp.asarray, changed.values()):
        assert array.sharding.is_equivalent_to(sharding, array.ndim)
    # A pixel halfway between two others may take either, if coordinates round differently.
    assert_close(changed, expected, unequal_labels=3)


class Linear(nn.Module):
    """One 3x3 convolution."""

    @nn.compact
    def __call__(self, images, *, train):
        """Returns logits."""
        del train
        floats = images if images.dtype == jnp.float32 else images.astype(jnp.float32) / 255
        return nn.Conv(1, (3, 3))(floats)


@pytest.mark.slow
def test_a_train_step_augments_alike_on_one_device_and_on_eight():
    model, tx, batch = Linear(), optax.sgd(0.1), random_batch(16)
    change = augment.make_augment(EVERYTHING)
    example = jnp.zeros((1, 24, 20, 1), jnp.uint8)

    def state():
        return TrainState.create(model, tx, jax.random.key(0), example)

    def step(**options):
        return make_train_step(model, tx, losses.cross_entropy, **options)

    # The same update from a batch that is augmented outside the step.
    start = state()
    key, _ = jax.random.split(jax.random.fold_in(start.key, 0))
    by_hand, _ = jax.jit(step())(start, change(key, batch))
    results = {
        "one": jax.jit(step(augment=change))(state(), batch)[0],
        "microbatches": jax.jit(step(augment=change, microbatches=4))(state(), batch)[0],
    }
    mesh = parallel.make_mesh()
    results["eight"], _ = parallel.jit_step(step(augment=change), mesh)(
        parallel.replicate(state(), mesh), parallel.shard_batch(batch, mesh)
    )
    unchanged, _ = jax.jit(step())(state(), batch)
    expected = jax.tree.leaves(by_hand.params)
    assert not np.allclose(expected[1], jax.tree.leaves(unchanged.params)[1], atol=1e-4)
    for name, result in results.items():
        for one, other in zip(expected, jax.tree.leaves(result.params), strict=True):
            np.testing.assert_allclose(other, one, atol=1e-6, err_msg=name)
