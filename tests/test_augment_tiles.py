"""Reading by tiles, as on a TPU, gives what reading by pixels gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import augment
from jaxseg.augment import tiles
from jaxseg.augment.affine import affine_matrices, move
from jaxseg.augment.batch import draw

STRENGTHS = {
    "robust": augment.ROBUST,
    "all": augment.Strengths(
        rotation=180.0,
        scale=1.0,
        shift=0.5,
        shear=45.0,
        flip_left_right=0.5,
        flip_up_down=0.5,
    ),
    "flips": augment.Strengths(flip_left_right=0.5, flip_up_down=0.5),
}


def drawn(strengths, size, count=6):
    """Matrices as a batch draws them."""
    amounts = draw(jax.random.key(0), np.arange(count, dtype=np.int32), strengths)
    names = ("rotation", "scale", "shift", "shear", "flip")
    return affine_matrices(size, **{name: getattr(amounts, name) for name in names})


@pytest.mark.parametrize("strengths", STRENGTHS)
def test_no_matrix_stretches_more_than_its_strengths_say(strengths):
    strengths = STRENGTHS[strengths]
    sums = jnp.abs(drawn(strengths, (40, 60), 500)[:, :, :2]).sum(-1)
    assert sums.max() <= strengths.stretch + 1e-5
    assert sums.max() > 0.6 * strengths.stretch


def test_the_bound_is_reached():
    strengths = augment.Strengths(rotation=20.0, scale=0.5)
    still = np.zeros((1, 2), np.float32)
    matrix = affine_matrices(
        (9, 9),
        rotation=np.array([20.0], np.float32),
        scale=np.array([1 / 1.5], np.float32),
        shift=still,
        shear=still[:, 0],
        flip=still > 0,
    )
    assert np.abs(matrix[0, :, :2]).sum(-1).max() == pytest.approx(strengths.stretch, rel=1e-6)


@pytest.mark.parametrize(
    ("strengths", "size", "finer"),
    [
        ("robust", (96, 96), 1),
        ("all", (45, 130), 1),
        ("flips", (20, 7), 1),
        ("robust", (40, 40), 2),
    ],
)
def test_tiles_give_what_pixels_give(strengths, size, finer, monkeypatch):
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.random((6, *size, 2), np.float32))
    grid = (6, finer * size[0], finer * size[1])
    labels = jnp.asarray(rng.integers(0, 1000, grid, np.int32))
    where = jnp.asarray(rng.random(grid) < 0.7)
    strengths = STRENGTHS[strengths]
    matrices = drawn(strengths, size)

    def run():
        return move(images, labels, where, matrices, stretch=strengths.stretch)

    expected = run()
    taken = []

    def tiled(*arguments, tpu, default):
        taken.append(default)
        return tpu(*arguments)

    monkeypatch.setattr(jax.lax, "platform_dependent", tiled)
    jax.clear_caches()
    film, *others = run()
    jax.clear_caches()
    assert taken
    np.testing.assert_allclose(film, expected[0], atol=1e-6)
    for one, other in zip(others, expected[1:], strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def test_a_patch_holds_all_that_a_tile_reads():
    for stretch in (1.0, 1.3, 2.2, 5.7):
        for start in np.linspace(0, 1, 21):
            last = start + (tiles.TILE - 1) * stretch
            assert int(np.floor(last)) + 2 <= tiles.patch_side(stretch)
