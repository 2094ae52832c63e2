"""The losses agree with the libraries that also have them, in value and in gradient."""

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


def draw(num_channels: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits and class ids, every class present in every image."""
    rng = np.random.default_rng(seed)
    logits = (2 * rng.normal(size=(*SHAPE, num_channels))).astype(np.float32)
    labels = rng.integers(0, max(num_channels, 2), SHAPE).astype(np.int32)
    return logits, labels


def soft(num_channels: int) -> np.ndarray:
    rng = np.random.default_rng(7)
    if num_channels == 1:
        return rng.uniform(size=(*SHAPE, 1)).astype(np.float32)
    return rng.dirichlet(np.ones(num_channels), SHAPE).astype(np.float32)


def channels_first(array: np.ndarray) -> Any:
    return torch.tensor(np.moveaxis(array, -1, 1).copy())


def draw_multilabel(num_channels: int = 4) -> tuple[np.ndarray, np.ndarray, Any]:
    """Logits, a 0 or 1 for every channel, and the same channels first."""
    logits, _ = draw(num_channels)
    labels = np.random.default_rng(5).integers(0, 2, logits.shape).astype(np.int32)
    return logits, labels, channels_first(labels.astype(np.float32))


def one_hot(labels: np.ndarray, num_channels: int) -> np.ndarray:
    if num_channels == 1:
        return labels[..., None].astype(np.float32)
    return (labels[..., None] == np.arange(num_channels)).astype(np.float32)


def assert_agrees(
    ours: Callable[..., jax.Array],
    theirs: Callable[..., Any],
    logits: np.ndarray,
    labels: np.ndarray,
    target: Any,
    gradient_tolerance: float = 1e-5,
) -> None:
    """Compares values, and gradients of their sum by the largest of them."""
    tensor = channels_first(logits).requires_grad_()
    their_value = theirs(tensor, target)
    their_value.sum().backward()
    their_gradient = np.moveaxis(tensor.grad.numpy(), 1, -1)

    @jax.jit
    def value_and_gradient(logits):
        value, pull_back = jax.vjp(lambda x: ours(x, labels), logits)
        return value, *pull_back(jnp.ones_like(value))

    value, gradient = value_and_gradient(logits)
    np.testing.assert_allclose(value, their_value.detach().numpy(), rtol=1e-5)
    largest = np.abs(their_gradient).max()
    assert largest > 0
    np.testing.assert_allclose(gradient, their_gradient, rtol=0, atol=gradient_tolerance * largest)


def smp_loss(name: str, channels: int, **options: Any) -> Callable[..., Any]:
    smp = pytest.importorskip("segmentation_models_pytorch", reason="parity with smp")
    return getattr(smp.losses, name)("binary" if channels == 1 else "multiclass", **options)


def monai_loss(
    name: str, channels: int, *, multilabel: bool = False, **options: Any
) -> Callable[..., Any]:
    """A MONAI loss on logits and one-hot targets, ``[B]``; with ``batch=True`` a scalar."""
    monai = pytest.importorskip("monai.losses", reason="parity with MONAI")
    activation = {"sigmoid": True} if channels == 1 or multilabel else {"softmax": True}
    loss = getattr(monai, name)(reduction="none", **activation, **options)
    rows = 1 if options.get("batch") else SHAPE[0]
    return lambda logits, target: loss(logits, target).reshape(rows, -1).mean(1).squeeze()


MONAI_OVERLAP_LOSSES: list[Any] = [
    (partial(losses.soft_dice, smooth=1e-5), "DiceLoss", {}),
    (
        partial(losses.jaccard, smooth=1e-5),
        "DiceLoss",
        {"jaccard": True, "smooth_nr": 2e-5, "smooth_dr": 2e-5},
    ),
    (
        partial(losses.tversky, alpha=0.2, beta=0.9, smooth=0.5),
        "TverskyLoss",
        {"alpha": 0.2, "beta": 0.9, "smooth_nr": 0.5, "smooth_dr": 0.5},
    ),
]
"""Our loss, MONAI's class and its options."""


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize(
    ("ours", "name", "options"),
    MONAI_OVERLAP_LOSSES,
    ids=["soft_dice", "jaccard", "tversky"],
)
def test_overlap_losses_agree_with_monai(ours, name, options, pooled, channels):
    logits, labels = draw(channels)
    theirs = monai_loss(name, channels, batch=pooled, **options)
    assert_agrees(
        partial(ours, pooled=pooled),
        theirs,
        logits,
        labels,
        channels_first(one_hot(labels, channels)),
    )


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize(
    ("ours", "name", "options"),
    [
        (partial(losses.soft_dice, smooth=1e-5), "DiceLoss", {}),
        (partial(losses.tversky, smooth=1e-5), "TverskyLoss", {"alpha": 0.3, "beta": 0.7}),
    ],
    ids=["soft_dice", "tversky"],
)
def test_overlap_losses_on_probabilities_agree_with_monai_soft_label(ours, name, options, channels):
    """MONAI's default there, the product p t, is not least at p = t; its soft_label=True is."""
    logits, _ = draw(channels)
    target = soft(channels)
    theirs = monai_loss(name, channels, soft_label=True, **options)
    assert_agrees(ours, theirs, logits, target, channels_first(target))


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize(
    ("ours", "name", "options"),
    [
        (partial(losses.soft_dice, smooth=0.0), "DiceLoss", {}),
        # Its Dice is the Tversky index at 0.5 and 0.5, so that its smoothing counts twice.
        (partial(losses.soft_dice, smooth=2.0), "DiceLoss", {"smooth": 1.0}),
        (partial(losses.jaccard, smooth=0.5), "JaccardLoss", {"smooth": 0.5}),
        (
            partial(losses.tversky, alpha=0.2, beta=0.9, smooth=0.5),
            "TverskyLoss",
            {"alpha": 0.2, "beta": 0.9, "smooth": 0.5},
        ),
    ],
    ids=["soft_dice", "soft_dice smoothed", "jaccard", "tversky"],
)
def test_overlap_losses_agree_with_smp(ours, name, options, channels):
    logits, labels = draw(channels)
    theirs = smp_loss(name, channels, **options)
    target = torch.tensor(labels)
    assert_agrees(partial(ours, pooled=True), theirs, logits, labels, target.long())


def test_class_weights_of_overlap_losses_agree_with_smp():
    logits, labels = draw(4)
    weights = [0.0, 1.0, 2.0, 0.5]
    theirs = smp_loss("DiceLoss", 4, class_weights=weights)
    ours = partial(losses.soft_dice, smooth=0.0, class_weights=weights, pooled=True)
    assert_agrees(ours, theirs, logits, labels, torch.tensor(labels).long())


def test_an_absent_class_has_loss_0_in_smp_and_its_false_positives_here():
    logits, labels = draw(4)
    labels = np.where(labels == 3, 0, labels)
    theirs = smp_loss("DiceLoss", 4)(channels_first(logits), torch.tensor(labels).long()).item()
    ours = partial(losses.soft_dice, logits, labels, smooth=0.0, pooled=True)
    absent = ours(class_weights=(0.0, 0.0, 0.0, 1.0))
    np.testing.assert_allclose(absent, 1.0)
    np.testing.assert_allclose(ours(), theirs + absent / 4, rtol=1e-5)


def test_focal_tversky_agrees_with_smp_on_a_single_channel():
    logits, labels = draw(1)
    theirs = smp_loss("TverskyLoss", 1, alpha=0.3, beta=0.7, gamma=0.75, smooth=1.0)
    ours = partial(losses.focal_tversky, pooled=True)
    assert_agrees(ours, theirs, logits, labels, torch.tensor(labels).long())


def test_focal_tversky_raises_each_class_where_smp_raises_their_mean():
    logits, labels = draw(4)
    theirs = smp_loss("TverskyLoss", 4, alpha=0.3, beta=0.7, gamma=0.75, smooth=1.0)(
        channels_first(logits), torch.tensor(labels).long()
    )
    each = [
        losses.tversky(logits, labels, class_weights=np.eye(4, dtype=np.float32)[k], pooled=True)
        for k in range(4)
    ]
    np.testing.assert_allclose(np.mean(each) ** 0.75, theirs.item(), rtol=1e-5)
    ours = losses.focal_tversky(logits, labels, pooled=True)
    np.testing.assert_allclose(ours, np.mean(np.power(each, 0.75)), rtol=1e-5)


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("channels", [2, 4])
def test_generalized_dice_agrees_with_monai_without_smoothing(channels, pooled):
    """MONAI's smoothing is not scaled with its weights, which are of the size of 1 / T^2."""
    logits, labels = draw(channels)
    theirs = monai_loss("GeneralizedDiceLoss", channels, batch=pooled, smooth_nr=0.0, smooth_dr=0.0)
    assert_agrees(
        partial(losses.generalized_dice, smooth=0.0, pooled=pooled),
        theirs,
        logits,
        labels,
        channels_first(one_hot(labels, channels)),
    )


def test_generalized_dice_smoothing_is_monais_times_the_smallest_size_squared():
    logits, labels = draw(4)
    smallest = np.stack([(labels == k).sum((1, 2)) for k in range(4)]).min(0)
    theirs = monai_loss("GeneralizedDiceLoss", 4, smooth_nr=1e-3, smooth_dr=1e-3)(
        channels_first(logits), channels_first(one_hot(labels, 4))
    )
    for row in range(SHAPE[0]):
        part = slice(row, row + 1)
        smooth = float(1e-3 * smallest[row] ** 2)
        ours = losses.generalized_dice(logits[part], labels[part], smooth=smooth)
        np.testing.assert_allclose(ours[0], theirs[row].item(), rtol=1e-5)


def test_generalized_dice_of_a_single_channel_is_that_of_background_and_foreground():
    """MONAI takes a single channel as one class, whose weight cancels: plain Dice."""
    logits, labels = draw(1)
    monai = pytest.importorskip("monai.losses", reason="parity with MONAI")
    loss = monai.GeneralizedDiceLoss(reduction="none", smooth_nr=0.0, smooth_dr=0.0)

    def theirs(tensor: Any, target: Any) -> Any:
        p = torch.sigmoid(tensor)
        return loss(torch.cat([1 - p, p], 1), target).flatten()

    target = channels_first(one_hot(labels, 2))
    assert_agrees(partial(losses.generalized_dice, smooth=0.0), theirs, logits, labels, target)


@pytest.mark.parametrize("channels", [1, 4])
def test_log_cosh_dice_is_log_cosh_of_monais_dice(channels):
    logits, labels = draw(channels)
    if channels == 1:
        dice = monai_loss("DiceLoss", 1, smooth_nr=1.0, smooth_dr=1.0)
    else:
        dice = monai_loss("DiceLoss", 4, smooth_nr=1.0, smooth_dr=1.0)
    assert_agrees(
        losses.log_cosh_dice,
        lambda x, y: torch.log(torch.cosh(dice(x, y))),
        logits,
        labels,
        channels_first(one_hot(labels, channels)),
    )


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, [0.2, 1.0, 3.0, 0.0]])
def test_cross_entropy_agrees_with_torch(weights, label_smoothing):
    logits, labels = draw(4)
    theirs = partial(
        torch.nn.functional.cross_entropy,
        weight=None if weights is None else torch.tensor(weights),
        label_smoothing=label_smoothing,
    )
    ours = partial(
        losses.cross_entropy,
        class_weights=weights,
        label_smoothing=label_smoothing,
        pooled=True,
    )
    assert_agrees(ours, theirs, logits, labels, torch.tensor(labels).long())


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_cross_entropy_on_probabilities_agrees_with_torch(label_smoothing):
    logits, _ = draw(4)
    target = soft(4)
    theirs = partial(torch.nn.functional.cross_entropy, label_smoothing=label_smoothing)
    ours = partial(losses.cross_entropy, label_smoothing=label_smoothing, pooled=True)
    assert_agrees(ours, theirs, logits, target, channels_first(target))


def test_cross_entropy_divides_by_weights_where_torch_divides_by_pixels():
    """torch does so for class ids, but neither for probabilities nor for pos_weight."""
    logits, labels = draw(1)
    weight = torch.tensor([3.0])
    theirs = torch.nn.functional.binary_cross_entropy_with_logits(
        channels_first(logits), channels_first(one_hot(labels, 1)), pos_weight=weight
    )
    ours = losses.cross_entropy(logits, labels, class_weights=(1.0, 3.0), pooled=True)
    mean_weight = np.where(labels == 1, 3.0, 1.0).mean()
    np.testing.assert_allclose(ours * mean_weight, theirs.item(), rtol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.05])
def test_binary_cross_entropy_agrees_with_smp(smoothing):
    """smp moves each label by its smoothing towards the other; here half of it is kept."""
    smp = pytest.importorskip("segmentation_models_pytorch", reason="parity with smp")
    logits, labels = draw(1)
    theirs = smp.losses.SoftBCEWithLogitsLoss(smooth_factor=smoothing)
    ours = partial(losses.cross_entropy, label_smoothing=2 * smoothing, pooled=True)
    assert_agrees(ours, theirs, logits, labels, channels_first(one_hot(labels, 1)))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_multiclass_cross_entropy_agrees_with_smp(smoothing):
    smp = pytest.importorskip("segmentation_models_pytorch", reason="parity with smp")
    logits, labels = draw(4)
    theirs = smp.losses.SoftCrossEntropyLoss(smooth_factor=smoothing)
    ours = partial(losses.cross_entropy, label_smoothing=smoothing, pooled=True)
    assert_agrees(ours, theirs, logits, labels, torch.tensor(labels).long())


def test_combined_dice_and_cross_entropy_agree_with_monai():
    monai = pytest.importorskip("monai.losses", reason="parity with MONAI")
    logits, labels = draw(4)
    theirs = monai.DiceCELoss(softmax=True, lambda_dice=2.0, lambda_ce=0.5)
    ours = losses.combine({partial(losses.soft_dice, smooth=1e-5): 2.0, losses.cross_entropy: 0.5})
    assert_agrees(
        lambda x, y: ours(x, y).mean(), theirs, logits, labels, channels_first(one_hot(labels, 4))
    )


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 3.5])
@pytest.mark.parametrize("alpha", [None, 0.25])
def test_binary_focal_agrees_with_smp_monai_and_optax(gamma, alpha):
    monai = pytest.importorskip("monai.losses", reason="parity with MONAI")
    logits, labels = draw(1)
    ours = partial(losses.focal, gamma=gamma, alpha=alpha)
    smp_focal = smp_loss("FocalLoss", 1, gamma=gamma, alpha=alpha)
    target = channels_first(one_hot(labels, 1))
    assert_agrees(partial(ours, pooled=True), smp_focal, logits, labels, target.flatten())
    monai_focal = monai.FocalLoss(gamma=gamma, alpha=alpha, reduction="none")
    assert_agrees(ours, lambda x, y: monai_focal(x, y).flatten(1).mean(1), logits, labels, target)
    by_optax = optax.losses.sigmoid_focal_loss(
        jnp.asarray(logits[..., 0]), jnp.asarray(labels), gamma=gamma, alpha=alpha
    )
    np.testing.assert_allclose(ours(logits, labels), by_optax.mean((1, 2)), rtol=1e-5)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("alpha", [None, 0.25, [0.5, 1.0, 2.0, 0.0]])
def test_multiclass_focal_is_k_times_monais(gamma, alpha):
    """MONAI takes the mean over classes too, of which all but one are 0 at each pixel."""
    monai = pytest.importorskip("monai.losses", reason="parity with MONAI")
    logits, labels = draw(4)
    loss = monai.FocalLoss(gamma=gamma, alpha=alpha, reduction="none", use_softmax=True)
    assert_agrees(
        partial(losses.focal, gamma=gamma, alpha=alpha),
        lambda x, y: 4 * loss(x, y).flatten(1).mean(1),
        logits,
        labels,
        channels_first(one_hot(labels, 4)),
    )


def test_focal_on_probabilities_agrees_with_monai_over_classes():
    monai = pytest.importorskip("monai.losses", reason="parity with MONAI")
    logits, _ = draw(4)
    target = soft(4)
    loss = monai.FocalLoss(reduction="none", use_softmax=True)
    assert_agrees(
        losses.focal,
        lambda x, y: 4 * loss(x, y).flatten(1).mean(1),
        logits,
        target,
        channels_first(target),
    )


@pytest.mark.parametrize("pooled", [False, True])
def test_lovasz_hinge_agrees_with_smp(pooled):
    """smp subtracts numbers near 1, so its gradients have an error of 1e-7 whatever their size."""
    logits, labels = draw(1)
    loss = smp_loss("LovaszLoss", 1, per_image=not pooled)
    ours = partial(losses.lovasz_hinge, pooled=pooled)
    assert_agrees(
        lambda x, y: ours(x, y).mean(),
        loss,
        logits,
        labels,
        channels_first(one_hot(labels, 1)),
        gradient_tolerance=5e-5,
    )


@pytest.mark.parametrize("pooled", [False, True])
def test_lovasz_softmax_agrees_with_smp(pooled):
    """Also where a class is in one image but not in another."""
    logits, labels = draw(4)
    labels[0] = np.where(labels[0] == 2, 1, labels[0])
    loss = smp_loss("LovaszLoss", 4, per_image=not pooled)
    ours = partial(losses.lovasz_softmax, pooled=pooled)
    assert_agrees(lambda x, y: ours(x, y).mean(), loss, logits, labels, torch.tensor(labels).long())


def blobs(channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Masks with an inside and an outside, and one image of a single class."""
    rng = np.random.default_rng(3)
    rows, columns = np.mgrid[: SHAPE[1], : SHAPE[2]]
    labels = np.zeros(SHAPE, np.int32)
    labels[0] = (rows - 6) ** 2 + (columns - 4) ** 2 < 14
    labels[1] = np.minimum(columns // 3, max(channels, 2) - 1)
    logits = rng.normal(size=(*SHAPE, channels)).astype(np.float32)
    return logits, labels


@pytest.mark.parametrize("channels", [1, 3])
def test_boundary_agrees_with_monai(channels):
    logits, labels = blobs(channels)
    theirs = monai_loss("BoundaryLoss", channels)
    target = channels_first(one_hot(labels, channels))
    assert_agrees(losses.boundary, theirs, logits, labels, target)
    assert_agrees(
        lambda x, y: losses.boundary(x, y, pooled=True),
        lambda x, y: theirs(x, y).mean(),
        logits,
        labels,
        target,
    )


@pytest.mark.parametrize("alpha", [1.0, 2.0])
@pytest.mark.parametrize("channels", [1, 3])
def test_hausdorff_dt_agrees_with_monai(channels, alpha):
    logits, labels = blobs(channels)
    theirs = monai_loss("HausdorffDTLoss", channels, alpha=alpha, include_background=True)
    target = channels_first(one_hot(labels, channels))
    assert_agrees(partial(losses.hausdorff_dt, alpha=alpha), theirs, logits, labels, target)


def test_class_weights_leave_the_background_out_as_monais_default_does():
    logits, labels = blobs(3)
    theirs = monai_loss("HausdorffDTLoss", 3)
    ours = partial(losses.hausdorff_dt, class_weights=(0.0, 1.0, 1.0))
    assert_agrees(ours, theirs, logits, labels, channels_first(one_hot(labels, 3)))


def test_deep_supervision_agrees_with_monai():
    monai = pytest.importorskip("monai.losses", reason="parity with MONAI")
    sizes = [(13, 10), (7, 5), (3, 3)]
    rng = np.random.default_rng(1)
    levels = [rng.normal(size=(3, *size, 1)).astype(np.float32) for size in sizes]
    _, labels = draw(1)
    loss = monai.DiceLoss(sigmoid=True, smooth_nr=1.0, smooth_dr=1.0)
    theirs = monai.DeepSupervisionLoss(loss)(
        [channels_first(level) for level in levels], channels_first(one_hot(labels, 1))
    )
    ours = losses.deep_supervision(losses.soft_dice)(levels, labels)
    np.testing.assert_allclose(ours.mean(), theirs.item(), rtol=1e-5)


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize(
    ("ours", "name", "options"),
    [
        *MONAI_OVERLAP_LOSSES,
        (
            partial(losses.generalized_dice, smooth=0.0),
            "GeneralizedDiceLoss",
            {"smooth_nr": 0.0, "smooth_dr": 0.0},
        ),
    ],
    ids=["soft_dice", "jaccard", "tversky", "generalized_dice"],
)
def test_multilabel_overlap_losses_agree_with_monai(ours, name, options, pooled):
    logits, labels, target = draw_multilabel()
    theirs = monai_loss(name, 4, multilabel=True, batch=pooled, **options)
    assert_agrees(partial(ours, multilabel=True, pooled=pooled), theirs, logits, labels, target)


@pytest.mark.parametrize("name", ["boundary", "hausdorff_dt"])
def test_multilabel_distance_losses_agree_with_monai(name):
    logits, labels = blobs(3)
    channels = one_hot(labels, 3).astype(np.int32)
    if name == "boundary":
        theirs = monai_loss("BoundaryLoss", 3, multilabel=True)
    else:
        theirs = monai_loss("HausdorffDTLoss", 3, multilabel=True, include_background=True)
    ours = partial(getattr(losses, name), multilabel=True)
    assert_agrees(ours, theirs, logits, channels, channels_first(channels.astype(np.float32)))


def test_multilabel_cross_entropy_agrees_with_torch():
    """Also on probabilities."""
    logits, labels, target = draw_multilabel()
    theirs = torch.nn.functional.binary_cross_entropy_with_logits
    ours = partial(losses.cross_entropy, multilabel=True, pooled=True)
    assert_agrees(ours, theirs, logits, labels, target)
    probabilities = soft(4)
    assert_agrees(ours, theirs, logits, probabilities, channels_first(probabilities))


@pytest.mark.parametrize("smoothing", [0.0, 0.05])
def test_multilabel_cross_entropy_agrees_with_smp(smoothing):
    smp = pytest.importorskip("segmentation_models_pytorch", reason="parity with smp")
    logits, labels, target = draw_multilabel()
    theirs = smp.losses.SoftBCEWithLogitsLoss(smooth_factor=smoothing)
    ours = partial(
        losses.cross_entropy, multilabel=True, label_smoothing=2 * smoothing, pooled=True
    )
    assert_agrees(ours, theirs, logits, labels, target)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("alpha", [None, 0.25, [0.5, 1.0, 2.0, 0.0]])
def test_multilabel_focal_agrees_with_monai_and_smp(gamma, alpha):
    """smp has one alpha for all channels only."""
    monai = pytest.importorskip("monai.losses", reason="parity with MONAI")
    logits, labels, target = draw_multilabel()
    ours = partial(losses.focal, multilabel=True, gamma=gamma, alpha=alpha)
    loss = monai.FocalLoss(gamma=gamma, alpha=alpha, reduction="none")
    assert_agrees(ours, lambda x, y: loss(x, y).flatten(1).mean(1), logits, labels, target)
    if not isinstance(alpha, list):
        smp = pytest.importorskip("segmentation_models_pytorch", reason="parity with smp")
        theirs = smp.losses.FocalLoss("multilabel", gamma=gamma, alpha=alpha)
        assert_agrees(partial(ours, pooled=True), theirs, logits, labels, target)


def test_multilabel_dice_agrees_with_smp():
    smp = pytest.importorskip("segmentation_models_pytorch", reason="parity with smp")
    logits, labels, target = draw_multilabel()
    ours = partial(losses.soft_dice, smooth=0.0, multilabel=True, pooled=True)
    assert_agrees(ours, smp.losses.DiceLoss("multilabel"), logits, labels, target)


def test_multilabel_lovasz_hinge_takes_channels_apart_where_smp_takes_them_as_one_image():
    smp = pytest.importorskip("segmentation_models_pytorch", reason="parity with smp")
    logits, labels, target = draw_multilabel()
    binary = smp.losses.LovaszLoss("binary", per_image=True)
    assert_agrees(
        lambda x, y: losses.lovasz_hinge(x, y, multilabel=True).mean(),
        lambda x, y: torch.stack([binary(x[:, k], y[:, k]) for k in range(4)]).mean(),
        logits,
        labels,
        target,
        gradient_tolerance=5e-5,
    )
    together = logits.reshape(SHAPE[0], -1, 1, 1), labels.reshape(SHAPE[0], -1, 1)
    theirs = smp.losses.LovaszLoss("multilabel", per_image=True)(channels_first(logits), target)
    np.testing.assert_allclose(losses.lovasz_hinge(*together).mean(), theirs.item(), rtol=1e-5)
