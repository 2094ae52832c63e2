"""The centerline Dice (clDice) of thin structures, on the host."""

import numpy as np
from jaxtyping import Bool, Float

from jaxseg.metrics.inputs import check_same_shape
from jaxseg.types import Array


def cl_dice(
    predicted: Bool[Array, "B *spatial"],
    actual: Bool[Array, "B *spatial"],
    *,
    where: Bool[Array, "B *spatial"] | None = None,
) -> Float[np.ndarray, "B"]:
    """Returns the centerline Dice (clDice) of each image, for vessels, roads and the like.

    The harmonic mean of topology precision, the fraction of the predicted skeleton inside the
    actual mask, and topology sensitivity, the fraction of the actual skeleton inside the predicted
    mask. Shit et al. 2021. Skeletons are those of ``skimage.morphology.skeletonize``, as in the
    paper's code, so this runs on the host and not under jit. `jaxseg.losses.soft_cl_dice` is the
    differentiable form; its soft skeletons are other ones.

    Args:
        predicted: bool ``[B, H, W]`` or ``[B, D, H, W]``, such as ``labels == class_id``.
        actual: The same.
        where: bool of the same shape, True on valid pixels. The masks are cut there before they are
            thinned.

    Returns:
        float64 ``[B]`` in [0, 1]. NaN if both masks are empty, 0 if only one of them is.

    Raises:
        ImportError: scikit-image is not installed.
        TypeError: An array is not bool.
        ValueError: The shapes differ, or are not those above.

    Examples:
        >>> import numpy as np
        >>> from jaxseg import metrics
        >>> actual = np.zeros((1, 9, 12), bool)
        >>> actual[:, 4] = True  # a vessel of one row
        >>> predicted = actual & (np.arange(12) < 6)  # half of it
        >>> print(metrics.cl_dice(actual, actual), metrics.cl_dice(predicted, actual).round(2))
        [1.] [0.67]
    """
    try:
        from skimage.morphology import skeletonize
    except ImportError:
        raise ImportError("cl_dice needs scikit-image: pip install -e '.[experiments]'") from None
    arrays = {"predicted": predicted, "actual": actual}
    for name, array in (arrays if where is None else arrays | {"where": where}).items():
        check_same_shape(name, array, np.shape(predicted))
        if array.dtype != np.bool_:
            raise TypeError(f"{name} must be bool, got {array.dtype}")
        if array.ndim not in (3, 4):
            raise ValueError(f"{name} must be [B, H, W] or [B, D, H, W], got {array.shape}")
    valid = True if where is None else np.asarray(where)
    scores = []
    for p, a in zip(np.asarray(predicted) & valid, np.asarray(actual) & valid, strict=True):
        inside = [mask[skeletonize(thinned)] for thinned, mask in ((p, a), (a, p))]
        if not (inside[0].size or inside[1].size):
            scores.append(np.nan)
        elif not (inside[0].any() and inside[1].any()):
            scores.append(0.0)
        else:
            scores.append(2 / sum(1 / np.mean(x) for x in inside))
    return np.array(scores, np.float64)
