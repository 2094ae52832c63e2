"""Grey values, what is drawn, and the same bits however a batch is cut up."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from jax.sharding import NamedSharding, PartitionSpec

from jaxseg import augment, losses, parallel
from jaxseg.augment.batch import draw
from jaxseg.training import TrainState, make_train_step
from jaxseg.types import InputError

EVERYTHING = dataclasses.replace(augment.ROBUST, flip_left_right=0.5, flip_up_down=0.5)


def batch_of(rows, size=(24, 20), seed=0):
    rng = np.random.default_rng(seed)
    return {
        "images": rng.integers(0, 256, (rows, *size, 1), np.uint8),
        "labels": rng.integers(0, 2, (rows, *size), np.int32),
        "where": rng.random((rows, *size)) < 0.8,
        "valid": np.arange(rows) < rows - 1,
    }


def assert_same(actual, expected):
    assert set(actual) == set(expected)
    for name in expected:
        np.testing.assert_array_equal(actual[name], expected[name], err_msg=name)


# Grey values.


@pytest.mark.parametrize("largest", [0.7, 2.0])
def test_blur_is_scipys(largest):
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
def test_gamma_is_scikit_images(gamma):
    exposure = pytest.importorskip("skimage.exposure")
    images = np.random.default_rng(0).random((2, 8, 8, 1), np.float32)
    images[0, 0, 0] = 0.0
    images[0, 0, 1] = 1.0
    one, none = np.ones(2, np.float32), np.zeros(2, np.float32)
    actual = augment.adjust(images, contrast=one, brightness=none, gamma=gamma * one)
    np.testing.assert_allclose(actual, exposure.adjust_gamma(images, gamma), atol=1e-6)


def test_contrast_and_brightness_follow_their_formula_film_by_film():
    images = np.linspace(0, 1, 2 * 15, dtype=np.float32).reshape(2, 3, 5, 1)
    contrast, brightness = np.array([1.5, 0.5], np.float32), np.array([0.1, -0.2], np.float32)
    actual = augment.adjust(images, contrast=contrast, brightness=brightness)
    for film in range(2):
        expected = (images[film] - 0.5) * contrast[film] + 0.5 + brightness[film]
        np.testing.assert_allclose(actual[film], np.clip(expected, 0, 1), atol=1e-6)


def test_noise_is_gaussian_of_the_standard_deviation_asked_for():
    stats = pytest.importorskip("scipy.stats")
    images = np.full((3, 200, 201, 1), 0.5, np.float32)
    sigmas = np.array([0.0, 0.02, 0.1], np.float32)
    noisy = np.asarray(augment.add_noise(jax.random.key(0), images, sigmas), np.float64) - 0.5
    np.testing.assert_array_equal(noisy[0], 0.0)
    for noise, sigma in zip(noisy[1:], sigmas[1:], strict=True):
        assert stats.kstest(noise.ravel() / sigma, "norm").pvalue > 1e-3
        assert abs(noise.std() / sigma - 1) < 0.01
    one, other = noisy[1].ravel() / sigmas[1], noisy[2].ravel() / sigmas[2]
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.02
    # The two halves of a random word are no twins.
    assert abs(np.corrcoef(one[: len(one) // 2], one[len(one) // 2 :])[0, 1]) < 0.03


def test_noise_stays_in_range():
    images = np.stack([np.zeros((9, 9, 1)), np.ones((9, 9, 1))]).astype(np.float32)
    noisy = augment.add_noise(jax.random.key(0), images, np.ones(2, np.float32))
    assert 0 <= float(noisy.min()) < float(noisy.max()) <= 1


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_narrow_floats_are_kept_and_computed_in_float32(dtype):
    images = jnp.linspace(0, 1, 64, dtype=dtype).reshape(1, 8, 8, 1)
    wide = images.astype(jnp.float32)
    one = np.ones(1, np.float32)
    for change in (
        lambda images: augment.blur(images, one, largest=1.0),
        lambda images: augment.adjust(images, contrast=one, brightness=0.1 * one, gamma=2 * one),
        lambda images: augment.add_noise(jax.random.key(0), images, 0.1 * one),
    ):
        narrow = change(images)
        assert narrow.dtype == dtype
        np.testing.assert_array_equal(narrow, change(wide).astype(dtype))


# Strengths and what is drawn.


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(augment.Strengths)])
@pytest.mark.parametrize("value", [-0.1, 1000.0, float("nan")])
def test_a_strength_out_of_range_is_refused_by_name(name, value):
    with pytest.raises(InputError, match=rf"augment\.{name}: must lie between 0 and "):
        augment.Strengths(**{name: value})


def test_amounts_fill_their_ranges_evenly():
    strengths = augment.Strengths(
        rotation=10.0, scale=0.5, shift=0.2, shear=6.0, flip_left_right=0.25, blur=2.0,
        contrast=0.4, brightness=0.3, gamma=1.0, noise=0.1,
    )  # fmt: skip
    amounts = draw(jax.random.key(1), np.arange(4000, dtype=np.int32), strengths)
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
    shares = []
    for name, (values, low, high) in ranges.items():
        share = (np.asarray(values, np.float64) - low) / (high - low)
        assert share.min() >= -1e-6, name
        assert share.max() <= 1 + 1e-6, name
        counts, _ = np.histogram(share, 10, (0, 1))
        assert abs(counts - 400).max() < 100, name
        shares.append(share)
    assert abs(np.corrcoef(shares) - np.eye(len(shares))).max() < 0.08
    assert not amounts.flip[:, 0].any()
    assert abs(amounts.flip[:, 1].mean() - 0.25) < 0.03


def test_a_kinds_amounts_do_not_depend_on_the_others():
    rows = np.arange(6, dtype=np.int32)
    together = draw(jax.random.key(2), rows, EVERYTHING)
    for name in ("rotation", "shear", "blur", "noise"):
        alone = augment.Strengths(**{name: getattr(EVERYTHING, name)})
        np.testing.assert_array_equal(
            getattr(draw(jax.random.key(2), rows, alone), name), getattr(together, name)
        )


# Batches.


@pytest.mark.parametrize("strengths", [{"rotation": 5.0}, {"noise": 0.1}])
def test_integer_films_other_than_uint8_are_refused(strengths):
    batch = {"images": np.zeros((1, 8, 8, 1), np.uint16), "labels": np.zeros((1, 8, 8), np.int32)}
    with pytest.raises(ValueError, match="images has dtype uint16; it must be uint8 or float"):
        augment.make_augment(augment.Strengths(**strengths))(jax.random.key(0), batch)


def test_no_strength_gives_the_batch_itself():
    batch = batch_of(3)
    assert augment.make_augment(augment.Strengths())(jax.random.key(0), batch) is batch


KINDS = [field.name for field in dataclasses.fields(augment.Strengths) if field.name != "share"]
MOVING = {"rotation", "scale", "shift", "shear", "flip_left_right", "flip_up_down"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_strength_alone_changes_what_it_should_and_nothing_else(kind):
    batch = batch_of(8)
    strengths = augment.Strengths(**{kind: getattr(EVERYTHING, kind)})
    assert strengths.moves == (kind in MOVING)
    changed = augment.make_augment(strengths)(jax.random.key(0), batch)
    assert not np.allclose(changed["images"], batch["images"] / np.float32(255), atol=1e-3)
    assert np.array_equal(changed["labels"], batch["labels"]) == (kind not in MOVING)
    np.testing.assert_array_equal(changed["valid"], batch["valid"])


def test_a_share_of_films_is_left_as_it_was():
    batch = batch_of(40, size=(8, 8))
    plain = batch["images"] / np.float32(255)
    change = augment.make_augment(dataclasses.replace(EVERYTHING, share=0.6))
    changed = change(jax.random.key(0), batch)
    same = np.isclose(changed["images"], plain, atol=1e-6).all((1, 2, 3))
    assert 8 <= same.sum() <= 24
    for name in ("labels", "where"):
        np.testing.assert_array_equal(np.asarray(changed[name])[same], batch[name][same])
    none = augment.make_augment(dataclasses.replace(EVERYTHING, share=0.0))
    assert none(jax.random.key(0), batch) is batch


def test_outside_pixels_are_black_and_do_not_count_and_others_keep_their_where():
    batch = batch_of(6) | {"images": np.full((6, 24, 20, 1), 255, np.uint8)}
    unmasked = {name: batch[name] for name in ("images", "labels")}
    change = augment.make_augment(
        dataclasses.replace(EVERYTHING, shift=0.3, contrast=0.0, gamma=0.0)
    )
    moved, free = change(jax.random.key(3), batch), change(jax.random.key(3), unmasked)
    outside = ~np.asarray(free["where"])
    assert 0.05 < outside.mean() < 0.8
    np.testing.assert_array_equal(moved["images"], free["images"])
    assert not np.asarray(free["images"])[outside].any()
    assert np.asarray(free["images"])[~outside].min() > 0.5
    assert not np.asarray(free["labels"])[outside].any()
    assert not np.asarray(moved["where"])[outside].any()
    assert abs(np.asarray(moved["where"])[~outside].mean() - 0.8) < 0.05


def test_what_the_batch_carries_besides_passes_through():
    batch = batch_of(2) | {"ids": ["a", "b"]}
    assert augment.make_augment(EVERYTHING)(jax.random.key(0), batch)["ids"] == ["a", "b"]


def test_another_key_gives_another_batch():
    change, batch = augment.make_augment(EVERYTHING), batch_of(2)
    one, other = (change(jax.random.key(seed), batch)["images"] for seed in (0, 1))
    assert not np.allclose(one, other)


# The same bits.


@pytest.fixture(scope="module")
def expected():
    """A batch of 16 films changed the plain way."""
    return augment.make_augment(EVERYTHING)(jax.random.key(5), batch_of(16))


def test_jit_gives_the_same_bits(expected):
    change = augment.make_augment(EVERYTHING)
    assert_same(jax.jit(change)(jax.random.key(5), batch_of(16)), expected)


def test_where_floats_have_64_bits_it_gives_the_same_bits(expected):
    with jax.enable_x64(True):
        changed = augment.make_augment(EVERYTHING)(jax.random.key(5), batch_of(16))
    assert changed["images"].dtype == jnp.float32
    assert_same(changed, expected)


def test_rows_cut_and_padded_as_one_likes_give_the_same_bits(expected):
    change, batch = augment.make_augment(EVERYTHING), batch_of(16)
    for rows in ([7], [2, 15, 5, 2, 9]):
        part = {name: array[np.array(rows)] for name, array in batch.items()}
        changed = change(jax.random.key(5), part, np.array(rows, np.int32))
        assert_same(changed, {name: np.asarray(expected[name])[np.array(rows)] for name in part})


def test_vmap_over_keys_and_batches_gives_the_same_bits(expected):
    change = augment.make_augment(EVERYTHING)
    keys = jax.random.wrap_key_data(
        jnp.stack([jax.random.key_data(jax.random.key(seed)) for seed in (4, 5)])
    )
    batches = jax.tree.map(lambda *rows: np.stack(rows), batch_of(16, seed=9), batch_of(16))
    changed = jax.vmap(change)(keys, batches)
    assert_same({name: array[1] for name, array in changed.items()}, expected)


def test_vmap_over_single_films_gives_the_same_bits(expected):
    change, batch = augment.make_augment(EVERYTHING), batch_of(16)
    single = {name: array[:, None] for name, array in batch.items()}
    rows = np.arange(16, dtype=np.int32)[:, None]
    changed = jax.vmap(change, (None, 0, 0))(jax.random.key(5), single, rows)
    assert_same({name: array[:, 0] for name, array in changed.items()}, expected)


@pytest.mark.parametrize("spatial", [1, 2])
def test_eight_devices_under_jit_give_the_same_bits(expected, spatial):
    mesh = parallel.make_mesh(spatial=spatial)
    batch = {
        name: jax.device_put(array, parallel.over_batch(mesh, array.ndim))
        for name, array in batch_of(16).items()
    }
    changed = dict(jax.jit(augment.make_augment(EVERYTHING))(jax.random.key(5), batch))
    assert len(changed["images"].sharding.device_set) == 8
    if spatial > 1:
        # Shards of a film's height may add the taps of a blur up in another order.
        np.testing.assert_allclose(changed["images"], expected["images"], atol=1e-6)
        changed["images"] = expected["images"]
    assert_same(changed, expected)


def test_shard_map_over_eight_devices_gives_the_same_bits(expected):
    mesh = jax.make_mesh((8,), ("data",))
    change = augment.make_augment(EVERYTHING)

    def on_device(batch):
        first = jax.lax.axis_index("data") * 2
        return change(jax.random.key(5), batch, first + jnp.arange(2, dtype=jnp.int32))

    shares = PartitionSpec("data")
    mapped = jax.jit(jax.shard_map(on_device, mesh=mesh, in_specs=shares, out_specs=shares))
    batch = jax.device_put(batch_of(16), NamedSharding(mesh, shares))
    assert_same(mapped(batch), expected)


def test_pmap_over_eight_devices_gives_the_same_bits(expected):
    change = augment.make_augment(EVERYTHING)
    batch = {name: array.reshape(8, 2, *array.shape[1:]) for name, array in batch_of(16).items()}
    rows = np.arange(16, dtype=np.int32).reshape(8, 2)
    changed = jax.pmap(change, in_axes=(None, 0, 0))(jax.random.key(5), batch, rows)
    assert_same(
        {name: np.asarray(array).reshape(16, *array.shape[2:]) for name, array in changed.items()},
        expected,
    )


class Linear(nn.Module):
    """One 3x3 convolution."""

    @nn.compact
    def __call__(self, images, *, train):
        """Logits."""
        del train
        films = images if images.dtype == jnp.float32 else images.astype(jnp.float32) / 255
        return nn.Conv(1, (3, 3))(films)


@pytest.mark.slow
def test_a_train_step_changes_films_alike_on_one_device_on_eight_and_under_pmap():
    model, tx, batch = Linear(), optax.sgd(0.1), batch_of(16)
    change = augment.make_augment(EVERYTHING)
    example = jnp.zeros((1, 24, 20, 1), jnp.uint8)

    def state():
        return TrainState.create(model, tx, jax.random.key(0), example)

    def step(**options):
        return make_train_step(model, tx, losses.cross_entropy, **options)

    # What one device does by hand with the batch that augment returns.
    start = state()
    key = jax.random.fold_in(jax.random.fold_in(start.key, 0), 1)
    by_hand, _ = jax.jit(step())(start, change(key, batch))
    forms = {
        "one": jax.jit(step(augment=change)),
        "parts": jax.jit(step(augment=change, microbatches=4)),
    }
    mesh = parallel.make_mesh()
    results = {name: form(state(), batch)[0] for name, form in forms.items()}
    results["eight"], _ = parallel.jit_step(step(augment=change), mesh)(
        parallel.replicate(state(), mesh), parallel.shard_batch(batch, mesh)
    )
    mapped = parallel.pmap_step(step(augment=change, axis_name="data"))
    shares = {name: array.reshape(8, 2, *array.shape[1:]) for name, array in batch.items()}
    results["pmap"], _ = mapped(state(), shares)
    unchanged, _ = jax.jit(step())(state(), batch)
    expected = jax.tree.leaves(by_hand.params)
    assert not np.allclose(expected[1], jax.tree.leaves(unchanged.params)[1], atol=1e-4)
    for name, result in results.items():
        for one, other in zip(expected, jax.tree.leaves(result.params), strict=True):
            np.testing.assert_allclose(other, one, atol=1e-6, err_msg=name)
