"""The losses of the library, each with its formula in NumPy, one image at a time.

To add a loss: export it in `jaxseg.losses`, add its formula to `FORMULAS` here and its value to
`test_an_image_of_4096_by_4096_loses_no_pixel`. If it sorts pixels, add it to `SORTING_LOSSES`; if
it needs their positions, to `POSITION_LOSSES`. All other tests find it in `jaxseg.losses`.
"""

import functools
import inspect
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from jaxseg import losses

Loss = Callable[..., jax.Array]


def has_option(name: str, option: str) -> bool:
    return option in inspect.signature(getattr(losses, name)).parameters


LOSSES: dict[str, Loss] = {
    name: function
    for name in losses.__all__
    if list(inspect.signature(function := getattr(losses, name)).parameters)[:2]
    == ["logits", "labels"]
}
CHANNELS = {name: (1,) if name == "lovasz_hinge" else (1, 3) for name in LOSSES}


def slow_but(quick: set[str], names: Iterable[str]) -> list[Any]:
    """The names as parameters, marked slow but for some."""
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in names]


EACH_LOSS = pytest.mark.parametrize(
    ("name", "channels"), [(name, k) for name in LOSSES for k in CHANNELS[name]]
)
MULTILABEL = [name for name in LOSSES if has_option(name, "multilabel")]
CLASS_IDS_ONLY = {"lovasz_hinge", "lovasz_softmax"}
SORTING_LOSSES = {"lovasz_hinge", "lovasz_softmax", "top_k_cross_entropy"}
DISTANCE_LOSSES = {"boundary", "hausdorff_dt"}
POSITION_LOSSES = DISTANCE_LOSSES | {"soft_cl_dice"}

# One shape for all tests, so that each loss is compiled once for them.
SHAPE = (8, 6, 5)


def draw(channels: int, seed: int = 0) -> Any:
    """Random logits, labels and ``where``."""
    rng = np.random.default_rng(seed)
    logits = (2 * rng.normal(size=(*SHAPE, channels))).astype(np.float32)
    labels = rng.integers(0, max(channels, 2), SHAPE).astype(np.int32)
    return logits, labels, rng.random(SHAPE) < 0.7


def as_probabilities(labels: np.ndarray, channels: int) -> np.ndarray:
    return np.eye(max(channels, 2), dtype=np.float32)[labels][..., -channels:]


@functools.cache
def jitted(name: str, **options: Any) -> Loss:
    """The loss with options, compiled once for all tests with arrays of the same shape."""
    return jax.jit(partial(LOSSES[name], **options))


@functools.cache
def derivatives(name: str, **options: Any) -> Callable[..., tuple[np.ndarray, ...]]:
    """Values ``[B]``, the gradient of their sum, and the Hessian times a direction."""
    loss = partial(LOSSES[name], **options)

    @jax.jit
    def compiled(logits: Any, labels: Any, where: Any) -> Any:
        def total(logits: jax.Array) -> Any:
            value = loss(logits, labels, where=where)
            return value.sum(), value

        direction = np.sin(np.arange(logits.size)).reshape(logits.shape)
        gradient = jax.grad(total, has_aux=True)
        (first, value), (second, _) = jax.jvp(
            gradient, (logits,), (jnp.asarray(direction, logits.dtype),)
        )
        return value, first, second

    return lambda *arrays: jax.device_get(compiled(*arrays))


def compiled(name: str, **options: Any) -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """Values ``[B]`` and the gradient of their sum; ``where`` as weights, which saves compiling."""

    def both(logits: Any, labels: Any, where: Any) -> tuple[np.ndarray, np.ndarray]:
        value, gradient, _ = derivatives(name, **options)(logits, labels, np.float32(where))
        return value, gradient

    return both


# One image's valid pixels in float64: probabilities p and targets t as [N, K].


def overlap(p: np.ndarray, t: np.ndarray) -> Any:
    return (p * t).sum(0), (p * (1 - t)).sum(0), ((1 - p) * t).sum(0)


def both_classes(p: np.ndarray) -> np.ndarray:
    return p if p.shape[-1] > 1 else np.concatenate([1 - p, p], -1)


def dice_formula(p: np.ndarray, t: np.ndarray) -> float:
    tp, fp, fn = overlap(p, t)
    return float((1 - (2 * tp + 1) / (2 * tp + fp + fn + 1)).mean())


def jaccard_formula(p: np.ndarray, t: np.ndarray) -> float:
    tp, fp, fn = overlap(p, t)
    return float((1 - (tp + 1) / (tp + fp + fn + 1)).mean())


def tversky_formula(p: np.ndarray, t: np.ndarray, gamma: float = 1.0) -> float:
    tp, fp, fn = overlap(p, t)
    return float(np.mean((1 - (tp + 1) / (tp + 0.3 * fp + 0.7 * fn + 1)) ** gamma))


def generalized_dice_formula(p: np.ndarray, t: np.ndarray) -> float:
    p, t = both_classes(p), both_classes(t)
    tp, fp, fn = overlap(p, t)
    sizes = t.sum(0)
    smallest = sizes[sizes > 0].min()
    weights = np.array([1.0 if size == 0 else (smallest / size) ** 2 for size in sizes])
    return float(1 - (2 * weights @ tp + 1) / (weights @ (2 * tp + fp + fn) + 1))


def cross_entropy_formula(p: np.ndarray, t: np.ndarray) -> float:
    return float(-(both_classes(t) * np.log(both_classes(p))).sum(-1).mean())


def top_k_formula(p: np.ndarray, t: np.ndarray) -> float:
    """The mean of the largest tenth; the last pixel may count in part."""
    each = np.sort(-(both_classes(t) * np.log(both_classes(p))).sum(-1))[::-1]
    size = 0.1 * len(each)
    whole = int(size)
    part = (size - whole) * each[whole] if whole < len(each) else 0.0
    return float((each[:whole].sum() + part) / size)


def matthews_formula(p: np.ndarray, t: np.ndarray) -> float:
    """One minus the correlation of a table with one pixel more of each right outcome."""
    tp, fp, fn = overlap(p, t)
    tp, tn = tp + 1, ((1 - p) * (1 - t)).sum(0) + 1
    roots = np.sqrt(tp + fp) * np.sqrt(tp + fn) * np.sqrt(tn + fp) * np.sqrt(tn + fn)
    return float(np.mean(1 - (tp * tn - fp * fn) / roots))


def focal_formula(p: np.ndarray, t: np.ndarray) -> float:
    p, t = both_classes(p), both_classes(t)
    return float(-(t * (1 - p) ** 2 * np.log(p)).sum(-1).mean())


def lovasz_formula(errors: np.ndarray, foreground: np.ndarray) -> float:
    """Pixels turn wrong one by one in the order of descending error."""
    actual = {i for i in range(len(errors)) if foreground[i]}
    wrong: set[int] = set()
    before, total = 0.0, 0.0
    for i in map(int, np.argsort(-errors)):
        wrong.add(i)
        predicted = actual ^ wrong
        after = 1 - len(actual & predicted) / len(actual | predicted)
        total += float(errors[i]) * (after - before)
        before = after
    return total


def lovasz_hinge_formula(p: np.ndarray, t: np.ndarray) -> float:
    logits = np.log(p / (1 - p))[:, 0]
    errors = np.maximum(0, 1 - logits * (2 * t[:, 0] - 1))
    return lovasz_formula(errors, t[:, 0] == 1)


def lovasz_softmax_formula(p: np.ndarray, t: np.ndarray) -> float:
    p, t = both_classes(p), both_classes(t)
    return float(
        np.mean(
            [
                lovasz_formula(np.abs(t[:, k] - p[:, k]), t[:, k] == 1)
                for k in range(p.shape[1])
                if t[:, k].any()
            ]
        )
    )


def edge_distances(at: np.ndarray, inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each pixel's distance to the nearest one inside and to the nearest one outside."""
    apart = np.linalg.norm(at[:, None] - at[None], axis=-1)
    if inside.all() or not inside.any():
        return np.zeros(len(at)), np.zeros(len(at))
    return apart[:, inside].min(1), apart[:, ~inside].min(1)


def boundary_formula(p: np.ndarray, t: np.ndarray, at: np.ndarray, weights: np.ndarray) -> float:
    means = []
    for k in range(p.shape[1]):
        inside = t[:, k] == 1
        to_inside, to_outside = edge_distances(at, inside)
        has_edge = inside.any() and not inside.all()
        field = np.where(inside, 1 - to_outside, to_inside) if has_edge else np.zeros(len(at))
        means.append(np.average(p[:, k] * field, weights=weights))
    return float(np.mean(means))


def hausdorff_formula(p: np.ndarray, t: np.ndarray, at: np.ndarray, weights: np.ndarray) -> float:
    means = []
    for k in range(p.shape[1]):
        predicted = sum(edge_distances(at, p[:, k] > 0.5)) ** 2
        actual = sum(edge_distances(at, t[:, k] == 1)) ** 2
        errors = (p[:, k] - t[:, k]) ** 2 * (predicted + actual)
        means.append(np.average(errors, weights=weights))
    return float(np.mean(means))


CROSS = ndimage.generate_binary_structure(2, 1)


def soft_skeleton_formula(image: np.ndarray, valid: np.ndarray, iterations: int) -> np.ndarray:
    """Algorithm 1 of the paper on one image, with the filters of SciPy."""

    def eroded(x: np.ndarray) -> np.ndarray:
        x = np.where(valid, x, np.inf)
        return ndimage.minimum_filter(x, footprint=CROSS, mode="constant", cval=np.inf)

    def opened(x: np.ndarray) -> np.ndarray:
        x = np.where(valid, eroded(x), -np.inf)
        return ndimage.maximum_filter(x, size=3, mode="constant", cval=-np.inf)

    skeleton = np.where(valid, np.maximum(0, image - opened(image)), 0)
    for _ in range(iterations):
        image = np.where(valid, eroded(image), 0)
        skeleton += (1 - skeleton) * np.where(valid, np.maximum(0, image - opened(image)), 0)
    return skeleton


def cl_dice_formula(
    p: np.ndarray, t: np.ndarray, at: np.ndarray, weights: np.ndarray, smooth: float = 1.0
) -> float:
    grid = tuple(at.max(0) + 1)
    valid = np.zeros(grid, bool)
    valid[tuple(at.T)] = True

    def covered(skeleton_of: np.ndarray, mask: np.ndarray) -> float:
        image = np.zeros(grid)
        image[tuple(at.T)] = skeleton_of
        skeleton = soft_skeleton_formula(image, valid, 3)[tuple(at.T)] * weights
        return ((skeleton * mask).sum() + smooth) / (skeleton.sum() + smooth)

    means = []
    for k in range(p.shape[1]):
        one, two = covered(p[:, k], t[:, k]), covered(t[:, k], p[:, k])
        means.append(2 / (1 / one + 1 / two))
    return float(1 - np.mean(means))


FORMULAS: dict[str, Callable[..., float]] = {
    "soft_dice": dice_formula,
    "log_cosh_dice": lambda p, t: float(np.log(np.cosh(dice_formula(p, t)))),
    "jaccard": jaccard_formula,
    "tversky": tversky_formula,
    "focal_tversky": partial(tversky_formula, gamma=0.75),
    "generalized_dice": generalized_dice_formula,
    "matthews": matthews_formula,
    "cross_entropy": cross_entropy_formula,
    "top_k_cross_entropy": top_k_formula,
    "focal": focal_formula,
    "lovasz_hinge": lovasz_hinge_formula,
    "lovasz_softmax": lovasz_softmax_formula,
    "boundary": boundary_formula,
    "hausdorff_dt": hausdorff_formula,
    "soft_cl_dice": cl_dice_formula,
}


def by_formula(name: str, logits: np.ndarray, labels: np.ndarray, where: np.ndarray) -> list[float]:
    """Each image's loss on its valid pixels alone, each as often as its integer weight says."""
    assert name in FORMULAS, f"add the NumPy formula of {name} to FORMULAS"
    logits = logits.astype(np.float64)
    channels = logits.shape[-1]
    if channels == 1:
        p, t = 1 / (1 + np.exp(-logits)), labels[..., None].astype(float)
    else:
        p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        t = np.eye(channels)[labels]
    places = np.moveaxis(np.indices(where.shape[1:]), 0, -1)
    values = []
    for row, at in enumerate(where > 0):
        weights = where[row][at].astype(int)
        if name in POSITION_LOSSES:
            values.append(FORMULAS[name](p[row][at], t[row][at], places[at], weights))
        else:
            repeated = (np.repeat(x[row][at], weights, axis=0) for x in (p, t))
            values.append(FORMULAS[name](*repeated))
    return values
