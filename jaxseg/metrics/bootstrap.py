"""Bootstrap intervals for a mean over images and for the difference between two runs.

Images are resampled, not pixels, because the pixels of an image are not independent. With
``groups`` whole groups are resampled, because the images of a patient are not independent either.
"""

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from jaxseg.metrics.aggregation import Infinite, replace_infinite
from jaxseg.types import Array


class Interval(NamedTuple):
    """A mean over images with its bootstrap interval.

    Attributes:
        mean: Mean over the images; NaN if there is none.
        low: Lower end of the interval; NaN with fewer than two images (two groups).
        high: Upper end of the interval; NaN likewise.
        images: Number of images in the mean.
        undefined: Number of images left out because their value is NaN.
    """

    mean: float
    low: float
    high: float
    images: int
    undefined: int


class PairedInterval(NamedTuple):
    """The difference between two runs on the same images, with its bootstrap interval.

    Attributes:
        difference: Mean of the first run minus mean of the second; NaN if there is no image.
        low: Lower end of the interval; NaN with fewer than two images (two groups).
        high: Upper end of the interval; NaN likewise.
        p_value: Two-sided, for a difference of 0; NaN where the ends are NaN.
        images: Number of images defined in both runs.
        undefined: Number of images left out.
    """

    difference: float
    low: float
    high: float
    p_value: float
    images: int
    undefined: int


def bootstrap_mean(
    key: PRNGKeyArray,
    values: Float[Array, "N"],
    *,
    groups: Sequence[Hashable] | np.ndarray | None = None,
    level: float = 0.95,
    resamples: int = 10_000,
    infinite: Infinite = "keep",
) -> Interval:
    """Returns the mean over images with its percentile bootstrap interval.

    Efron 1979; Efron and Tibshirani 1993, chapter 13. Agrees with ``scipy.stats.bootstrap``,
    ``method="percentile"``, apart from the random draws. With groups this is the cluster bootstrap
    of Davison and Hinkley 1997, section 3.8.

    With few images the interval is too narrow: for a skewed score, a 95 % interval contains the
    true mean in about 80 % of cases with 5 images and 90 % with 20.

    Args:
        key: A ``jax.random.key``; the same key gives the same interval.
        values: ``[N]`` floating, one per image, NaN where undefined. Drop padding rows first.
        groups: ``[N]``, the group of each image, such as its patient. Groups are resampled with
            all their images; the mean stays the mean over images. None: each image is a group.
        level: Fraction of the resampled means inside the interval, in (0, 1).
        resamples: How many times the images (groups) are resampled.
        infinite: ``"keep"``, ``"exclude"`` or a number that replaces infinite values; see
            `jaxseg.metrics`. With ``"keep"`` a resample with an infinite value has an infinite
            mean, so the mean and one or both ends are infinite.

    Returns:
        An Interval; its width is 0 if all values are equal.

    Raises:
        ValueError: ``values`` is not ``[N]``, the number of groups differs, ``level`` is not in
            (0, 1), or ``resamples`` is below 1.

    Examples:
        >>> import jax
        >>> import numpy as np
        >>> from jaxseg import metrics
        >>> scores = np.array([0.90, 0.92, 0.95, 0.97, np.nan])
        >>> interval = metrics.bootstrap_mean(jax.random.key(0), scores)
        >>> f"{interval.mean:.3f} ({interval.low:.2f} to {interval.high:.2f})", interval.undefined
        ('0.935 (0.91 to 0.96)', 1)
    """
    values = _per_image("values", values, infinite)
    return _bootstrap(key, values, groups, level, resamples)[0]


def paired_bootstrap(
    key: PRNGKeyArray,
    first: Float[Array, "N"],
    second: Float[Array, "N"],
    *,
    groups: Sequence[Hashable] | np.ndarray | None = None,
    level: float = 0.95,
    resamples: int = 10_000,
    infinite: Infinite = "keep",
) -> PairedInterval:
    """Returns the mean difference between two runs, with its interval and p-value.

    Each image is resampled with both of its values, so what makes an image hard for both runs
    cancels. The p-value is twice the fraction of resamples whose difference is 0 or has the other
    sign, with 1 added to numerator and denominator, and at most 1. The interval therefore excludes
    0 where the p-value is below ``1 - level``. Efron and Tibshirani 1993, chapters 13 and 15;
    Davison and Hinkley 1997, chapter 4.

    Args:
        key: A ``jax.random.key``; the same key gives the same interval.
        first: ``[N]`` floating, one per image, NaN where undefined. Drop padding rows first.
        second: The second run's values for the same images in the same order.
        groups: As for `bootstrap_mean`.
        level: Fraction of the resampled differences inside the interval, in (0, 1).
        resamples: How many times the images (groups) are resampled.
        infinite: As for `bootstrap_mean`, applied to both runs before they are subtracted. With
            ``"keep"`` an image that is infinite in both runs is undefined. If the differences of
            some images are inf and of others -inf, difference, ends and p-value are NaN.

    Returns:
        A PairedInterval over the images that are defined in both runs.

    Raises:
        ValueError: As for `bootstrap_mean`, or the shapes differ.

    Examples:
        >>> import jax
        >>> import numpy as np
        >>> from jaxseg import metrics
        >>> first, second = np.array([0.90, 0.92, 0.95, 0.97]), np.array([0.88, 0.91, 0.91, 0.96])
        >>> found = metrics.paired_bootstrap(jax.random.key(0), first, second)
        >>> f"{found.difference:.3f}", found.low > 0
        ('0.020', True)
    """
    first = _per_image("first", first, infinite)
    second = _per_image("second", second, infinite)
    if first.shape != second.shape:
        raise ValueError(f"first has shape {first.shape}, second has {second.shape}")
    with np.errstate(invalid="ignore"):  # inf - inf is NaN.
        differences = first - second
    interval, means = _bootstrap(key, differences, groups, level, resamples)
    p_value = float("nan")
    if len(means) and not np.isnan(means).any():
        crossings = int(min((means <= 0).sum(), (means >= 0).sum()))
        p_value = min(1.0, 2 * (1 + crossings) / (1 + resamples))
    return PairedInterval(*interval[:3], p_value, *interval[3:])


def _per_image(name: str, values: Array, infinite: Infinite) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1:
        raise ValueError(f"{name} must have shape [N], got {values.shape}")
    return np.asarray(replace_infinite(values, infinite))


def _bootstrap(
    key: jax.Array,
    values: np.ndarray,
    groups: Sequence[Hashable] | np.ndarray | None,
    level: float,
    resamples: int,
) -> tuple[Interval, np.ndarray]:
    """Returns the interval and the resampled means; no means with fewer than two groups."""
    if not 0 < level < 1:
        raise ValueError(f"level must be in (0, 1), got {level}")
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}")
    groups = range(len(values)) if groups is None else list(groups)
    if len(groups) != len(values):
        raise ValueError(f"there are {len(groups)} groups for {len(values)} values")
    defined = np.flatnonzero(~np.isnan(values)).tolist()
    undefined, values = len(values) - len(defined), values[defined]
    numbers: dict[Hashable, int] = {}  # In order of appearance.
    members = np.array([numbers.setdefault(groups[i], len(numbers)) for i in defined], int)
    with np.errstate(invalid="ignore"):  # inf - inf is NaN.
        mean = float(values.mean()) if len(values) else float("nan")
    if len(numbers) < 2:
        return Interval(mean, float("nan"), float("nan"), len(values), undefined), np.empty(0)
    means = _resampled_means(key, values, members, resamples)
    # Between a finite and an infinite mean there is nothing to interpolate.
    method = "linear" if np.isfinite(means).all() else "inverted_cdf"
    ends = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], method=method)
    low, high = ends.clip(values.min(), values.max()).tolist()  # float32 rounding may exceed them.
    return Interval(mean, low, high, len(values), undefined), means


def _resampled_means(
    key: jax.Array, values: np.ndarray, members: np.ndarray, resamples: int
) -> np.ndarray:
    """Returns the means of resampled groups; ``members`` has the group number of each value."""
    # Centered and scaled, so that float32 rounds the deviations and not the values.
    finite = values[np.isfinite(values)]
    center = finite.mean() if len(finite) else 0.0
    scale = np.abs(finite - center).max(initial=0.0)
    sums = np.bincount(members, (values - center) / (scale or 1.0))
    sizes = np.bincount(members)
    arrays = (jnp.asarray(x, jnp.float32) for x in (sums, sizes))
    drawn = _draw_means(key, *arrays, jnp.arange(resamples, dtype=jnp.uint32))
    means = center + (scale or 1.0) * np.asarray(drawn, np.float64)
    # The mean difference of tied images is 0 up to float32 rounding.
    return np.where(np.abs(means) <= 1e-6 * scale, 0.0, means)


@jax.jit
def _draw_means(key: jax.Array, sums: jax.Array, sizes: jax.Array, draws: jax.Array) -> jax.Array:
    def draw_mean(draw: jax.Array) -> jax.Array:
        groups = jax.random.randint(jax.random.fold_in(key, draw), sizes.shape, 0, len(sizes))
        return sums[groups].sum() / sizes[groups].sum()

    return jax.lax.map(draw_mean, draws, batch_size=1000)
