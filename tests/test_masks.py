"""Post-processing of masks agrees with a search over sets of pixels."""

import jax
import numpy as np
import pytest

from jaxseg.errors import InputError
from jaxseg.inference import component_areas, confidence, fill_holes, largest_components

EDGES = [(0, 1), (1, 0), (0, -1), (-1, 0)]
EDGES_AND_CORNERS = [*EDGES, (1, 1), (1, -1), (-1, 1), (-1, -1)]


def components(pixels, steps):
    """Connected sets of pixels, in reading order of their first pixels."""
    left, found = set(pixels), []
    for first in sorted(pixels):
        if first not in left:
            continue
        reached, border = {first}, [first]
        while border:
            y, x = border.pop()
            near = {(y + dy, x + dx) for dy, dx in steps} & left - reached
            reached |= near
            border += near
        left -= reached
        found.append(reached)
    return found


def pixels_of(mask):
    return {(int(y), int(x)) for y, x in np.argwhere(mask)}


def random_masks():
    rng = np.random.default_rng(0)
    shapes = [(1, 1), (1, 9), (12, 7), (20, 20), (15, 31)]
    masks = [rng.random(shape) < fraction for shape in shapes for fraction in (0.3, 0.5, 0.7)]
    return [*masks, np.zeros((5, 6), bool), np.ones((5, 6), bool)]


@pytest.mark.parametrize("mask", random_masks())
def test_holes_are_background_that_no_path_over_edges_joins_to_the_border(mask):
    filled = pixels_of(mask)
    height, width = mask.shape
    for component in components(pixels_of(~mask), EDGES):
        if not any(y in (0, height - 1) or x in (0, width - 1) for y, x in component):
            filled |= component
    assert pixels_of(fill_holes(mask)) == filled


@pytest.mark.parametrize("mask", random_masks())
@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_largest_components_are_kept(mask, count):
    found = components(pixels_of(mask), EDGES_AND_CORNERS)
    found.sort(key=len, reverse=True)
    kept = largest_components(mask, count)
    assert pixels_of(kept) == set().union(*found[:count])
    assert component_areas(mask).tolist() == [len(component) for component in found]
    assert kept.dtype == bool


def test_a_count_of_0_components_is_refused():
    with pytest.raises(InputError, match="count is 0"):
        largest_components(np.ones((2, 2), bool), 0)


def test_confidence_is_the_mean_over_mask_and_complement_of_the_probability_by_hand():
    logits = np.array([[2.0, -1.0], [0.5, -3.0]], np.float32)[..., None]
    p = 1 / (1 + np.exp(-logits[..., 0].astype(np.float64)))
    labels = np.array([[1, 0], [1, 0]])
    by_hand = ((p[0, 0] + p[1, 0]) / 2 + (1 - p[0, 1] + 1 - p[1, 1]) / 2) / 2
    assert confidence(logits, labels) == pytest.approx(by_hand, rel=1e-6)
    # Labels that the network contradicts, and labels of one class only.
    assert confidence(logits, 1 - labels) == pytest.approx(1 - by_hand, rel=1e-6)
    assert confidence(logits, np.zeros((2, 2), int)) == pytest.approx((1 - p).mean(), rel=1e-6)


def test_confidence_of_several_classes_is_by_softmax():
    rng = np.random.default_rng(0)
    logits = 4 * rng.normal(size=(6, 5, 3)).astype(np.float32)
    labels = logits.argmax(axis=-1)
    probabilities = np.asarray(jax.nn.softmax(logits, axis=-1))
    means = [probabilities[..., c][labels == c].mean() for c in range(3)]
    assert confidence(logits, labels) == pytest.approx(np.mean(means), rel=1e-5)
    as_two = np.concatenate([np.zeros_like(logits[..., :1]), logits[..., :1]], axis=-1)
    binary = (logits[..., 0] > 0).astype(int)
    assert confidence(as_two, binary) == pytest.approx(confidence(logits[..., :1], binary))


def test_confidence_is_finite_for_logits_of_any_size_and_undefined_for_nan():
    extreme = np.array([[1e4, -1e4]], np.float32)[..., None]
    assert confidence(extreme, np.array([[1, 0]])) == 1
    assert confidence(extreme, np.array([[0, 1]])) == pytest.approx(0, abs=1e-30)
    assert np.isnan(confidence(np.full((1, 2, 1), np.nan, np.float32), np.array([[1, 0]])))
