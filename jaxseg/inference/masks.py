"""Post-processing of one image's mask, and the network's confidence in it, in NumPy.

Objects are 8-connected and background is 4-connected, as is usual. SciPy is imported on first use.
"""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Integer

from jaxseg.errors import InputError

_LARGEST_EXPONENT = 80.0
"""float32 overflows beyond exp(88); probabilities below exp(-80) count as equal."""


def fill_holes(mask: Bool[np.ndarray, "H W"]) -> Bool[np.ndarray, "H W"]:
    """Fills the holes of a mask: background that does not reach the image border.

    Args:
        mask: One object class of one image. Pixels of another class, such as a heart between
            lungs, count as background and may be filled too.

    Returns:
        A new mask, as `scipy.ndimage.binary_fill_holes` gives it.
    """
    from scipy import ndimage

    return np.asarray(ndimage.binary_fill_holes(mask))


def largest_components(mask: Bool[np.ndarray, "H W"], count: int) -> Bool[np.ndarray, "H W"]:
    """Keeps the largest connected components of a mask, or all if there are no more.

    Args:
        mask: One object class of one image.
        count: Number of components to keep, at least 1; 2 for lungs. Among components of equal
            area, the first in reading order is kept.

    Returns:
        A new mask, empty if the given one is.

    Raises:
        InputError: ``count`` is below 1.

    Examples:
        >>> import numpy as np
        >>> from jaxseg import inference
        >>> mask = np.array([[1, 1, 0, 1, 0, 1, 1, 1]], bool)
        >>> inference.largest_components(mask, 2).astype(int).tolist()
        [[1, 1, 0, 0, 0, 1, 1, 1]]
    """
    if count < 1:
        raise InputError(f"largest components: count is {count}. Use 1 or more.")
    labels, areas = _components(mask)
    kept = np.zeros(len(areas) + 1, bool)
    kept[1 + np.argsort(-areas, kind="stable")[:count]] = True
    return kept[labels]


def component_areas(mask: Bool[np.ndarray, "H W"]) -> Integer[np.ndarray, "N"]:
    """Returns the areas in pixels of the connected components, largest first.

    An empty mask has none.
    """
    return -np.sort(-_components(mask)[1])


def confidence(logits: Float[np.ndarray, "H W K"], labels: Integer[np.ndarray, "H W"]) -> float:
    """Returns the network's mean probability of an image's labels, averaged over classes.

    For every class in ``labels``, the mean probability of that class over its pixels is computed,
    by sigmoid (``K == 1``) or softmax. The result is the unweighted mean over these classes, so
    that a large background does not hide an uncertain object. The result is only as reliable as the
    network's calibration.

    Args:
        logits: Logits of one image, at the labels' size.
        labels: Class ids, 0 and 1 or 0 to K - 1. After post-processing they may differ from the
            most probable classes.

    Returns:
        A number in [0, 1], or in [1 / max(K, 2), 1] if the labels are the most probable classes.
        For an empty mask it is the mean probability of the background. NaN if a logit is NaN.
    """
    if logits.shape[-1] == 1:
        against = np.where(labels == 1, -logits[..., 0], logits[..., 0])
        others = np.exp(np.minimum(against, _LARGEST_EXPONENT))
    else:
        chosen = np.take_along_axis(logits, labels[..., None].astype(np.int64), axis=-1)
        others = np.exp(np.minimum(logits - chosen, _LARGEST_EXPONENT)).sum(axis=-1) - 1
    probabilities = 1 / (1 + others)
    return float(
        np.mean([probabilities[labels == c].mean(dtype=np.float64) for c in np.unique(labels)])
    )


def _components(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers the components from 1 on, 0 being background, and returns their areas."""
    from scipy import ndimage

    result: Any = ndimage.label(mask, structure=np.ones((3, 3), bool))
    labels, count = result
    return labels, np.bincount(labels.ravel(), minlength=count + 1)[1:]
