"""Tiles give the whole image's logits where no tile border is in sight, and blend elsewhere."""

import itertools

import jax
import numpy as np
import optax
import pytest

from jaxseg import UNet, parallel
from jaxseg.errors import InputError
from jaxseg.inference import Tiling, make_predict, predict_tiles
from jaxseg.training import TrainState

RADIUS = 14
"""Receptive radius of a `UNet` with one pool: two convolutions, pool, two, upsampling, two."""


@pytest.fixture(scope="module")
def trained():
    """A small U-Net as ``predict(state, images)``, compiled, and its state."""
    model = UNet(widths=(4, 8))
    images = jax.ShapeDtypeStruct((1, 16, 16, 1), np.uint8)
    state = TrainState.create(model, optax.sgd(0.1), jax.random.key(0), images)
    # Larger kernels make an error at a border visible.
    state = state.replace(params=jax.tree.map(lambda leaf: 2 * leaf, state.params))
    return jax.jit(make_predict(model)), state


def an_image(height, width):
    return np.random.default_rng(height).integers(0, 256, (height, width, 1), np.uint8)


def test_tiles_give_the_whole_images_logits_where_margins_hide_the_borders(trained):
    """The image is larger than a tile along one axis and smaller along the other."""
    predict, state = trained
    image = an_image(117, 41)
    tiling = Tiling(side=64, overlap=32, margin=RADIUS, multiple=2)
    tiled = predict_tiles(lambda tiles: predict(state, tiles), image, tiling, batch_size=2)
    whole = np.asarray(predict(state, image[None]))[0]
    assert tiled.shape == whole.shape
    # The end may differ only where the image is padded up to a tile.
    np.testing.assert_allclose(tiled[:, : 41 - RADIUS], whole[:, : 41 - RADIUS], atol=1e-4)
    assert np.abs(whole).max() > 1
    narrow = predict_tiles(
        lambda tiles: predict(state, tiles),
        image,
        Tiling(side=64, overlap=16, margin=RADIUS // 2, multiple=2),
        batch_size=2,
    )
    assert np.abs(narrow - whole)[:, : 41 - RADIUS].max() > 1e-3


def test_without_margins_tiles_are_exact_inside_and_blended_where_they_overlap(trained):
    predict, state = trained
    image = an_image(64, 112)
    tiled = predict_tiles(
        lambda tiles: predict(state, tiles),
        image,
        Tiling(side=64, overlap=16, multiple=2),
        batch_size=2,
    )
    whole, first, second = (
        np.asarray(predict(state, crop[None]))[0] for crop in (image, image[:, :64], image[:, 48:])
    )
    np.testing.assert_allclose(tiled[:, :48], first[:, :48], atol=1e-5)
    np.testing.assert_allclose(tiled[:, 64:], second[:, 16:], atol=1e-5)
    difference = np.abs(tiled - whole).max(axis=(0, 2))
    assert difference[: 64 - max(16, RADIUS)].max() < 1e-4
    assert difference[48 + max(16, RADIUS) :].max() < 1e-4
    assert difference[48:64].max() > 1e-3
    weight = np.cos(np.pi / 2 * (np.arange(16) + 0.5) / 16)[None, :, None] ** 2
    blend = weight * first[:, 48:] + (1 - weight) * second[:, :16]
    np.testing.assert_allclose(tiled[:, 48:64], blend, atol=1e-5)


@pytest.mark.slow
def test_tiles_of_an_image_of_4000_by_4000_give_the_whole_images_logits(trained):
    predict, state = trained
    image = an_image(4000, 4000)
    whole = np.asarray(predict(state, image[None]))[0]
    tiling = Tiling(side=512, overlap=32, margin=RADIUS, multiple=2)
    tiled = predict_tiles(lambda tiles: predict(state, tiles), image, tiling, batch_size=4)
    np.testing.assert_allclose(tiled, whole, atol=1e-4)
    assert np.abs(whole).max() > 1


def test_images_of_any_size_are_predicted_in_batches_of_one_shape():
    shapes = set()

    def predict(tiles):
        shapes.add(tiles.shape)
        return np.asarray(tiles, np.float32)

    for size in [(16, 16), (7, 90), (33, 61), (200, 3)]:
        image = an_image(*size)
        tiled = predict_tiles(predict, image, Tiling(side=16, overlap=6), batch_size=3)
        np.testing.assert_allclose(tiled, image, atol=1e-3)
    assert shapes == {(3, 16, 16, 1)}


@pytest.mark.parametrize(("overlap", "margin"), [(0, 0), (4, 1), (8, 0), (12, 1)])
@pytest.mark.parametrize("length", [1, 16, 17, 63])
def test_weights_sum_to_one_and_vanish_on_margins(overlap, margin, length):
    tiling = Tiling(side=16, overlap=overlap, margin=margin, multiple=4)
    starts, weights = tiling.starts(length), tiling.weights(length)
    total = np.zeros(tiling.padded(length))
    for start, weight in zip(starts, weights, strict=True):
        total[start : start + 16] += weight
    np.testing.assert_allclose(total, 1, atol=1e-6)
    assert starts[-1] + 16 == len(total) >= length
    assert not (starts % 4).any()
    assert (np.diff(starts) <= 16 - overlap).all()
    if margin:
        assert not weights[1:, 0].any()
        assert not weights[:-1, -1].any()


def test_a_batch_of_tiles_can_be_sharded(trained):
    predict, state = trained
    image, tiling = an_image(60, 60), Tiling(side=32, overlap=8, multiple=2)
    mesh = parallel.make_mesh()
    sharded = parallel.jit_batched(predict, mesh)
    replicated = parallel.replicate(state, mesh)
    tiled = predict_tiles(lambda tiles: sharded(replicated, tiles), image, tiling, batch_size=8)
    alone = predict_tiles(lambda tiles: predict(state, tiles), image, tiling, batch_size=9)
    np.testing.assert_allclose(tiled, alone, atol=1e-5)


# Rectangles, Gaussian weights, tile starts and several outputs.


@pytest.mark.parametrize("blend", ["cosine", "gaussian"])
def test_rectangular_tiles_give_the_whole_images_logits_where_margins_hide_the_borders(
    blend, trained
):
    predict, state = trained
    image, shapes = an_image(117, 150), set()

    def predict_seen(tiles):
        shapes.add(tiles.shape)
        return predict(state, tiles)

    tiling = Tiling(side=(64, 96), overlap=(32, 40), margin=RADIUS, multiple=2, blend=blend)
    tiled = predict_tiles(predict_seen, image, tiling, batch_size=2)
    whole = np.asarray(predict(state, image[None]))[0]
    assert shapes == {(2, 64, 96, 1)}
    np.testing.assert_allclose(tiled, whole, atol=1e-4)
    assert np.abs(whole).max() > 1


def uneven(tiles):
    """A network whose logits depend on the position in the tile."""
    tiles = np.asarray(tiles, np.float32)
    down, across = np.ogrid[: tiles.shape[1], : tiles.shape[2]]
    return tiles * (1 + down - 2 * across).astype(np.float32)[None, ..., None]


def gaussian_tile(height, width):
    """A Gaussian of a standard deviation of an eighth of each side, about the tile's center."""
    down, across = np.ogrid[:height, :width]
    y, x = (down - (height - 1) / 2) / (height / 8), (across - (width - 1) / 2) / (width / 8)
    return np.exp(-(x**2 + y**2) / 2)


def blended_by_hand(image, tiling, weight):
    """The weighted mean of the tiles' logits at each pixel."""
    height, width = weight.shape
    total, weights = (np.zeros(image.shape) for _ in range(2))
    for top in tiling.starts(image.shape[0], axis=0):
        for left in tiling.starts(image.shape[1], axis=1):
            window = slice(top, top + height), slice(left, left + width)
            total[window] += weight[..., None] * uneven(image[window][None])[0]
            weights[window] += weight[..., None]
    return total / weights


def test_gaussian_weights_are_those_of_a_gaussian_about_the_tiles_center():
    image = an_image(52, 71).astype(np.float32) / 255
    tiling = Tiling(side=(24, 32), overlap=(10, 16), blend="gaussian")
    tiled = predict_tiles(uneven, image, tiling, batch_size=3)
    expected = blended_by_hand(image, tiling, gaussian_tile(24, 32))
    np.testing.assert_allclose(tiled, expected, atol=1e-4)
    cosine = predict_tiles(uneven, image, Tiling(side=(24, 32), overlap=(10, 16)))
    assert np.abs(tiled - cosine).max() > 1


@pytest.mark.slow
def test_gaussian_tiles_agree_with_monai():
    torch = pytest.importorskip("torch", reason="it is not installed")
    inferers = pytest.importorskip("monai.inferers", reason="it is not installed")
    # MONAI moves the last tile up to the border. Here, it is there already.
    image = an_image(24 + 3 * 12, 32 + 2 * 16).astype(np.float32) / 255

    def network(tiles):
        return torch.tensor(np.moveaxis(uneven(np.moveaxis(tiles.numpy(), 1, -1)), -1, 1))

    def monai(**options):
        batch = torch.tensor(image[None, :, :, 0])[None]
        theirs = inferers.sliding_window_inference(
            batch, (24, 32), 3, network, overlap=0.5, **options
        )
        return theirs.numpy()[0, 0, ..., None]

    tiling = Tiling(side=(24, 32), overlap=(12, 16), blend="gaussian")
    tiled = predict_tiles(uneven, image, tiling, batch_size=3)
    weight = gaussian_tile(24, 32)
    unclipped = torch.tensor(weight.astype(np.float32))[None, None]
    np.testing.assert_allclose(tiled, monai(roi_weight_map=unclipped), atol=1e-4)
    least = np.ones(image.shape[:2])
    for top, left in itertools.product(range(0, 37, 12), range(0, 33, 16)):
        window = least[top : top + 24, left : left + 32]
        np.minimum(window, weight, out=window)
    same = least > 1e-3
    assert 0.4 < same.mean() < 1
    np.testing.assert_allclose(tiled[same], monai(mode="gaussian")[same], atol=1e-4)


@pytest.mark.parametrize("side", [16, 24, 33])
@pytest.mark.parametrize("step", [1, 4, 8, 16])
def test_tiles_start_where_nnunets_do(side, step):
    tiling = Tiling(side=(7, side), overlap=(0, side - step))
    for length in range(side, 4 * side):
        # compute_steps_for_sliding_window with a step of a fraction of the side.
        count = int(np.ceil((length - side) / step)) + 1
        spacing = (length - side) / (count - 1) if count > 1 else 0
        expected = [int(np.round(spacing * i)) for i in range(count)]
        assert tiling.starts(length, axis=1).tolist() == expected


def test_an_example_in_nnunets_source():
    assert Tiling(side=64, overlap=32).starts(110).tolist() == [0, 23, 46]


def test_every_output_is_blended():
    image = an_image(40, 50).astype(np.float32) / 255
    tiling = Tiling(side=(16, 24), overlap=6)

    def several(tiles):
        logits = uneven(tiles)
        return {"logits": np.repeat(logits, 3, -1), "more": (tiles, [2 * logits])}

    outputs = predict_tiles(several, image, tiling, batch_size=3)
    single = predict_tiles(uneven, image, tiling, batch_size=3)
    np.testing.assert_array_equal(outputs["logits"], np.repeat(single, 3, -1))
    np.testing.assert_allclose(outputs["more"][0], image, atol=1e-6)
    np.testing.assert_allclose(outputs["more"][1][0], 2 * single, atol=1e-4)
    (alone,) = predict_tiles(lambda tiles: (uneven(tiles),), image, tiling, batch_size=3)
    np.testing.assert_array_equal(alone, single)


def test_outputs_of_another_size_than_the_tiles_are_refused():
    with pytest.raises(ValueError, match=r"shape \(8, 8, 8, 1\), but tiles have size \(16, 16\)"):
        predict_tiles(
            lambda tiles: (tiles, tiles[:, ::2, ::2]), an_image(20, 20), Tiling(side=16, overlap=4)
        )


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"side": 0, "overlap": 0}, "tile: 0 pixels"),
        ({"side": 36, "overlap": 0, "multiple": 16}, "multiple of 16"),
        ({"side": 32, "overlap": 32}, "below the tile's 32"),
        ({"side": 32, "overlap": 8, "multiple": 16}, "overlap: 8 pixels"),
        ({"side": 32, "overlap": -1}, "overlap: -1 pixels"),
        ({"side": 32, "overlap": 8, "margin": 4}, "less than half the overlap"),
        ({"side": 32, "overlap": 0, "margin": -1}, "margin: -1 pixels"),
        ({"side": (32, 0), "overlap": 0}, "tile: 0 pixels"),
        ({"side": (64, 32), "overlap": 40}, "overlap: 40 pixels"),
        ({"side": 32, "overlap": (16, 8), "margin": 4}, "less than half the overlap, 8"),
        ({"side": 32, "overlap": 8, "blend": "mean"}, "blend: 'mean'"),
    ],
)
@pytest.mark.usefixtures("unchecked_types")
def test_invalid_tilings_are_named(fields, words):
    with pytest.raises(InputError, match=words):
        Tiling(**fields)
