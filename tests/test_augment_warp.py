"""Affine and elastic transforms against SciPy, scikit-image, Pillow, NumPy and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxseg import augment

ndimage = pytest.importorskip("scipy.ndimage")

IDENTITY = {
    "rotation": 0.0,
    "scale": 1.0,
    "shift": (0.0, 0.0),
    "shear": 0.0,
    "flip": (False, False),
}


affine_matrices = jax.jit(augment.affine_matrices, static_argnums=0)


def matrices(size, count=1, **amounts):
    """The same matrix ``count`` times."""
    arrays = {
        name: np.tile(np.asarray(value, bool if name == "flip" else np.float32), (count, 1))
        for name, value in (IDENTITY | amounts).items()
    }
    single = {name: arrays[name][:, 0] for name in ("rotation", "scale", "shear")}
    return affine_matrices(size, **(arrays | single))


def random_batch(shape, seed=0):
    rng = np.random.default_rng(seed)
    images = rng.random((*shape, 1), np.float32)
    return images, rng.integers(0, 5, shape, np.int32), rng.random(shape) < 0.7


TRANSFORMS = {
    "identity": {},
    "rotation": {"rotation": 17.0},
    "rotation back": {"rotation": -63.0},
    "enlarge": {"scale": 1.37},
    "shrink": {"scale": 0.6},
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


def scipy_warp(matrix, size, factor=1):
    """SciPy's `affine_transform` for one image, and where no nearest pixel is a tie."""
    # The center of label pixel i is at (i + 0.5) / factor - 0.5 in pixels of the image.
    linear = np.asarray(matrix[:, :2], np.float64)
    center = (np.array(size) - 1) / 2
    offset = np.asarray(matrix[:, 2]) + center - linear @ center
    half = (1 / factor - 1) / 2
    offset = factor * (offset + linear @ np.full(2, half) - half)
    grid = (factor * size[0], factor * size[1])
    at = np.moveaxis(np.indices(grid), 0, -1) @ linear.T + offset
    clear = (np.abs(at - np.floor(at) - 0.5) > 1e-4).all(-1)
    assert clear.mean() > 0.95

    def warp(array, order, mode="nearest"):
        return ndimage.affine_transform(array, linear, offset, order=order, mode=mode)

    inside = warp(np.ones(grid, np.uint8), 0, "grid-constant")
    return (lambda array, order: inside * warp(array, order)), clear


def all_transforms(size):
    """The matrix of each of `TRANSFORMS`."""
    return np.concatenate([matrices(size, **amounts) for amounts in TRANSFORMS.values()])


def assert_labels_and_where_agree_with_scipy(row, moved, array, where, expected, clear):
    """Compares labels and valid pixels of one image where no nearest pixel is a tie."""
    for found, before in zip(moved, (array, where.astype(np.uint8)), strict=True):
        name = list(TRANSFORMS)[row]
        nearest = expected(before[row], 0)[clear]
        np.testing.assert_array_equal(found[row][clear], nearest, err_msg=name)


def test_images_labels_and_where_agree_with_scipy():
    size = (37, 53)
    images, labels, where = random_batch((len(TRANSFORMS), *size))
    matrix = all_transforms(size)
    moved, *moved_labels_and_where = augment.warp(images, labels, matrix, where=where)
    for row, name in enumerate(TRANSFORMS):
        expected, clear = scipy_warp(matrix[row], size)
        linear = expected(images[row, ..., 0], 1)[clear]
        np.testing.assert_allclose(moved[row, ..., 0][clear], linear, atol=1e-4, err_msg=name)
        assert_labels_and_where_agree_with_scipy(
            row, moved_labels_and_where, labels, where, expected, clear
        )


@pytest.mark.slow
@pytest.mark.parametrize("factor", [2, 3])
def test_finer_labels_agree_with_scipy_and_leave_the_images_the_same(factor):
    size, count = (36, 48), len(TRANSFORMS)
    images = random_batch((count, *size))[0]
    _, labels, where = random_batch((count, factor * size[0], factor * size[1]), seed=1)
    matrix = all_transforms(size)
    moved, *moved_labels_and_where = augment.warp(images, labels, matrix, where=where)
    same, _, _ = augment.warp(images, labels[:, ::factor, ::factor], matrix)
    np.testing.assert_array_equal(moved, same)
    for row in range(count):
        expected, clear = scipy_warp(matrix[row], size, factor)
        assert_labels_and_where_agree_with_scipy(
            row, moved_labels_and_where, labels, where, expected, clear
        )


def test_where_may_be_a_weight_and_labels_may_have_channels():
    images, labels, where = random_batch((2, 24, 30))
    matrix = matrices((24, 30), count=2, **TRANSFORMS["all"])
    weights = np.random.default_rng(2).random(labels.shape, np.float32)
    one_hot = np.stack([labels == k for k in range(5)], -1).astype(np.float32)
    _, moved, valid = augment.warp(images, labels, matrix, where=where)
    _, channels, moved_weights = augment.warp(images, one_hot, matrix, where=weights)
    inside = np.asarray(augment.warp(images, labels, matrix)[2])
    index = np.arange(1440, dtype=np.int32).reshape(2, 24, 30)
    index = np.asarray(augment.warp(images, index, matrix)[1])
    assert channels.dtype == moved_weights.dtype == jnp.float32
    expected = np.where(inside[..., None], jax.nn.one_hot(moved, 5), 0)
    np.testing.assert_array_equal(channels, expected)
    np.testing.assert_array_equal(moved_weights, weights.ravel()[index] * inside)
    np.testing.assert_array_equal(valid, where.ravel()[index] & inside)


@pytest.mark.parametrize("grid", [(16, 24), (4, 4)])
def test_coarser_labels_and_labels_of_other_proportions_are_refused(grid):
    with pytest.raises(ValueError, match="larger in equal proportion"):
        augment.warp(random_batch((1, 8, 8))[0], random_batch((1, *grid))[1], matrices((8, 8)))


@pytest.mark.usefixtures("unchecked_types")
def test_where_of_another_size_than_the_labels_is_refused():
    images, _, where = random_batch((1, 8, 8))
    with pytest.raises(ValueError, match=r"where has shape \(1, 8, 8\), labels \(1, 16, 16\)"):
        augment.warp(images, random_batch((1, 16, 16))[1], matrices((8, 8)), where=where)


def test_shifts_by_whole_pixels_move_every_pixel():
    size = (21, 34)
    images, labels, _ = random_batch((1, *size))
    rows, columns = size
    moved, moved_labels, valid = augment.warp(
        images, labels, matrices(size, shift=(3 / rows, -5 / columns))
    )
    expected = np.zeros(size, np.int32)
    expected[3:, :-5] = labels[0, :-3, 5:]
    np.testing.assert_array_equal(moved_labels[0], expected)
    assert valid[0, 3:, :-5].all()
    assert valid.sum() == (rows - 3) * (columns - 5)
    np.testing.assert_allclose(moved[0, 3:, :-5], images[0, :-3, 5:], atol=1e-5)


@pytest.mark.parametrize("up_down", [False, True])
@pytest.mark.parametrize("left_right", [False, True])
def test_flips_are_exact(up_down, left_right):
    images, labels, _ = random_batch((1, 21, 34))
    moved, moved_labels, valid = augment.warp(
        images, labels, matrices((21, 34), flip=(up_down, left_right))
    )
    axes = tuple(axis for axis, flip in ((1, up_down), (2, left_right)) if flip)
    np.testing.assert_array_equal(moved_labels, np.flip(labels, axes))
    np.testing.assert_array_equal(moved, np.flip(images, axes))
    assert valid.all()


def test_a_positive_rotation_is_counterclockwise():
    images, labels, _ = random_batch((1, 33, 33))
    moved, moved_labels, valid = augment.warp(images, labels, matrices((33, 33), rotation=90.0))
    np.testing.assert_array_equal(moved_labels[0], np.rot90(labels[0]))
    np.testing.assert_allclose(moved[0], np.rot90(images[0]), atol=1e-5)
    assert valid.all()


def test_matrices_invert_the_steps_in_the_documented_order():
    size, amounts = (40, 60), TRANSFORMS["all"]
    angle, lean = np.deg2rad(amounts["rotation"]), np.tan(np.deg2rad(amounts["shear"]))
    # (down, right): flip, scale, shear, rotate, shift.
    flip, scale = np.diag([-1.0, 1.0]), amounts["scale"] * np.eye(2)
    shear = np.array([[1.0, 0.0], [lean, 1.0]])
    rotate = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    inverse = np.linalg.inv(rotate @ shear @ scale @ flip)
    shift = np.array(amounts["shift"]) * size
    expected = np.concatenate([inverse, -(inverse @ shift)[:, None]], 1)
    np.testing.assert_allclose(matrices(size, **amounts)[0], expected, atol=1e-5)


def test_matrices_agree_with_scikit_image():
    transform = pytest.importorskip("skimage.transform")
    # A rotation of scikit-image is clockwise on the screen.
    theirs = transform.AffineTransform(
        rotation=-np.deg2rad(20.0), scale=1.3, translation=(6.0, -4.0)
    )
    inverse = np.linalg.inv(theirs.params)
    ours = matrices((40, 60), rotation=20.0, scale=1.3, shift=(-4 / 40, 6 / 60))[0]
    # scikit-image has (x, y), jaxseg (row, column).
    np.testing.assert_allclose(ours, inverse[:2][::-1][:, [1, 0, 2]], atol=1e-5)


def test_channels_are_moved_alike_and_uint8_is_divided_by_255():
    rng = np.random.default_rng(1)
    images, labels = rng.integers(0, 256, (2, 24, 24, 3), np.uint8), np.zeros((2, 24, 24), np.uint8)
    matrix = matrices((24, 24), count=2, rotation=11.0)
    moved, _, _ = augment.warp(images, labels, matrix)
    assert moved.dtype == jnp.float32
    for channel in range(3):
        single, _, _ = augment.warp(
            images[..., channel : channel + 1].astype(np.float32) / 255, labels, matrix
        )
        np.testing.assert_allclose(moved[..., channel], single[..., 0], atol=1e-6)


@pytest.mark.parametrize(
    ("dtype", "label_dtype"),
    [(jnp.float16, jnp.uint8), (jnp.bfloat16, jnp.int32), (jnp.float32, jnp.bfloat16)],
)
def test_dtypes_are_kept(dtype, label_dtype):
    images = jnp.ones((1, 16, 16, 1), dtype)
    labels = jnp.ones((1, 16, 16), label_dtype)
    matrix = matrices((16, 16), shift=(0.25, 0.0))
    moved, moved_labels, valid = jax.eval_shape(augment.warp, images, labels, matrix)
    assert (moved.dtype, moved_labels.dtype, valid.dtype) == (dtype, label_dtype, bool)


@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_integer_images_other_than_uint8_are_refused(dtype):
    images, labels = np.zeros((1, 16, 16, 1), dtype), np.zeros((1, 16, 16), np.int32)
    with pytest.raises(ValueError, match=f"images has dtype {np.dtype(dtype)}; it must be uint8"):
        augment.warp(images, labels, matrices((16, 16)))


def test_matrices_are_float32_for_amounts_of_any_float_dtype():
    amounts = {"rotation": np.full(2, 20.0), "scale": np.full(2, 1.3), "shear": np.full(2, 6.0)}
    amounts |= {"shift": np.full((2, 2), 0.1), "flip": np.zeros((2, 2), bool)}
    with jax.enable_x64(True):
        made = jax.eval_shape(lambda: augment.affine_matrices((40, 60), **amounts))
    assert made.dtype == jnp.float32


@pytest.mark.parametrize("bad", [1e3, 1e30, np.nan, np.inf])
def test_a_matrix_that_reads_far_outside_or_is_not_finite_gives_invalid_pixels(bad):
    images, labels, _ = random_batch((2, 16, 16))
    matrix = np.array(matrices((16, 16), count=2))
    matrix[1, 0, 0] = bad
    moved, moved_labels, valid = augment.warp(images, labels, matrix)
    np.testing.assert_array_equal(moved[0], images[0])
    assert valid[0].all()
    assert not valid[1].any()
    assert not moved_labels[1].any()
    assert not moved[1].any()


def test_images_made_from_their_masks_still_match_them():
    size, count = (96, 96), 32
    rows, columns = np.mgrid[:96, :96]
    rng = np.random.default_rng(3)
    masks = np.zeros((count, *size), np.uint8)
    for mask in masks:
        for middle in (30, 66):
            row, column = np.array([48, middle]) + rng.normal(0, 4, 2)
            mask |= np.hypot((rows - row) / 30, (columns - column) / 13) < 1
    batch = {"images": masks[..., None] * np.uint8(255), "labels": masks.astype(np.int32)}
    change = augment.make_augment(
        augment.Strengths(
            rotation=30.0, scale=0.4, shift=0.1, shear=15.0, flip_left_right=0.5, flip_up_down=0.5
        )
    )
    moved = change(jax.random.key(0), batch)
    image, labels, where = (np.asarray(moved[name]) for name in ("images", "labels", "where"))
    image = image[..., 0]
    # If all four pixels that are read agree, so does the nearest of them.
    np.testing.assert_array_equal(labels[image > 0.999], 1)
    np.testing.assert_array_equal(labels[(image < 0.001) & where], 0)
    assert ((image > 0.001) & (image < 0.999)).mean() < 0.08
    both = (image > 0.5) & (labels == 1)
    assert (2 * both.sum((1, 2)) / ((image > 0.5).sum((1, 2)) + labels.sum((1, 2)))).min() > 0.97
    unmoved = 2 * (masks & labels.astype(bool)).sum() / (masks.sum() + labels.sum())
    assert unmoved < 0.9


# Elastic deformation.


def read_positions(matrix, grid, size, factor):
    """The rows and columns that the pixels of labels read; the grid is resized by Pillow."""
    sizes = [factor * side for side in size]
    center = [(side - 1) / 2 for side in sizes]
    at = np.moveaxis(np.indices(sizes), 0, -1) - center
    affine = at @ np.asarray(matrix[:, :2], np.float64).T + factor * matrix[:, 2] + center
    field = [
        np.asarray(Image.fromarray(grid[..., axis]).resize(sizes[::-1], Image.Resampling.BICUBIC))
        for axis in (0, 1)
    ]
    return np.moveaxis(affine + np.stack(field, -1) * sizes, -1, 0)


@pytest.mark.slow
@pytest.mark.parametrize("factor", [1, 2])
@pytest.mark.parametrize("transform", ["identity", "all"])
def test_elastic_deformation_agrees_with_scipy_and_pillow(transform, factor):
    size, count = (36, 48), 3
    images = random_batch((count, *size))[0]
    _, labels, where = random_batch((count, factor * size[0], factor * size[1]), seed=1)
    matrix = np.array(matrices(size, count=count, **TRANSFORMS[transform]))
    grid = np.random.default_rng(3).uniform(-0.1, 0.1, (count, 3, 4, 2)).astype(np.float32)
    grid[0] = 0
    moved, *moved_labels_and_where = augment.warp(
        images, labels, matrix, where=where, displacements=grid
    )
    unmoved, _, _ = augment.warp(images, labels, matrix)
    np.testing.assert_allclose(moved[0], unmoved[0], atol=1e-5)
    assert not np.allclose(moved[1], unmoved[1], atol=0.1)

    def read(array, at, order):
        inside = ((at >= -0.5) & (at < np.reshape(array.shape, (2, 1, 1)) - 0.5)).all(0)
        return inside * ndimage.map_coordinates(array, at, order=order, mode="nearest")

    for i in range(count):
        at = read_positions(matrix[i], grid[i], size, 1)
        clear = (np.abs(at - np.floor(at) - 0.5) > 1e-4).all(0)
        expected = read(images[i, ..., 0], at, 1)
        np.testing.assert_allclose(moved[i, ..., 0][clear], expected[clear], atol=1e-4)
        at = read_positions(matrix[i], grid[i], size, factor)
        clear = (np.abs(at - np.floor(at) - 0.5) > 1e-4).all(0)
        assert clear.mean() > 0.95
        for found, before in zip(moved_labels_and_where, (labels, where), strict=True):
            expected = read(before[i].astype(np.uint8), at, 0)
            np.testing.assert_array_equal(found[i][clear], expected[clear])


def test_equal_displacements_shift_the_image():
    images, labels, _ = random_batch((1, 20, 30))
    grid = np.tile(np.array([3 / 20, -6 / 30], np.float32), (1, 3, 3, 1))
    moved = augment.warp(images, labels, matrices((20, 30)), displacements=grid)
    shifted = augment.warp(images, labels, matrices((20, 30), shift=(-3 / 20, 6 / 30)))
    np.testing.assert_allclose(moved[0], shifted[0], atol=1e-4)
    np.testing.assert_array_equal(moved[1][:, 1:-4, 7:-1], labels[:, 4:-1, 1:-7])


def test_random_displacements_are_uniform_within_each_images_amplitude():
    stats = pytest.importorskip("scipy.stats")
    amplitude = np.repeat(np.array([0.0, 0.02, 0.1], np.float32), 200)
    grid = np.asarray(augment.elastic_displacements(jax.random.key(0), amplitude))
    assert grid.shape == (600, 3, 3, 2)
    assert not grid[:200].any()
    for rows, largest in ((grid[200:400], 0.02), (grid[400:], 0.1)):
        scaled = rows / largest
        assert stats.kstest(scaled.ravel(), stats.uniform(-1, 2).cdf).pvalue > 1e-3
        assert abs(np.corrcoef(scaled.reshape(200, -1).T) - np.eye(18)).max() < 0.3


def test_the_largest_elastic_deformation_does_not_fold_the_image():
    grid = augment.elastic_displacements(jax.random.key(1), np.full(500, 0.1, np.float32))
    size = (24, 32)
    index = np.indices(size).astype(np.float32)
    images = np.moveaxis(index, 0, -1)[None].repeat(500, 0)
    labels = np.zeros((500, *size), np.uint8)
    moved = augment.warp(images, labels, matrices(size, count=500), displacements=grid)
    positions, valid = np.asarray(moved[0]), np.asarray(moved[2])
    down, right = np.diff(positions, axis=1)[:, :, :-1], np.diff(positions, axis=2)[:, :-1]
    area = down[..., 0] * right[..., 1] - down[..., 1] * right[..., 0]
    # Bilinear values stop at the border of the image, so only positions well inside are positions.
    inner = (positions > 0.5).all(-1) & (positions < np.array(size) - 1.5).all(-1) & valid
    inner = inner[:, :-1, :-1] & inner[:, 1:, :-1] & inner[:, :-1, 1:]
    assert inner.mean() > 0.5
    assert area[inner].min() > 0
