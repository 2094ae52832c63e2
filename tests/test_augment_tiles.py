"""Reading by tiles, as on a TPU, equals reading pixel by pixel."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.ndimage import map_coordinates

from jaxseg import augment
from jaxseg.augment import tiles
from jaxseg.augment.affine import affine_matrices, source_coordinates
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
    "no shear": augment.Strengths(rotation=20.0, scale=0.5),
    "flips": augment.Strengths(flip_left_right=0.5, flip_up_down=0.5),
}


def random_matrices(strengths, size, count):
    amounts = jax.jit(draw, static_argnums=(1, 2))(jax.random.key(0), count, strengths)
    names = ("rotation", "scale", "shift", "shear", "flip")
    return affine_matrices(size, **{name: getattr(amounts, name) for name in names})


def largest_stretch(rotation, scale):
    """A matrix that reaches the bound of these strengths."""
    zero = np.zeros((1, 2), np.float32)
    return affine_matrices(
        (9, 9),
        rotation=np.array([rotation], np.float32),
        scale=np.array([1 / (1 + scale)], np.float32),
        shift=zero,
        shear=zero[:, 0],
        flip=zero > 0,
    )


@pytest.mark.slow
@pytest.mark.parametrize("strengths", STRENGTHS)
def test_no_matrix_exceeds_max_stretch(strengths):
    strengths = STRENGTHS[strengths]
    sums = jnp.abs(random_matrices(strengths, (40, 60), 500)[:, :, :2]).sum(-1)
    assert sums.max() <= strengths.max_stretch + 1e-5
    assert sums.max() > 0.6 * strengths.max_stretch


def test_max_stretch_is_the_least_upper_bound():
    strengths = STRENGTHS["no shear"]
    sums = np.abs(largest_stretch(20.0, 0.5)[0, :, :2]).sum(-1)
    assert sums.max() == pytest.approx(strengths.max_stretch, rel=1e-6)


@pytest.mark.parametrize(
    ("strengths", "size"),
    [pytest.param("robust", (64, 48), marks=pytest.mark.slow), ("all", (45, 130))],
)
def test_tiles_read_what_pixels_read(strengths, size):
    strengths = STRENGTHS[strengths]
    rng = np.random.default_rng(0)
    plane = jnp.asarray(rng.integers(0, 1000, size).astype(np.float32))
    # The largest stretch needs the whole patch if a tile starts at the end of a pixel.
    extreme = largest_stretch(min(strengths.rotation, 45.0), strengths.scale)
    shifted = np.tile(extreme, (8, 1, 1))
    shifted[:, :, 2] = np.linspace(0, 1, 8)[:, None]
    matrices = np.concatenate([random_matrices(strengths, size, 4), shifted])

    @jax.jit
    def read_both(coordinates):
        def both(at):
            options = {"max_stretch": strengths.max_stretch}
            return [
                (
                    tiles.map_coordinates(plane, at, order=order, **options),
                    map_coordinates(plane, at, order, mode="nearest"),
                )
                for order in (0, 1)
            ]

        return jax.vmap(both)(coordinates)

    coordinates = source_coordinates(matrices, size)
    (nearest, nearest_pixels), (linear, linear_pixels) = read_both(coordinates)
    np.testing.assert_array_equal(nearest, nearest_pixels)
    np.testing.assert_allclose(linear, linear_pixels, atol=1e-3)


def test_only_a_tpu_program_reads_by_tiles():
    batch = {
        "images": np.zeros((2, 40, 40, 1), np.uint8),
        "labels": np.zeros((2, 80, 80), np.uint8),
    }
    change = jax.jit(augment.make_augment(dataclasses.replace(augment.ROBUST, noise=0.0)))
    traced = change.trace(jax.random.key(0), batch)
    for platform, gathers in (("tpu", False), ("cpu", True)):
        program = traced.lower(lowering_platforms=(platform,)).as_text()
        assert ("stablehlo.gather" in program) == gathers
