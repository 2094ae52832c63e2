"""The warp of films, labels and where, against SciPy, scikit-image and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import augment

ndimage = pytest.importorskip("scipy.ndimage")

STILL = {"rotation": 0.0, "scale": 1.0, "shift": (0.0, 0.0), "shear": 0.0, "flip": (False, False)}


def matrices(size, count=1, **amounts):
    """The same matrix ``count`` times."""
    arrays = {
        name: np.tile(np.asarray(value, bool if name == "flip" else np.float32), (count, 1))
        for name, value in (STILL | amounts).items()
    }
    single = {name: arrays[name][:, 0] for name in ("rotation", "scale", "shear")}
    return augment.affine_matrices(size, **(arrays | single))


def films(shape, seed=0):
    rng = np.random.default_rng(seed)
    images = rng.random((*shape, 1), np.float32)
    return images, rng.integers(0, 5, shape, np.int32), rng.random(shape) < 0.7


def source(matrix, size):
    """Where each output pixel reads, in float64."""
    at = np.moveaxis(np.indices(size), 0, -1) - (np.array(size) - 1) / 2
    return at @ np.asarray(matrix, np.float64)[:, :2].T + matrix[:, 2] + (np.array(size) - 1) / 2


MOVES = {
    "still": {},
    "rotation": {"rotation": 17.0},
    "other way": {"rotation": -63.0},
    "larger": {"scale": 1.37},
    "smaller": {"scale": 0.6},
    "shift": {"shift": (0.13, -0.07)},
    "shear": {"shear": 14.0},
    "flip": {"flip": (False, True)},
    "all": {
        "rotation": 23.0,
        "scale": 1.2,
        "shift": (-0.1, 0.06),
        "shear": -9.0,
        "flip": (True, False),
    },
}


@pytest.mark.parametrize("size", [(48, 48), (37, 53)])
@pytest.mark.parametrize("move", MOVES)
def test_films_labels_and_where_are_read_as_scipy_reads_them(move, size):
    images, labels, where = films((1, *size))
    matrix = matrices(size, **MOVES[move])
    film, classes, counts = augment.warp(images, labels, matrix, where=where)
    linear, offset = np.asarray(matrix[0, :, :2], np.float64), np.asarray(matrix[0, :, 2])
    middle = (np.array(size) - 1) / 2
    place = {"matrix": linear, "offset": offset + middle - linear @ middle}

    # At a tie float64 and fixed point may choose either neighbour.
    at = source(np.asarray(matrix[0]), size)
    clear = (np.abs(at - np.floor(at) - 0.5) > 1e-3).all(-1)
    assert clear.mean() > 0.95
    inside = ndimage.affine_transform(
        np.ones(size, np.uint8), order=0, mode="grid-constant", **place
    )
    kept = ndimage.affine_transform(where[0].astype(np.uint8), order=0, mode="nearest", **place)
    expected = ndimage.affine_transform(labels[0], order=0, mode="nearest", **place)
    smooth = ndimage.affine_transform(images[0, ..., 0], order=1, mode="nearest", **place)
    np.testing.assert_array_equal(counts[0][clear], (inside & kept)[clear] == 1)
    np.testing.assert_array_equal(classes[0][clear], (inside * expected)[clear])
    np.testing.assert_allclose(film[0, ..., 0][clear], (inside * smooth)[clear], atol=2e-3)


@pytest.mark.parametrize("factor", [2, 3])
@pytest.mark.parametrize("move", MOVES)
def test_finer_labels_lie_where_scipy_puts_them_and_films_stay_the_same(move, factor):
    size = (36, 48)
    fine = (factor * size[0], factor * size[1])
    images = films((1, *size))[0]
    _, labels, where = films((1, *fine), seed=1)
    matrix = matrices(size, **MOVES[move])
    film, classes, counts = augment.warp(images, labels, matrix, where=where)
    expected_film, _, _ = augment.warp(images, labels[:, ::factor, ::factor], matrix)
    np.testing.assert_array_equal(film, expected_film)

    # A fine pixel's centre lies at (i + 0.5) / factor - 0.5 of the film's pixels.
    linear = np.asarray(matrix[0, :, :2], np.float64)
    middle = (np.array(size) - 1) / 2
    still = np.asarray(matrix[0, :, 2]) + middle - linear @ middle
    half = (1 / factor - 1) / 2
    offset = factor * (still + linear @ np.full(2, half) - half)
    place = {"matrix": linear, "offset": offset, "order": 0}
    at = np.moveaxis(np.indices(fine), 0, -1) @ linear.T + offset
    clear = (np.abs(at - np.floor(at) - 0.5) > 1e-2).all(-1)
    assert clear.mean() > 0.9
    inside = ndimage.affine_transform(np.ones(fine, np.uint8), mode="grid-constant", **place)
    kept = ndimage.affine_transform(where[0].astype(np.uint8), mode="nearest", **place)
    expected = ndimage.affine_transform(labels[0], mode="nearest", **place)
    np.testing.assert_array_equal(classes[0][clear], (inside * expected)[clear])
    np.testing.assert_array_equal(counts[0][clear], (inside & kept)[clear] == 1)


@pytest.mark.parametrize("grid", [(16, 24), (4, 4)])
def test_coarser_labels_and_labels_of_other_proportions_are_refused(grid):
    with pytest.raises(ValueError, match="coarser, or of other proportions"):
        augment.warp(films((1, 8, 8))[0], films((1, *grid))[1], matrices((8, 8)))


@pytest.mark.usefixtures("unchecked_types")
def test_counted_pixels_on_another_grid_than_the_labels_are_refused():
    images, _, where = films((1, 8, 8))
    with pytest.raises(ValueError, match=r"where of \(1, 8, 8\) for labels of \(1, 16, 16\)"):
        augment.warp(images, films((1, 16, 16))[1], matrices((8, 8)), where=where)


@pytest.mark.parametrize("size", [(32, 32), (21, 34)])
def test_moves_by_whole_pixels_are_exact(size):
    images, labels, _ = films((1, *size))
    rows, columns = size
    shift = (3 / rows, -5 / columns)
    film, classes, counts = augment.warp(images, labels, matrices(size, shift=shift))
    expected = np.zeros(size, np.int32)
    expected[3:, :-5] = labels[0, :-3, 5:]
    np.testing.assert_array_equal(classes[0], expected)
    assert counts[0, 3:, :-5].all()
    assert counts.sum() == (rows - 3) * (columns - 5)
    np.testing.assert_allclose(film[0, 3:, :-5], images[0, :-3, 5:], atol=1e-3)
    for flip, turned in {
        (False, False): labels,
        (True, False): labels[:, ::-1],
        (False, True): labels[:, :, ::-1],
        (True, True): labels[:, ::-1, ::-1],
    }.items():
        film, classes, counts = augment.warp(images, labels, matrices(size, flip=flip))
        np.testing.assert_array_equal(classes, turned)
        np.testing.assert_array_equal(
            film[..., 0], images[:, :: 1 - 2 * flip[0], :: 1 - 2 * flip[1], 0]
        )
        assert counts.all()


def test_a_positive_rotation_is_counter_clockwise():
    images, labels, _ = films((1, 33, 33))
    film, classes, counts = augment.warp(images, labels, matrices((33, 33), rotation=90.0))
    np.testing.assert_array_equal(classes[0], np.rot90(labels[0]))
    np.testing.assert_allclose(film[0], np.rot90(images[0]), atol=1e-5)
    assert counts.all()


def test_matrices_undo_the_steps_in_the_order_documented():
    size, amounts = (40, 60), MOVES["all"]
    angle, lean = np.deg2rad(amounts["rotation"]), np.tan(np.deg2rad(amounts["shear"]))
    # (down, right): flip, scale, shear, rotate, shift.
    flip, scale = np.diag([-1.0, 1.0]), amounts["scale"] * np.eye(2)
    shear = np.array([[1.0, 0.0], [lean, 1.0]])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    forward = turn @ shear @ scale @ flip
    backward = np.linalg.inv(forward)
    moved = np.array(amounts["shift"]) * size
    expected = np.concatenate([backward, -(backward @ moved)[:, None]], 1)
    np.testing.assert_allclose(matrices(size, **amounts)[0], expected, atol=1e-5)


def test_matrices_agree_with_scikit_image():
    transform = pytest.importorskip("skimage.transform")
    # There a rotation is clockwise on the screen.
    theirs = transform.AffineTransform(
        rotation=-np.deg2rad(20.0), scale=1.3, translation=(6.0, -4.0)
    )
    inverse = np.linalg.inv(theirs.params)
    ours = matrices((40, 60), rotation=20.0, scale=1.3, shift=(-4 / 40, 6 / 60))[0]
    # (x, y) there, (row, column) here.
    np.testing.assert_allclose(ours, inverse[:2][::-1][:, [1, 0, 2]], atol=1e-5)


def test_channels_are_moved_alike_and_uint8_is_read_as_a_share_of_255():
    rng = np.random.default_rng(1)
    images, labels = rng.integers(0, 256, (2, 24, 24, 3), np.uint8), np.zeros((2, 24, 24), np.uint8)
    matrix = matrices((24, 24), count=2, rotation=11.0)
    film, _, _ = augment.warp(images, labels, matrix)
    assert film.dtype == jnp.float32
    for channel in range(3):
        single, _, _ = augment.warp(
            images[..., channel : channel + 1].astype(np.float32) / 255, labels, matrix
        )
        np.testing.assert_allclose(film[..., channel], single[..., 0], atol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("label_dtype", [jnp.uint8, jnp.int32])
def test_dtypes_are_kept(dtype, label_dtype):
    images = jnp.ones((1, 16, 16, 1), dtype)
    labels = jnp.ones((1, 16, 16), label_dtype)
    film, classes, counts = augment.warp(images, labels, matrices((16, 16), shift=(0.25, 0.0)))
    assert (film.dtype, classes.dtype, counts.dtype) == (dtype, label_dtype, bool)


@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_integer_films_other_than_uint8_are_refused(dtype):
    images, labels = np.zeros((1, 16, 16, 1), dtype), np.zeros((1, 16, 16), np.int32)
    with pytest.raises(ValueError, match=f"images has dtype {np.dtype(dtype)}; it must be uint8"):
        augment.warp(images, labels, matrices((16, 16)))


def test_matrices_are_float32_whatever_the_amounts():
    amounts = {"rotation": np.full(2, 20.0), "scale": np.full(2, 1.3), "shear": np.full(2, 6.0)}
    amounts |= {"shift": np.full((2, 2), 0.1), "flip": np.zeros((2, 2), bool)}
    with jax.enable_x64(True):
        made = jax.eval_shape(lambda: augment.affine_matrices((40, 60), **amounts))
    assert made.dtype == jnp.float32


@pytest.mark.parametrize("bad", [1e3, 1e30, np.nan, np.inf])
def test_a_map_that_reaches_too_far_reads_outside_only(bad):
    images, labels, _ = films((2, 16, 16))
    matrix = np.array(matrices((16, 16), count=2))
    matrix[1, 0, 0] = bad
    film, classes, counts = augment.warp(images, labels, matrix)
    np.testing.assert_array_equal(film[0], images[0])
    assert counts[0].all()
    assert not counts[1].any()
    assert not classes[1].any()
    assert not film[1].any()


@pytest.mark.parametrize("size", [(8, 8), (64, 200), (512, 512)])
def test_the_furthest_that_strengths_allow_still_fits(size):
    everything = {"scale": 0.5, "shift": (0.5, 0.5), "shear": 45.0}
    for rotation in np.linspace(-180, 180, 25):
        matrix = np.array(matrices(size, rotation=rotation, **everything)[0], np.float64)
        side = max(size)
        reach = np.abs(matrix[:, :2]).sum(1) * side / 2 + np.abs(matrix[:, 2]) + side / 2
        assert reach.max() < 8 * side
    images, labels = jnp.ones((1, *size, 1)), jnp.ones((1, *size), jnp.int32)
    _, classes, counts = augment.warp(images, labels, matrices(size, scale=0.5))
    # Enlarged by a half, a film fills a quarter of itself.
    assert abs(int(counts.sum()) / (size[0] * size[1]) - 0.25) < 0.05
    np.testing.assert_array_equal(classes, counts)


def test_a_film_made_from_its_mask_stays_on_it():
    size, count = (96, 96), 32
    rows, columns = np.mgrid[:96, :96]
    rng = np.random.default_rng(3)
    masks = np.zeros((count, *size), np.uint8)
    for film in range(count):
        for middle in (30, 66):
            row, column = np.array([48, middle]) + rng.normal(0, 4, 2)
            masks[film] |= np.hypot((rows - row) / 30, (columns - column) / 13) < 1
    batch = {"images": masks[..., None] * np.uint8(255), "labels": masks.astype(np.int32)}
    move = augment.make_augment(
        augment.Strengths(
            rotation=30.0, scale=0.4, shift=0.1, shear=15.0, flip_left_right=0.5, flip_up_down=0.5
        )
    )
    moved = move(jax.random.key(0), batch)
    film, labels, where = (np.asarray(moved[name]) for name in ("images", "labels", "where"))
    film = film[..., 0]
    # Where all four pixels read agree, the nearest of them is one of them.
    np.testing.assert_array_equal(labels[film > 0.999], 1)
    np.testing.assert_array_equal(labels[(film < 0.001) & where], 0)
    assert ((film > 0.001) & (film < 0.999)).mean() < 0.08
    both = (film > 0.5) & (labels == 1)
    assert (2 * both.sum((1, 2)) / ((film > 0.5).sum((1, 2)) + labels.sum((1, 2)))).min() > 0.97
    unmoved = 2 * (masks & labels.astype(bool)).sum() / (masks.sum() + labels.sum())
    assert unmoved < 0.9
