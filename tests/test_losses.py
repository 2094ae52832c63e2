"""Every loss keeps the contract: its formula, finite everywhere, clear about what does not fit."""

import functools
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import losses

Loss = Callable[..., jax.Array]

LOSSES: dict[str, Loss] = {
    name: function
    for name in losses.__all__
    if list(inspect.signature(function := getattr(losses, name)).parameters)[:2]
    == ["logits", "labels"]
}
CHANNELS = {name: (1,) if name == "lovasz_hinge" else (1, 3) for name in LOSSES}
EACH_LOSS = pytest.mark.parametrize(
    ("name", "channels"),
    [(name, channels) for name in LOSSES for channels in CHANNELS[name]],
)
CLASS_IDS_ONLY = {"lovasz_hinge", "lovasz_softmax"}


SHAPE = (4, 9, 7)


def has_option(name: str, option: str) -> bool:
    return option in inspect.signature(LOSSES[name]).parameters


def draw(channels: int, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    logits = (2 * rng.normal(size=(*SHAPE, channels))).astype(np.float32)
    labels = rng.integers(0, max(channels, 2), SHAPE).astype(np.int32)
    where = rng.random(SHAPE) < 0.7
    return logits, labels, where


def as_probabilities(labels: np.ndarray, channels: int) -> np.ndarray:
    return np.eye(max(channels, 2), dtype=np.float32)[labels][..., -channels:]


@functools.cache
def compiled(name: str, **options: Any) -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """Values ``[B]`` and the gradient of their sum; compiled once for all tests."""
    loss = partial(LOSSES[name], **options)

    @jax.jit
    def both(logits: Any, labels: Any, where: Any) -> tuple[jax.Array, jax.Array]:
        value, pull_back = jax.vjp(lambda x: loss(x, labels, where=where), logits)
        return value, pull_back(jnp.ones_like(value))[0]

    return lambda *arrays: jax.device_get(both(*arrays))


# Oracles: one image's counted pixels in float64, probabilities p and targets t as [N, K].


def overlap(p: np.ndarray, t: np.ndarray) -> Any:
    return (p * t).sum(0), (p * (1 - t)).sum(0), ((1 - p) * t).sum(0)


def both_classes(p: np.ndarray) -> np.ndarray:
    return p if p.shape[-1] > 1 else np.concatenate([1 - p, p], -1)


def dice_oracle(p: np.ndarray, t: np.ndarray) -> float:
    tp, fp, fn = overlap(p, t)
    return float((1 - (2 * tp + 1) / (2 * tp + fp + fn + 1)).mean())


def jaccard_oracle(p: np.ndarray, t: np.ndarray) -> float:
    tp, fp, fn = overlap(p, t)
    return float((1 - (tp + 1) / (tp + fp + fn + 1)).mean())


def tversky_oracle(p: np.ndarray, t: np.ndarray, gamma: float = 1.0) -> float:
    tp, fp, fn = overlap(p, t)
    return float(((1 - (tp + 1) / (tp + 0.3 * fp + 0.7 * fn + 1)) ** gamma).mean())


def generalized_dice_oracle(p: np.ndarray, t: np.ndarray) -> float:
    p, t = both_classes(p), both_classes(t)
    tp, fp, fn = overlap(p, t)
    sizes = t.sum(0)
    smallest = sizes[sizes > 0].min()
    weights = np.array([1.0 if size == 0 else (smallest / size) ** 2 for size in sizes])
    return float(1 - (2 * weights @ tp + 1) / (weights @ (2 * tp + fp + fn) + 1))


def cross_entropy_oracle(p: np.ndarray, t: np.ndarray) -> float:
    return float(-(both_classes(t) * np.log(both_classes(p))).sum(-1).mean())


def focal_oracle(p: np.ndarray, t: np.ndarray) -> float:
    p, t = both_classes(p), both_classes(t)
    return float(-(t * (1 - p) ** 2 * np.log(p)).sum(-1).mean())


def lovasz_oracle(errors: np.ndarray, foreground: np.ndarray) -> float:
    """Pixels turn wrong one by one in the order of falling error."""
    order = np.argsort(-errors)
    wrong: set[int] = set()
    truth = {i for i in range(len(errors)) if foreground[i]}
    before, total = 0.0, 0.0
    for i in order:
        wrong.add(int(i))
        predicted = truth ^ wrong
        union = truth | predicted
        after = 1 - len(truth & predicted) / len(union)
        total += errors[i] * (after - before)
        before = after
    return total


def lovasz_hinge_oracle(p: np.ndarray, t: np.ndarray) -> float:
    logits = np.log(p / (1 - p))[:, 0]
    errors = np.maximum(0, 1 - logits * (2 * t[:, 0] - 1))
    return lovasz_oracle(errors, t[:, 0] == 1)


def lovasz_softmax_oracle(p: np.ndarray, t: np.ndarray) -> float:
    p, t = both_classes(p), both_classes(t)
    return float(
        np.mean(
            [
                lovasz_oracle(np.abs(t[:, k] - p[:, k]), t[:, k] == 1)
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


def boundary_oracle(p: np.ndarray, t: np.ndarray, at: np.ndarray) -> float:
    means = []
    for k in range(p.shape[1]):
        inside = t[:, k] == 1
        to_inside, to_outside = edge_distances(at, inside)
        has_edge = inside.any() and not inside.all()
        field = np.where(inside, 1 - to_outside, to_inside) if has_edge else np.zeros(len(at))
        means.append((p[:, k] * field).mean())
    return float(np.mean(means))


def hausdorff_oracle(p: np.ndarray, t: np.ndarray, at: np.ndarray) -> float:
    means = []
    for k in range(p.shape[1]):
        predicted = sum(edge_distances(at, p[:, k] > 0.5)) ** 2
        actual = sum(edge_distances(at, t[:, k] == 1)) ** 2
        means.append(((p[:, k] - t[:, k]) ** 2 * (predicted + actual)).mean())
    return float(np.mean(means))


ORACLES: dict[str, Callable[..., float]] = {
    "soft_dice": dice_oracle,
    "log_cosh_dice": lambda p, t: float(np.log(np.cosh(dice_oracle(p, t)))),
    "jaccard": jaccard_oracle,
    "tversky": tversky_oracle,
    "focal_tversky": partial(tversky_oracle, gamma=0.75),
    "generalized_dice": generalized_dice_oracle,
    "cross_entropy": cross_entropy_oracle,
    "focal": focal_oracle,
    "lovasz_hinge": lovasz_hinge_oracle,
    "lovasz_softmax": lovasz_softmax_oracle,
    "boundary": boundary_oracle,
    "hausdorff_dt": hausdorff_oracle,
}


def oracle(name: str, logits: np.ndarray, labels: np.ndarray, where: np.ndarray) -> list[float]:
    """Each image's loss on its counted pixels alone, which is what ``where`` means."""
    logits = logits.astype(np.float64)
    channels = logits.shape[-1]
    if channels == 1:
        p, t = 1 / (1 + np.exp(-logits)), labels[..., None].astype(float)
    else:
        p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        t = np.eye(channels)[labels]
    places = np.moveaxis(np.indices(where.shape[1:]), 0, -1)
    by_place = {"boundary", "hausdorff_dt"}
    return [
        ORACLES[name](p[row][at], t[row][at], *([places[at]] if name in by_place else []))
        for row, at in enumerate(where)
    ]


@EACH_LOSS
def test_each_loss_is_its_formula_on_the_pixels_that_count(name, channels):
    logits, labels, where = draw(channels)
    labels[1] = 0
    value, _ = compiled(name)(logits, labels, where)
    assert value.dtype == np.float32
    np.testing.assert_allclose(value, oracle(name, logits, labels, where), rtol=2e-5, atol=1e-6)


@EACH_LOSS
def test_each_loss_has_the_slope_of_its_formula(name, channels):
    """Along a random direction, by central differences of the formula in float64."""
    logits, labels, where = draw(channels)
    direction = np.random.default_rng(5).normal(size=logits.shape)
    step = 1e-6 * direction
    ahead = oracle(name, logits + step, labels, where)
    behind = oracle(name, logits - step, labels, where)
    _, gradient = compiled(name)(logits, labels, where)
    expected = (np.array(ahead) - np.array(behind)) / 2e-6
    np.testing.assert_allclose((gradient * direction).sum((1, 2, 3)), expected, rtol=1e-4)


def hard_images(channels: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """What breaks losses, one image each; no pixel of the last counts."""
    rng = np.random.default_rng(0)
    mixed = rng.integers(0, max(channels, 2), SHAPE[1:])
    empty, full = np.zeros_like(mixed), np.full_like(mixed, max(channels, 2) - 1)
    small = rng.normal(size=(*SHAPE[1:], channels))
    towards = 2 * as_probabilities(mixed, channels) - 1
    ones, counted = np.ones_like(small), np.ones(SHAPE[1:], bool)
    one_pixel = np.arange(mixed.size).reshape(mixed.shape) == 7
    images = {
        "empty mask": (small, empty, counted),
        "full mask": (small, full, counted),
        "empty mask, sure of it": (-1e4 * ones, empty, counted),
        "full mask, sure of it": (1e4 * ones, full, counted),
        "right by far": (1e4 * towards, mixed, counted),
        "wrong by far": (-1e4 * towards, mixed, counted),
        "right until float32 ends": (88 * towards, mixed, counted),
        "almost nothing in an empty mask": (-88 * ones, empty, counted),
        "equal logits": (0 * ones, mixed, counted),
        "one sure pixel in an empty mask": (
            1e4 * np.where(one_pixel[..., None], 1, -1) * ones,
            empty,
            counted,
        ),
        "one pixel counts": (small, mixed, one_pixel),
        "no pixel counts": (small, mixed, ~counted),
    }
    logits, labels, where = (np.stack(part) for part in zip(*images.values(), strict=True))
    return logits.astype(np.float32), labels.astype(np.int32), where, list(images)


@pytest.mark.parametrize(
    ("name", "channels", "dtype", "options"),
    [
        (name, channels, dtype, options)
        for name in LOSSES
        for channels in CHANNELS[name]
        for dtype, options in [
            (jnp.float32, {}),
            (jnp.bfloat16, {}),
            *([(jnp.float32, {"smooth": 0.0})] if has_option(name, "smooth") else []),
        ]
    ],
)
def test_values_and_gradients_are_finite(name, channels, dtype, options):
    """A loss joins by being in `jaxseg.losses`."""
    *arrays, images = hard_images(channels)
    for first in range(0, len(images), SHAPE[0]):
        logits, labels, where = (array[first : first + SHAPE[0]] for array in arrays)
        value, gradient = compiled(name, **options)(jnp.asarray(logits, dtype), labels, where)
        assert value.dtype == np.float32
        assert gradient.dtype == dtype
        for row, image in enumerate(images[first : first + SHAPE[0]]):
            assert np.isfinite(value[row]), image
            assert np.isfinite(gradient[row].astype(np.float32)).all(), image
    assert images[-1] == "no pixel counts"
    assert value[-1] == 0
    assert not gradient[-1].any()


@EACH_LOSS
def test_pixels_that_do_not_count_may_hold_anything(name, channels):
    logits, labels, where = draw(channels)
    spoiled = np.where(where[..., None], logits, np.nan).astype(np.float32)
    value, gradient = compiled(name)(spoiled, np.where(where, labels, 255), where)
    expected_value, expected_gradient = compiled(name)(logits, labels, where)
    np.testing.assert_array_equal(value, expected_value)
    np.testing.assert_array_equal(gradient, expected_gradient)
    assert not gradient[~where].any()


@EACH_LOSS
def test_a_counted_label_outside_the_classes_makes_that_image_nan(name, channels):
    logits, labels, where = draw(channels)
    expected, _ = compiled(name)(logits, labels, where)
    for image, label in [(0, -1), (1, 3), (3, 2**31 - 1)]:
        row, column = np.argwhere(where[image])[0]
        labels[image, row, column] = label
    value, gradient = compiled(name)(logits, labels, where)
    np.testing.assert_array_equal(value, np.where(np.arange(4) == 2, expected, np.nan))
    assert np.isfinite(gradient).all()


@EACH_LOSS
def test_a_counted_probability_outside_0_and_1_makes_that_image_nan(name, channels):
    logits, labels, where = draw(channels)
    if name in CLASS_IDS_ONLY:
        with pytest.raises(TypeError, match="labels must be class ids here, got probabilities"):
            LOSSES[name](logits, as_probabilities(labels, channels))
        return
    targets = as_probabilities(labels, channels)
    value, gradient = compiled(name)(logits, targets, where)
    as_ids = compiled(name)(logits, labels, where)
    np.testing.assert_allclose(value, as_ids[0], rtol=1e-6)
    np.testing.assert_allclose(gradient, as_ids[1], atol=1e-7)
    for image, bad in [(0, -0.5), (1, 1.5), (3, np.nan)]:
        row, column = np.argwhere(where[image])[0]
        targets[image, row, column, 0] = bad
    targets[~where] = np.inf
    bad_value, gradient = compiled(name)(logits, targets, where)
    np.testing.assert_array_equal(bad_value, np.where(np.arange(4) == 2, value, np.nan))
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.bool_])
def test_labels_of_every_integer_dtype_and_boolean_masks_mean_the_same(dtype):
    logits, labels, where = draw(1)
    value, _ = compiled("cross_entropy")(logits, labels.astype(dtype), where)
    np.testing.assert_array_equal(value, compiled("cross_entropy")(logits, labels, where)[0])


def test_labels_beyond_int32_do_not_wrap_into_the_classes():
    logits, labels, _ = draw(1)
    with jax.enable_x64(True):
        value = losses.cross_entropy(logits, labels.astype(np.int64) + 2**32)
    assert np.isnan(value).all()


@EACH_LOSS
def test_low_precision_logits_cost_what_the_same_numbers_cost_in_float32(name, channels):
    logits, labels, where = draw(channels)
    low = jnp.asarray(logits, jnp.bfloat16)
    value, _ = compiled(name)(low, labels, where)
    expected, _ = compiled(name)(np.asarray(low, np.float32), labels, where)
    np.testing.assert_allclose(value, expected, rtol=1e-6)


def film_boundary(side: int) -> float:
    """The boundary loss of the film below: the background is the first column's top two pixels."""
    rows, columns = np.ogrid[:side, :side]
    field = 1 - np.hypot(np.maximum(rows - 1, 0), columns)
    field[:2, 0] = 1
    field[-1, -1] = 0
    return field.mean()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in ("cross_entropy", "soft_dice") else pytest.mark.slow)
        for name in LOSSES
    ],
)
def test_a_film_of_4096_by_4096_loses_no_pixel(name, dtype):
    """Three wrong pixels among 2^24 cost what the formula says they do."""
    side = 4096
    logits = np.full((1, side, side, 1), 100.0, np.float32)
    labels = np.ones((1, side, side), np.uint8)
    labels[0, :2, 0] = 0
    logits[0, -1, -1, 0] = -100.0
    tp, fp, fn = side * side - 3, 2, 1
    dice = (fp + fn) / (2 * tp + fp + fn + 1)
    index = (0.3 * fp + 0.7 * fn) / (tp + 0.3 * fp + 0.7 * fn + 1)
    weight = (2 / (tp + fn)) ** 2
    wrong = (1 + weight) * 3
    expected = {
        "soft_dice": lambda: dice,
        "log_cosh_dice": lambda: np.log1p(2 * np.sinh(dice / 2) ** 2),
        "jaccard": lambda: (fp + fn) / (tp + fp + fn + 1),
        "tversky": lambda: index,
        "focal_tversky": lambda: index**0.75,
        "generalized_dice": lambda: wrong / (2 * weight * tp + wrong + 1),
        "cross_entropy": lambda: 300 / side**2,
        "focal": lambda: 300 / side**2,
        # Errors of 101 and of 1; the background has two pixels and all three errors.
        "lovasz_hinge": lambda: 101 * 3 / side**2,
        "lovasz_softmax": lambda: (3 / side**2 + 1) / 2,
        "boundary": lambda: film_boundary(side),
        "hausdorff_dt": lambda: (3 + 2 * 4094**2 + 4 * 4095**2) / side**2,
    }
    assert name in expected, f"what does a film with three wrong pixels cost under {name}?"
    value = jax.jit(LOSSES[name])(jnp.asarray(logits, dtype), labels)
    np.testing.assert_allclose(value, [expected[name]()], rtol=2e-6)


CLEAR_ERRORS = {
    "integer logits": (
        TypeError,
        r"logits must be floating point, got int32",
        {"logits": np.zeros((2, 4, 4, 1), np.int32)},
    ),
    "logits without channels": (
        ValueError,
        r"logits must have shape \[B, H, W, K\] with K > 0, got \(2, 4, 4\)",
        {"logits": np.zeros((2, 4, 4), np.float32)},
    ),
    "labels of another size": (
        ValueError,
        r"labels .* shape \(2, 4, 5\) does not fit logits of shape \(2, 4, 4, 1\)",
        {"labels": np.zeros((2, 4, 5), np.int32)},
    ),
    "labels with a channel": (
        ValueError,
        r"class ids \[B, H, W\].*\(2, 4, 4, 1\) does not fit logits of shape \(2, 4, 4, 1\)",
        {"labels": np.zeros((2, 4, 4, 1), np.int32)},
    ),
    "probabilities without a channel": (
        ValueError,
        r"probabilities \[B, H, W, K\].*\(2, 4, 4\) does not fit logits of shape \(2, 4, 4, 1\)",
        {"labels": np.zeros((2, 4, 4), np.float32)},
    ),
    "complex labels": (
        TypeError,
        r"labels must be class ids or probabilities, got complex64",
        {"labels": np.zeros((2, 4, 4), np.complex64)},
    ),
    "where of another dtype": (
        TypeError,
        r"where must be boolean, got float32",
        {"where": np.ones((2, 4, 4), np.float32)},
    ),
    "where of another size": (
        ValueError,
        r"where has shape \(2, 4, 4, 1\).*logits of shape \(2, 4, 4, 1\)",
        {"where": np.ones((2, 4, 4, 1), bool)},
    ),
    "axis_name without pooled": (
        ValueError,
        r"axis_name='data' .* needs pooled=True",
        {"axis_name": "data"},
    ),
}


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize("case", CLEAR_ERRORS)
@pytest.mark.parametrize("name", LOSSES)
def test_what_does_not_fit_is_named_at_trace_time(name, case):
    error, message, wrong = CLEAR_ERRORS[case]
    arrays = {
        "logits": np.zeros((2, 4, 4, 1), np.float32),
        "labels": np.zeros((2, 4, 4), np.int32),
        "where": np.ones((2, 4, 4), bool),
    }
    options = {key: value for key, value in wrong.items() if key not in arrays}
    arrays.update({key: value for key, value in wrong.items() if key in arrays})
    with pytest.raises(error, match=message):
        jax.eval_shape(
            lambda logits, labels, where: LOSSES[name](logits, labels, where=where, **options),
            *arrays.values(),
        )


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
    ("name", "channels", "options", "message"),
    [
        ("lovasz_hinge", 3, {}, r"lovasz_hinge needs logits with K = 1, got shape \(4, 9, 7, 3\)"),
        ("cross_entropy", 3, {"class_weights": (1.0, 2.0)}, r"class_weights .*\(3,\).*\(2,\)"),
        ("cross_entropy", 1, {"class_weights": (1.0,)}, r"class_weights .*\(2,\).*\(1,\)"),
        ("soft_dice", 3, {"class_weights": (1.0, -1.0, 0.0)}, r"class_weights must not be neg"),
        ("cross_entropy", 1, {"label_smoothing": 1.5}, r"label_smoothing must be in \[0, 1\]"),
        ("soft_dice", 1, {"smooth": -1.0}, r"smooth must not be negative, got -1.0"),
        ("jaccard", 1, {"smooth": float("nan")}, r"smooth must not be negative, got nan"),
        ("tversky", 1, {"alpha": -0.1}, r"alpha must not be negative"),
        ("focal_tversky", 1, {"beta": -0.1}, r"beta must not be negative"),
        ("focal_tversky", 1, {"gamma": -0.1}, r"gamma must not be negative"),
        ("focal", 1, {"gamma": -2.0}, r"gamma must not be negative"),
        ("focal", 1, {"alpha": 1.5}, r"alpha must be in \[0, 1\], got 1.5"),
        ("focal", 3, {"alpha": (1.0, 1.0)}, r"alpha must have shape \(3,\).*got \(2,\)"),
        ("generalized_dice", 1, {"smooth": -1.0}, r"smooth must not be negative"),
        ("hausdorff_dt", 1, {"alpha": -1.0}, r"alpha must not be negative"),
        ("boundary", 1, {"spacing": (1.0, 0.0)}, r"spacing must be positive"),
    ],
)
def test_options_out_of_range_are_named(name, channels, options, message):
    logits, labels, _ = draw(channels)
    with pytest.raises(ValueError, match=message):
        LOSSES[name](logits, labels, **options)


@pytest.mark.usefixtures("unchecked_types")
def test_a_boolean_mask_needs_a_single_channel():
    with pytest.raises(TypeError, match=r"boolean only where logits have K = 1.*\(2, 4, 4, 3\)"):
        losses.soft_dice(np.zeros((2, 4, 4, 3), np.float32), np.zeros((2, 4, 4), bool))


def test_combine_is_the_weighted_sum_of_its_terms():
    logits, labels, where = draw(1)
    combined = jax.jit(
        losses.combine({losses.cross_entropy: 0.5, partial(losses.soft_dice, smooth=0.0): 2.0})
    )
    np.testing.assert_allclose(
        combined(logits, labels, where=where),
        0.5 * compiled("cross_entropy")(logits, labels, where)[0]
        + 2 * compiled("soft_dice", smooth=0.0)(logits, labels, where)[0],
        rtol=1e-6,
    )


def test_combine_hands_its_options_to_every_term():
    logits, labels, _ = draw(1)
    seen = []

    def constant(logits: Any, labels: Any, *, where: Any = None, **options: Any) -> jax.Array:
        seen.append((logits.shape, labels.shape, where, options))
        return jnp.float32(3)

    value = losses.combine({constant: 2.0})(logits, labels, pooled=True, axis_name=None)
    assert value == 6
    assert seen == [(logits.shape, labels.shape, None, {"pooled": True, "axis_name": None})]


def test_combine_refuses_no_loss_and_a_mix_of_pooled_and_per_image():
    logits, labels, _ = draw(1)
    with pytest.raises(ValueError, match="at least one loss"):
        losses.combine({})
    mixed = losses.combine({partial(losses.soft_dice, pooled=True): 1.0, losses.cross_entropy: 1.0})
    with pytest.raises(ValueError, match=r"\[\(\), \(4,\)\]"):
        jax.eval_shape(mixed, logits, labels)


def test_deep_supervision_adds_the_depths_at_their_own_sizes():
    """At a third of the size the pixel nearest to each centre is the middle one of nine."""
    fine, labels, where = draw(1)
    labels[:, 7:], where[:, 7:] = 5, False
    coarse = draw(1, seed=1)[0][:, :3, :2]
    supervised = jax.jit(losses.deep_supervision(losses.cross_entropy))
    weighted = jax.jit(losses.deep_supervision(losses.cross_entropy, weights=(0.0, 3.0)))
    rows, columns = [1, 4, 7], [1, 5]
    picked = labels[:, rows][:, :, columns], where[:, rows][:, :, columns]
    at_coarse = jax.jit(losses.cross_entropy)(coarse, picked[0], where=picked[1])
    np.testing.assert_allclose(
        supervised([fine, coarse], labels, where=where),
        compiled("cross_entropy")(fine, labels, where)[0] + 0.5 * at_coarse,
        rtol=1e-6,
    )
    targets = np.minimum(labels, 1)[..., None].astype(np.float32)
    np.testing.assert_allclose(
        weighted([fine, coarse], targets, where=where), 3 * at_coarse, rtol=1e-6
    )


def test_deep_supervision_refuses_weights_that_do_not_match_the_depths():
    fine, labels, _ = draw(1)
    supervised = losses.deep_supervision(losses.soft_dice, weights=(1.0, 0.5))
    with pytest.raises(ValueError, match="2 weights for 1 depths"):
        supervised([fine], labels)
    with pytest.raises(ValueError, match="0 depths"):
        losses.deep_supervision(losses.soft_dice)([], labels)
