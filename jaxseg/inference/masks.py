"""What is done to one film's mask on the host, each an explicit step, and how sure the network is.

Objects hang together over edges and corners, background over edges alone, as is usual: so a hole
is what no path over edges joins to the border. SciPy, which JAX itself needs, is loaded on use.
"""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Integer

from jaxseg.types import InputError

_LARGEST_EXPONENT = 80.0
"""Beyond it float32 overflows; a probability of exp(-80) is none."""

_EDGES_AND_CORNERS = np.ones((3, 3), bool)


def fill_holes(mask: Bool[np.ndarray, "H W"]) -> Bool[np.ndarray, "H W"]:
    """Fills background that does not reach the film's border, whatever its size.

    Args:
        mask: One object class of one film; others, such as a heart within lungs, fill a hole too.

    Returns:
        A new mask, `scipy.ndimage.binary_fill_holes` of the given one.
    """
    from scipy import ndimage

    return np.asarray(ndimage.binary_fill_holes(mask))


def largest_components(mask: Bool[np.ndarray, "H W"], count: int) -> Bool[np.ndarray, "H W"]:
    """Keeps the largest connected components; all of them where there are no more.

    Args:
        mask: One object class of one film.
        count: How many to keep, 1 or more: 2 for lungs. Of equally large ones the first in
            reading order is kept.

    Returns:
        A new mask; empty where the given one is.

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
        raise InputError(f"largest components: {count} should be 1 or more")
    labels, areas = _labelled(mask)
    kept = np.zeros(len(areas) + 1, bool)
    kept[1 + np.argsort(-areas, kind="stable")[:count]] = True
    return kept[labels]


def component_areas(mask: Bool[np.ndarray, "H W"]) -> Integer[np.ndarray, "N"]:
    """Areas in pixels of the connected components, the largest first; empty for an empty mask."""
    return -np.sort(-_labelled(mask)[1])


def confidence(logits: Float[np.ndarray, "H W K"], labels: Integer[np.ndarray, "H W"]) -> float:
    """How probable the network itself holds a film's labelling to be, each class counting alike.

    The mean, over the classes c among the labels, of the mean probability of c over the pixels
    labelled c; by sigmoid (``K == 1``: class 1 has p, class 0 has 1 - p) or softmax. For a binary
    mask: half of the mean of p over the mask and half of the mean of 1 - p over its complement, so
    that a large background does not hide an unsure object. As good as the network's calibration.

    Args:
        logits: One film's, at the labels' size.
        labels: Class ids, 0 and 1 or 0 to K - 1; they may differ from the favoured classes, where
            holes were filled or components dropped.

    Returns:
        A number in [0, 1]; where the labels are the favoured classes, in [1 / max(K, 2), 1]. Of an
        empty mask the complement's. NaN where a logit is NaN.
    """
    if logits.shape[-1] == 1:
        against = np.where(labels == 1, -logits[..., 0], logits[..., 0])
        others = np.exp(np.minimum(against, _LARGEST_EXPONENT))
    else:
        own = np.take_along_axis(logits, labels[..., None].astype(np.int64), axis=-1)
        others = np.exp(np.minimum(logits - own, _LARGEST_EXPONENT)).sum(axis=-1) - 1
    probabilities = 1 / (1 + others)
    return float(
        np.mean([probabilities[labels == c].mean(dtype=np.float64) for c in np.unique(labels)])
    )


def _labelled(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The number of each pixel's component, 0 on background, and the components' areas."""
    from scipy import ndimage

    found: Any = ndimage.label(mask, structure=_EDGES_AND_CORNERS)
    labels, count = found
    return labels, np.bincount(labels.ravel(), minlength=count + 1)[1:]
