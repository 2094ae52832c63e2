"""The losses agree with the libraries that also have them, in value and in gradient."""

import functools
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxseg import losses

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
torch: Any = pytest.importorskip("torch", reason="parity with PyTorch needs torch")

SHAPE = (3, 13, 10)
CHANNELS = {"binary": 1, "two classes": 2, "multiclass": 4, "multilabel": 4}


def logits_of(channels: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (2 * rng.normal(size=(*SHAPE, channels))).astype(np.float32)


def draw(kind: str) -> tuple[np.ndarray, np.ndarray, Any]:
    """Logits, labels with every class in every image, and one-hot labels for torch."""
    channels, rng = CHANNELS[kind], np.random.default_rng(5)
    if kind == "multilabel":
        labels = rng.integers(0, 2, (*SHAPE, channels)).astype(np.int32)
        return logits_of(channels), labels, channels_first(labels.astype(np.float32))
    labels = rng.integers(0, max(channels, 2), SHAPE).astype(np.int32)
    return logits_of(channels), labels, channels_first(one_hot(labels, channels))


def draw_soft(kind: str) -> tuple[np.ndarray, np.ndarray, Any]:
    """The same with probabilities as labels."""
    channels, rng = CHANNELS[kind], np.random.default_rng(7)
    if kind == "multiclass":
        labels = rng.dirichlet(np.ones(channels), SHAPE).astype(np.float32)
    else:
        labels = rng.uniform(size=(*SHAPE, channels)).astype(np.float32)
    return logits_of(channels), labels, channels_first(labels)


def draw_blobs(channels: int) -> tuple[np.ndarray, np.ndarray, Any]:
    """Masks with an inside and an outside, and one image of a single class."""
    rows, columns = np.mgrid[: SHAPE[1], : SHAPE[2]]
    labels = np.zeros(SHAPE, np.int32)
    labels[0] = (rows - 6) ** 2 + (columns - 4) ** 2 < 14
    labels[1] = np.minimum(columns // 3, max(channels, 2) - 1)
    return logits_of(channels), labels, channels_first(one_hot(labels, channels))


def channels_first(array: np.ndarray) -> Any:
    return torch.tensor(np.moveaxis(array, -1, 1).copy())


def one_hot(labels: np.ndarray, channels: int) -> np.ndarray:
    return np.eye(max(channels, 2), dtype=np.float32)[labels][..., -channels:]


def class_ids(labels: np.ndarray) -> Any:
    return torch.tensor(labels).long()


@functools.cache
def compiled(loss: str | Callable[..., jax.Array], **static: bool) -> Any:
    """Value and gradient of its sum. Numbers are arguments, so that any number is compiled once."""
    function = getattr(losses, loss) if isinstance(loss, str) else loss

    @jax.jit
    def value_and_gradient(logits: Any, labels: Any, options: Any) -> Any:
        value, pull_back = jax.vjp(lambda x: function(x, labels, **static, **options), logits)
        return value, *pull_back(jnp.ones_like(value))

    return value_and_gradient


def ours(
    loss: str | Callable[..., jax.Array], logits: Any, labels: Any, **options: Any
) -> tuple[jax.Array, jax.Array]:
    static = {name: True for name in ("pooled", "multilabel") if options.pop(name, False)}
    numbers = {name: np.float32(value) for name, value in options.items() if value is not None}
    return compiled(loss, **static)(logits, labels, numbers)


def assert_agrees(
    loss: str | Callable[..., jax.Array],
    theirs: Callable[..., Any],
    logits: np.ndarray,
    labels: np.ndarray,
    target: Any,
    gradient_tolerance: float = 1e-5,
    **options: Any,
) -> None:
    """Compares values, and gradients of their sum by the largest of them."""
    tensor = channels_first(logits).requires_grad_()
    their_value = theirs(tensor, target)
    their_value.sum().backward()
    their_gradient = np.moveaxis(tensor.grad.numpy(), 1, -1)
    value, gradient = ours(loss, logits, labels, **options)
    np.testing.assert_allclose(value, their_value.detach().numpy(), rtol=1e-5)
    largest = np.abs(their_gradient).max()
    assert largest > 0
    np.testing.assert_allclose(gradient, their_gradient, rtol=0, atol=gradient_tolerance * largest)


def smp_loss(name: str, kind: str, **options: Any) -> Callable[..., Any]:
    """A loss of segmentation_models_pytorch on logits and one-hot targets."""
    smp = pytest.importorskip("segmentation_models_pytorch", reason="parity with smp")
    loss = getattr(smp.losses, name)(kind, **options)
    if kind == "multiclass":
        return lambda logits, target: loss(logits, target.argmax(1))
    return loss


def monai_loss(name: str, kind: str, **options: Any) -> Callable[..., Any]:
    """A MONAI loss on logits and one-hot targets, ``[B]``; with ``batch=True`` a scalar."""
    monai = pytest.importorskip("monai.losses", reason="parity with MONAI")
    activation = "sigmoid" if kind in ("binary", "multilabel") else "softmax"
    if name == "FocalLoss":
        activation = "use_softmax"
        options["use_softmax"] = kind == "multiclass"
    loss = getattr(monai, name)(reduction="none", **{activation: True} | options)
    rows = 1 if options.get("batch") else SHAPE[0]
    return lambda logits, target: loss(logits, target).reshape(rows, -1).mean(1).squeeze()


# Overlap.

MONAI_OVERLAP_LOSSES: dict[str, Any] = {
    "soft_dice": ({"smooth": 1e-5}, "DiceLoss", {}),
    "jaccard": (
        {"smooth": 1e-5},
        "DiceLoss",
        {"jaccard": True, "smooth_nr": 2e-5, "smooth_dr": 2e-5},
    ),
    "tversky": (
        {"alpha": 0.2, "beta": 0.9, "smooth": 0.5},
        "TverskyLoss",
        {"alpha": 0.2, "beta": 0.9, "smooth_nr": 0.5, "smooth_dr": 0.5},
    ),
    # MONAI's smoothing is not scaled with its weights, which are of the size of 1 / T^2.
    "generalized_dice": (
        {"smooth": 0.0},
        "GeneralizedDiceLoss",
        {"smooth_nr": 0.0, "smooth_dr": 0.0},
    ),
    "matthews": ({"smooth": 0.0}, "MCCLoss", {}),
}
"""Our options, MONAI's class and its options."""


@pytest.mark.parametrize(
    ("loss", "kind", "pooled"),
    [
        *((loss, "binary", True) for loss in ("soft_dice", "jaccard", "tversky", "matthews")),
        *((loss, "multiclass", False) for loss in MONAI_OVERLAP_LOSSES),
        *((loss, "multilabel", True) for loss in MONAI_OVERLAP_LOSSES),
        ("generalized_dice", "two classes", False),
    ],
)
def test_overlap_losses_agree_with_monai(loss, kind, pooled):
    options, name, theirs = MONAI_OVERLAP_LOSSES[loss]
    options = options | {"pooled": pooled, "multilabel": kind == "multilabel"}
    assert_agrees(loss, monai_loss(name, kind, batch=pooled, **theirs), *draw(kind), **options)


@pytest.mark.parametrize("kind", ["binary", "multiclass"])
@pytest.mark.parametrize(
    ("loss", "name", "options"),
    [("soft_dice", "DiceLoss", {}), ("tversky", "TverskyLoss", {"alpha": 0.3, "beta": 0.7})],
)
def test_overlap_losses_on_probabilities_agree_with_monai_soft_label(loss, name, options, kind):
    """MONAI's default there, the product p t, is not least at p = t; its soft_label=True is."""
    theirs = monai_loss(name, kind, soft_label=True, **options)
    assert_agrees(loss, theirs, *draw_soft(kind), smooth=1e-5, **options)


TVERSKY = {"alpha": 0.2, "beta": 0.9, "smooth": 0.5}


@pytest.mark.parametrize(
    ("loss", "options", "name", "their_options", "kind"),
    [
        (*case, kind)
        for case in [
            ("soft_dice", {"smooth": 0.0}, "DiceLoss", {}),
            # Its Dice is the Tversky index at 0.5 and 0.5, so that its smoothing counts twice.
            ("soft_dice", {"smooth": 2.0}, "DiceLoss", {"smooth": 1.0}),
            ("jaccard", {"smooth": 0.5}, "JaccardLoss", {"smooth": 0.5}),
            ("tversky", TVERSKY, "TverskyLoss", TVERSKY),
        ]
        for kind in ("binary", "multiclass")
    ]
    + [
        ("soft_dice", {"smooth": 0.0, "multilabel": True}, "DiceLoss", {}, "multilabel"),
        (
            "soft_dice",
            {"smooth": 0.0, "class_weights": [0.0, 1.0, 2.0, 0.5]},
            "DiceLoss",
            {"class_weights": [0.0, 1.0, 2.0, 0.5]},
            "multiclass",
        ),
        (
            "focal_tversky",
            {},
            "TverskyLoss",
            {"alpha": 0.3, "beta": 0.7, "gamma": 0.75, "smooth": 1.0},
            "binary",
        ),
    ],
)
def test_overlap_losses_agree_with_smp(loss, options, name, their_options, kind):
    theirs = smp_loss(name, kind, **their_options)
    assert_agrees(loss, theirs, *draw(kind), pooled=True, **options)


def test_an_absent_class_has_loss_0_in_smp_and_its_false_positives_here():
    logits, labels, _ = draw("multiclass")
    labels = np.where(labels == 3, 0, labels)
    target = channels_first(one_hot(labels, 4))
    theirs = smp_loss("DiceLoss", "multiclass")(channels_first(logits), target).item()
    options = {"smooth": 0.0, "pooled": True}
    absent, _ = ours("soft_dice", logits, labels, class_weights=(0, 0, 0, 1), **options)
    np.testing.assert_allclose(absent, 1.0)
    each, _ = ours("soft_dice", logits, labels, **options)
    np.testing.assert_allclose(each, theirs + absent / 4, rtol=1e-5)


def test_focal_tversky_raises_each_class_where_smp_raises_their_mean():
    logits, labels, target = draw("multiclass")
    options = {"alpha": 0.3, "beta": 0.7, "gamma": 0.75, "smooth": 1.0}
    theirs = smp_loss("TverskyLoss", "multiclass", **options)(channels_first(logits), target)
    each = [
        ours("tversky", logits, labels, class_weights=weights, pooled=True)[0]
        for weights in np.eye(4)
    ]
    np.testing.assert_allclose(np.mean(each) ** 0.75, theirs.item(), rtol=1e-5)
    value, _ = ours("focal_tversky", logits, labels, pooled=True)
    np.testing.assert_allclose(value, np.mean(np.power(each, 0.75)), rtol=1e-5)


def test_generalized_dice_smoothing_is_monais_times_the_smallest_size_squared():
    logits, labels, target = draw("multiclass")
    smallest = np.stack([(labels == k).sum((1, 2)) for k in range(4)]).min(0)
    theirs = monai_loss("GeneralizedDiceLoss", "multiclass", smooth_nr=1e-3, smooth_dr=1e-3)(
        channels_first(logits), target
    )
    for row in range(SHAPE[0]):
        value, _ = ours("generalized_dice", logits, labels, smooth=1e-3 * smallest[row] ** 2)
        np.testing.assert_allclose(value[row], theirs[row].item(), rtol=1e-5)


def test_generalized_dice_of_a_single_channel_is_that_of_background_and_foreground():
    """MONAI takes a single channel as one class, whose weight cancels: plain Dice."""
    monai = pytest.importorskip("monai.losses", reason="parity with MONAI")
    loss = monai.GeneralizedDiceLoss(reduction="none", smooth_nr=0.0, smooth_dr=0.0)

    def theirs(tensor: Any, target: Any) -> Any:
        p = torch.sigmoid(tensor)
        return loss(torch.cat([1 - p, p], 1), torch.cat([1 - target, target], 1)).flatten()

    assert_agrees("generalized_dice", theirs, *draw("binary"), smooth=0.0)


@pytest.mark.parametrize("kind", ["binary", "multiclass"])
def test_generalized_dice_without_background_agrees_with_monai(kind):
    """MONAI takes a single channel as the foreground alone."""
    plain = {"smooth_nr": 0.0, "smooth_dr": 0.0, "include_background": kind == "binary"}
    theirs = monai_loss("GeneralizedDiceLoss", kind, **plain)
    weights = (0.0, 1.0) if kind == "binary" else (0.0, 1.0, 1.0, 1.0)
    logits, labels, _ = draw(kind)
    if kind == "multiclass":
        labels[0] = np.where(labels[0] == 3, 1, labels[0])  # absent
        labels[1] = np.where(labels[1] == 0, 2, labels[1])
    target = channels_first(one_hot(labels, CHANNELS[kind]))
    options = {"smooth": 0.0, "class_weights": weights}
    assert_agrees("generalized_dice", theirs, logits, labels, target, **options)


def test_matthews_of_a_mask_without_foreground_differs_from_monai_and_smp():
    """Few false positives have loss 1 in MONAI, and a right answer has loss 0.5 in smp."""
    smp = pytest.importorskip("segmentation_models_pytorch", reason="parity with smp")
    logits, labels = np.full((*SHAPE, 1), -40.0, np.float32), np.zeros(SHAPE, np.int32)
    target = channels_first(one_hot(labels, 1))
    theirs = smp.losses.MCCLoss()(torch.sigmoid(channels_first(logits)), target)
    np.testing.assert_allclose(theirs, 0.5, rtol=1e-3)
    np.testing.assert_allclose(ours("matthews", logits, labels)[0], 0, atol=1e-6)
    logits[:, 0, :3] = 40.0
    theirs = monai_loss("MCCLoss", "binary")(channels_first(logits), target)
    np.testing.assert_allclose(theirs, [1] * 3)
    tn = SHAPE[1] * SHAPE[2] - 3
    expected = 1 - np.sqrt((tn + 1) / (4 * (tn + 4)))
    np.testing.assert_allclose(ours("matthews", logits, labels)[0], [expected] * 3, rtol=1e-5)


def test_matthews_agrees_with_smp_up_to_its_smoothing():
    """smp takes probabilities."""
    smp = pytest.importorskip("segmentation_models_pytorch", reason="parity with smp")
    loss = smp.losses.MCCLoss(eps=0.0)

    def theirs(tensor: Any, target: Any) -> Any:
        return loss(torch.sigmoid(tensor), target)

    assert_agrees("matthews", theirs, *draw("binary"), pooled=True, smooth=0.0)


def test_balanced_class_weights_agree_with_scikit_learn():
    name = "sklearn.utils.class_weight"
    sklearn = pytest.importorskip(name, reason="parity with scikit-learn")
    _, labels, _ = draw("multiclass")
    theirs = sklearn.compute_class_weight("balanced", classes=np.arange(4), y=labels.ravel())
    weights = losses.balanced_class_weights(np.bincount(labels.ravel()))
    np.testing.assert_allclose(weights, theirs, rtol=1e-6)


@pytest.mark.parametrize("kind", ["binary", "multiclass"])
def test_log_cosh_dice_is_log_cosh_of_monais_dice(kind):
    dice = monai_loss("DiceLoss", kind, smooth_nr=1.0, smooth_dr=1.0)
    assert_agrees("log_cosh_dice", lambda x, y: dice(x, y).cosh().log(), *draw(kind))


# Pixels.


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_cross_entropy_agrees_with_torch(label_smoothing):
    logits, labels, _ = draw("multiclass")
    options = {"label_smoothing": label_smoothing}
    for weights in (None, [0.2, 1.0, 3.0, 0.0]):
        theirs = partial(
            torch.nn.functional.cross_entropy,
            weight=None if weights is None else torch.tensor(weights),
            **options,
        )
        both = options | {"class_weights": weights, "pooled": True}
        assert_agrees("cross_entropy", theirs, logits, labels, class_ids(labels), **both)
    theirs = partial(torch.nn.functional.cross_entropy, **options)
    assert_agrees("cross_entropy", theirs, *draw_soft("multiclass"), pooled=True, **options)


def test_multilabel_cross_entropy_agrees_with_torch():
    """Also on probabilities."""
    theirs = torch.nn.functional.binary_cross_entropy_with_logits
    for arrays in (draw("multilabel"), draw_soft("multilabel")):
        assert_agrees("cross_entropy", theirs, *arrays, pooled=True, multilabel=True)


@pytest.mark.parametrize("kind", ["binary", "multiclass", "multilabel"])
def test_top_k_cross_entropy_is_the_mean_of_torchs_largest(kind):
    """As in nnU-Net's TopKLoss; with several labels a pixel, the mean over the channels."""
    logits, labels, target = draw(kind)
    functional, pixels = torch.nn.functional, np.prod(SHAPE)

    def theirs(x: Any, y: Any) -> Any:
        if kind == "multiclass":
            each = functional.cross_entropy(x, y.argmax(1), reduction="none")[:, None]
        else:
            each = functional.binary_cross_entropy_with_logits(x, y, reduction="none")
        return each.transpose(0, 1).flatten(1).topk(pixels // 5).values.mean()

    options = {"fraction": 0.2, "pooled": True, "multilabel": kind == "multilabel"}
    assert_agrees("top_k_cross_entropy", theirs, logits, labels, target, **options)


def test_cross_entropy_divides_by_weights_where_torch_divides_by_pixels():
    """torch does so for class ids, but neither for probabilities nor for pos_weight."""
    logits, labels, target = draw("binary")
    theirs = torch.nn.functional.binary_cross_entropy_with_logits(
        channels_first(logits), target, pos_weight=torch.tensor([3.0])
    )
    value, _ = ours("cross_entropy", logits, labels, class_weights=(1.0, 3.0), pooled=True)
    mean_weight = np.where(labels == 1, 3.0, 1.0).mean()
    np.testing.assert_allclose(value * mean_weight, theirs.item(), rtol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.05])
@pytest.mark.parametrize("kind", ["binary", "multiclass", "multilabel"])
def test_cross_entropy_agrees_with_smp(kind, smoothing):
    """smp moves binary labels by its smoothing towards the other; here half of it is kept."""
    smp = pytest.importorskip("segmentation_models_pytorch", reason="parity with smp")
    logits, labels, target = draw(kind)
    options = {"pooled": True, "multilabel": kind == "multilabel"}
    if kind == "multiclass":
        theirs = smp.losses.SoftCrossEntropyLoss(smooth_factor=2 * smoothing)
        target = class_ids(labels)
    else:
        theirs = smp.losses.SoftBCEWithLogitsLoss(smooth_factor=smoothing)
    options |= {"label_smoothing": 2 * smoothing}
    assert_agrees("cross_entropy", theirs, logits, labels, target, **options)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 3.5])
@pytest.mark.parametrize(
    ("kind", "alpha"),
    [(kind, alpha) for kind in ("binary", "multiclass", "multilabel") for alpha in (None, 0.25)]
    + [(kind, [0.5, 1.0, 2.0, 0.0]) for kind in ("multiclass", "multilabel")],
)
def test_focal_agrees_with_monai_smp_and_optax(kind, alpha, gamma):
    """MONAI takes the mean over classes too, of which all but one are 0 at each pixel.

    smp has one alpha for all channels, and K sigmoids for K classes. optax is binary.
    """
    logits, labels, target = draw(kind)
    both = {"gamma": gamma, "alpha": alpha}
    options = both | {"multilabel": kind == "multilabel"}
    monai, times = monai_loss("FocalLoss", kind, **both), 4 if kind == "multiclass" else 1
    assert_agrees("focal", lambda x, y: times * monai(x, y), logits, labels, target, **options)
    if kind != "multiclass" and not isinstance(alpha, list):
        smp = smp_loss("FocalLoss", kind, **both)
        assert_agrees("focal", smp, logits, labels, target, pooled=True, **options)
    if kind == "binary" and not isinstance(alpha, list):
        each = optax.losses.sigmoid_focal_loss(logits[..., 0], labels, gamma=gamma, alpha=alpha)
        value, _ = ours("focal", logits, labels, **options)
        np.testing.assert_allclose(value, each.mean((1, 2)), rtol=1e-5)


def test_focal_on_probabilities_agrees_with_monai_over_classes():
    loss = monai_loss("FocalLoss", "multiclass")
    assert_agrees("focal", lambda x, y: 4 * loss(x, y), *draw_soft("multiclass"))


# Lovász.


@pytest.mark.parametrize("pooled", [False, True])
def test_lovasz_losses_agree_with_smp(pooled):
    """smp subtracts numbers near 1, so its gradients have an error of 1e-7 whatever their size."""

    def mean(name: str, logits: Any, labels: Any) -> jax.Array:
        return getattr(losses, name)(logits, labels, pooled=pooled).mean()

    hinge, softmax = (
        smp_loss("LovaszLoss", kind, per_image=not pooled) for kind in ("binary", "multiclass")
    )
    assert_agrees(partial(mean, "lovasz_hinge"), hinge, *draw("binary"), gradient_tolerance=5e-5)
    logits, labels, _ = draw("multiclass")
    # A class that is in one image but not in another.
    labels[0] = np.where(labels[0] == 2, 1, labels[0])
    target = channels_first(one_hot(labels, 4))
    assert_agrees(partial(mean, "lovasz_softmax"), softmax, logits, labels, target)


def test_multilabel_lovasz_hinge_takes_channels_apart_where_smp_takes_them_as_one_image():
    logits, labels, target = draw("multilabel")
    binary = smp_loss("LovaszLoss", "binary", per_image=True)
    assert_agrees(
        lambda x, y: losses.lovasz_hinge(x, y, multilabel=True).mean(),
        lambda x, y: torch.stack([binary(x[:, k], y[:, k]) for k in range(4)]).mean(),
        logits,
        labels,
        target,
        gradient_tolerance=5e-5,
    )
    together = logits.reshape(SHAPE[0], -1, 1, 1), labels.reshape(SHAPE[0], -1, 1)
    theirs = smp_loss("LovaszLoss", "multilabel", per_image=True)(channels_first(logits), target)
    value, _ = ours("lovasz_hinge", *together)
    np.testing.assert_allclose(value.mean(), theirs.item(), rtol=1e-5)


# Distances.

HAUSDORFF = {"include_background": True}


@pytest.mark.parametrize(
    ("loss", "options", "name", "their_options", "kind"),
    [
        ("boundary", {}, "BoundaryLoss", {}, "binary"),
        ("boundary", {}, "BoundaryLoss", {}, "multiclass"),
        ("boundary", {}, "BoundaryLoss", {}, "multilabel"),
        *(
            ("hausdorff_dt", {"alpha": a}, "HausdorffDTLoss", HAUSDORFF | {"alpha": a}, kind)
            for a, kind in [
                (1.0, "binary"),
                (2.0, "binary"),
                (1.0, "multiclass"),
                (2.0, "multiclass"),
                (2.0, "multilabel"),
            ]
        ),
        # MONAI's default leaves the background out.
        (
            "hausdorff_dt",
            {"class_weights": (0.0, 1.0, 1.0)},
            "HausdorffDTLoss",
            {},
            "multiclass",
        ),
    ],
)
def test_distance_losses_agree_with_monai(loss, options, name, their_options, kind):
    channels = 1 if kind == "binary" else 3
    logits, labels, target = draw_blobs(channels)
    if kind == "multilabel":
        labels = one_hot(labels, channels).astype(np.int32)
        options = options | {"multilabel": True}
    theirs = monai_loss(name, kind, **their_options)
    assert_agrees(loss, theirs, logits, labels, target, **options)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_pooled_boundary_loss_is_the_mean_of_monais(channels):
    theirs = monai_loss("BoundaryLoss", "binary" if channels == 1 else "multiclass")
    arrays = draw_blobs(channels)
    assert_agrees("boundary", lambda x, y: theirs(x, y).mean(), *arrays, pooled=True)


# Centerlines.


@pytest.mark.parametrize("iterations", [0, 1, 4])
def test_the_soft_skeleton_is_monais(iterations):
    cldice = pytest.importorskip("monai.losses.cldice", reason="parity with MONAI")
    images = np.random.default_rng(0).random((*SHAPE, 2), np.float32)
    theirs = cldice.soft_skel(channels_first(images), iterations)
    found = losses.soft_skeleton(np.moveaxis(images, -1, 1), iterations=iterations)
    np.testing.assert_allclose(found, theirs, atol=1e-6)


def test_soft_cl_dice_agrees_with_monai():
    """MONAI adds a number above 0 to the sum of precision and sensitivity."""
    theirs = monai_loss("SoftclDiceLoss", "binary", smooth=1e-9)
    assert_agrees("soft_cl_dice", theirs, *draw_blobs(1))


def test_soft_cl_dice_is_a_mean_over_classes_where_monai_adds_their_pixels():
    logits, labels, target = draw_blobs(3)
    theirs = monai_loss("SoftclDiceLoss", "multiclass", smooth=1e-9)
    one = np.eye(3)[1]  # The class alone, as MONAI has it when it is the only channel.
    value, _ = ours("soft_cl_dice", logits, labels, class_weights=one)
    single = monai_loss("SoftclDiceLoss", "binary", smooth=1e-9, sigmoid=False)
    p = torch.softmax(channels_first(logits), 1)
    np.testing.assert_allclose(value, single(p[:, 1:2], target[:, 1:2]), rtol=1e-5)
    every, _ = ours("soft_cl_dice", logits, labels)
    assert not np.allclose(every, theirs(channels_first(logits), target), rtol=1e-2)


# Composition.


def test_combined_dice_and_cross_entropy_agree_with_monai():
    monai = pytest.importorskip("monai.losses", reason="parity with MONAI")
    theirs = monai.DiceCELoss(softmax=True, lambda_dice=2.0, lambda_ce=0.5)
    loss = losses.combine({partial(losses.soft_dice, smooth=1e-5): 2.0, losses.cross_entropy: 0.5})
    assert_agrees(lambda x, y: loss(x, y).mean(), theirs, *draw("multiclass"))


def test_deep_supervision_agrees_with_monai():
    monai = pytest.importorskip("monai.losses", reason="parity with MONAI")
    rng = np.random.default_rng(1)
    levels = [
        rng.normal(size=(3, *size, 1)).astype(np.float32) for size in [(13, 10), (7, 5), (3, 3)]
    ]
    _, labels, target = draw("binary")
    loss = monai.DiceLoss(sigmoid=True, smooth_nr=1.0, smooth_dr=1.0)
    theirs = monai.DeepSupervisionLoss(loss)([channels_first(level) for level in levels], target)
    value = jax.jit(losses.deep_supervision(losses.soft_dice))(levels, labels)
    np.testing.assert_allclose(value.mean(), theirs.item(), rtol=1e-5)
