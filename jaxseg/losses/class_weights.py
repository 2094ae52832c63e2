"""Class weights from the frequencies of the classes."""

import jax
import jax.numpy as jnp
from jaxtyping import Float32, Num

from jaxseg.losses.inputs import Number, check_number
from jaxseg.types import Array


def balanced_class_weights(
    frequencies: Num[Array, "K"], *, power: Number = 1.0
) -> Float32[jax.Array, "K"]:
    r"""Returns one weight per class that falls with its frequency, for ``class_weights``.

    The weight of class k is proportional to :math:`f_k^{-power}`. The mean weight of a pixel is 1.

    With ``power=1`` it agrees with scikit-learn's
    ``compute_class_weight(class_weight="balanced")``, :math:`N / (K f_k)` with N pixels and K
    classes present; scikit-learn refuses classes that are absent.

    Args:
        frequencies: ``[K]``, number or fraction of the pixels of each class, at least 0. For
            logits with K = 1 give two: (background, foreground).
        power: At least 0. 1 gives all classes the same total weight, 0.5 is a common compromise,
            0 weights all classes present equally.

    Returns:
        float32 ``[K]``. An absent class has weight 0, which leaves it out of the loss.

    Raises:
        ValueError: ``power`` is negative.

    Examples:
        >>> import numpy as np
        >>> from jaxseg import losses
        >>> labels = np.array([[[0, 0, 0, 1], [0, 0, 0, 1]]])
        >>> frequencies = np.bincount(labels.ravel(), minlength=2)
        >>> print(np.asarray(losses.balanced_class_weights(frequencies)).round(3))
        [0.667 2.   ]
    """
    power = check_number("power", power)
    frequencies = jnp.asarray(frequencies).astype(jnp.float32)
    fractions = frequencies / jnp.maximum(frequencies.sum(), jnp.finfo(jnp.float32).tiny)
    present = fractions > 0
    weights = jnp.where(present, jnp.where(present, fractions, 1.0) ** -power, 0.0)
    mean = (weights * fractions).sum()
    return weights / jnp.where(mean > 0, mean, 1.0)
