"""Sigmoid and softmax over the channels, and the sums over pixels that losses make of them.

Arrays of a single channel have no channel axis here; of several, it is the last.

The axis of channels is short, which XLA's CPU backend is slow at where it is innermost: reductions
over it, which differentiating a broadcast along it brings too, run at a tenth of the speed of the
same sums written channel by channel; and exp and log within a reduction are computed one number at
a time. So channels are taken one by one, derivatives are written out, and `optimization_barrier`
keeps exp and log out of reductions. Derivatives of several channels compute probabilities anew
rather than keep them, so that a loss needs little memory beside its logits. Optax's elementwise
cross entropies give the same numbers, a test holds that, and take several times as long.
"""

import functools
import math
import operator
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Bool, Float32, Int32, Shaped

Plane = Float32[jax.Array, "B H W"]
Channels = Float32[jax.Array, "B H W"] | Float32[jax.Array, "B H W K"]
Labels = Int32[jax.Array, "B H W"] | Float32[jax.Array, "B H W"] | Float32[jax.Array, "B H W K"]
"""Class ids, or probabilities shaped as the logits."""
Counted = Bool[jax.Array, "B H W"] | None
Sums = Float32[jax.Array, "B K"]
PerClass = Float32[jax.Array, "classes"]

_FEW = 16  # up to this many, channels are taken one by one

materialize = jax.lax.optimization_barrier


def targets(labels: Labels, logits: Channels) -> Channels:
    """The probability of every channel's class, shaped as the logits; ids become 0 and 1."""
    if jnp.issubdtype(labels.dtype, jnp.floating):
        return labels
    if logits.ndim == 3:
        return (labels == 1).astype(jnp.float32)
    return jax.nn.one_hot(labels, logits.shape[-1], dtype=jnp.float32)


def keep(values: Shaped[jax.Array, "B H W *K"], where: Counted) -> Shaped[jax.Array, "B H W *K"]:
    """The values of pixels, or of their channels, with 0 or False where pixels do not count."""
    if where is None:
        return values
    counted = where if values.ndim == 3 else where[..., None]
    return jnp.where(counted, values, jnp.zeros((), values.dtype))


@jax.custom_jvp
def probabilities(logits: Channels) -> Channels:
    """Sigmoid of a single channel, softmax over several."""
    return materialize(_probabilities(logits, _normalizer(logits)))


@probabilities.defjvp
def _probabilities_jvp(primals: tuple, tangents: tuple) -> tuple:
    p = probabilities(*primals)
    return p, _probability_tangent(p, *tangents)


@jax.custom_jvp
def error_sums(logits: Channels, labels: Labels, where: Counted) -> tuple[Sums, Sums]:
    """Sums over the counted pixels of what ``p`` has above ``t`` and of what it has below.

    They are half the sum and half the difference of two sums over one stored array, ``p - t``.
    """
    errors = _stored_errors(logits, labels, where)
    total, net = sum_pixels(jnp.abs(errors)), sum_pixels(errors)
    return (total + net) / 2, (total - net) / 2


@error_sums.defjvp
def _error_sums_jvp(primals: tuple, tangents: tuple) -> tuple:
    logits, labels, where = primals
    if logits.ndim == 3:
        errors = _stored_errors(logits, labels, where)
        p = errors + targets(labels, logits)
    else:
        p = _probabilities(materialize(logits), _normalizer(logits))
        errors = keep(p - targets(labels, logits), where)
    tangent = _probability_tangent(p, tangents[0])
    if jnp.issubdtype(labels.dtype, jnp.floating):
        tangent -= tangents[1]
    above, below = jnp.where(errors > 0, tangent, 0), jnp.where(errors < 0, -tangent, 0)
    if logits.ndim == 3:
        above, below = above[..., None], below[..., None]
    return error_sums(*primals), (above.sum((1, 2)), below.sum((1, 2)))


def _stored_errors(logits: Channels, labels: Labels, where: Counted) -> Channels:
    p = _probabilities(logits, _normalizer(logits))
    return materialize(keep(p - targets(labels, logits), where))


@jax.custom_jvp
def cross_entropies(logits: Channels, labels: Labels, weights: PerClass, floors: PerClass) -> Plane:
    """``-sum_k (weights_k t_k + floors_k) log p_k`` of every pixel.

    A single channel has two classes, background and foreground.
    """
    shares = shares_of(labels, weights, floors)
    if logits.ndim == 3:
        # -log p is log(1 + exp(-|z|)) for both classes, plus |z| for the one that z is against.
        size = jnp.abs(logits)
        against = jnp.where(logits > 0, shares[0], shares[1])
        return materialize(against * size + add_planes(shares) * jnp.log1p(jnp.exp(-size)))
    pairs = paired(shares, surprises(logits))
    return materialize(add_planes(share * surprise for share, surprise in pairs))


@functools.partial(cross_entropies.defjvp, symbolic_zeros=True)
def _cross_entropies_jvp(primals: tuple, tangents: tuple) -> tuple:
    logits, labels, weights, floors = primals
    logits_dot, *shares_dot = tangents
    shares = shares_of(labels, weights, floors)
    tangent = jnp.zeros_like(shares[0])
    if not isinstance(logits_dot, SymbolicZero):
        p, total = _probabilities(materialize(logits), _normalizer(logits)), add_planes(shares)
        if logits.ndim == 3:
            tangent = (total * p - shares[1]) * logits_dot
        else:
            share = targets(labels, logits) * weights[None, None, None] + floors[None, None, None]
            tangent = ((total[..., None] * p - share) * logits_dot).sum(-1)
    if not all(isinstance(dot, SymbolicZero) for dot in shares_dot):
        dots = tuple(map(_instantiate, shares_dot))
        _, shares_dot = jax.jvp(shares_of, (labels, weights, floors), dots)
        tangent += add_planes(map(operator.mul, shares_dot, surprises(logits)))
    return cross_entropies(*primals), tangent


def shares_of(labels: Labels, weights: PerClass, floors: PerClass) -> list[Plane]:
    """What multiplies each class's ``-log p``."""
    if jnp.issubdtype(labels.dtype, jnp.integer):
        planes = [(labels == k).astype(jnp.float32) for k in range(len(weights))]
    elif labels.ndim == 3:
        planes = [1 - labels, labels]
    else:
        planes = [labels[..., k] for k in range(len(weights))]
    return [w * plane + floor for w, plane, floor in zip(weights, planes, floors, strict=True)]


def surprises(logits: Channels) -> list[Plane]:
    """Each class's ``-log p``."""
    if logits.ndim == 3:
        shared = jnp.log1p(jnp.exp(-jnp.abs(logits)))
        return [jnp.maximum(logits, 0) + shared, jnp.maximum(-logits, 0) + shared]
    shift, scale = _normalizer(logits)
    log_scale = materialize(jnp.log(scale))
    # The difference of logits first: with large ones the logarithm would drown in either.
    return [(shift - logits[..., k]) - log_scale for k in range(logits.shape[-1])]


def paired(shares: Iterable[Plane], planes: Iterable[Plane]) -> Iterator[tuple[Plane, Plane]]:
    """Pairs of both, with 0 for an infinite surprise (a logit of -inf) that has no share."""
    for share, plane in zip(shares, planes, strict=True):
        yield share, jnp.where(share == 0, 0.0, plane)


def add_planes(planes: Iterable[Plane]) -> Plane:
    """The sum of the planes."""
    return functools.reduce(operator.add, planes)


def sum_pixels(values: Channels) -> Sums:
    """Per-image sums over all pixels."""
    if values.ndim == 3:
        return values.sum((1, 2))[:, None]
    # Few wide rows instead of many narrow ones, which take eight times as long.
    batch, height, width, channels = values.shape
    group = math.gcd(height * width, 16)
    wide = values.reshape(batch, -1, group * channels).sum(1)
    return wide.reshape(batch, group, channels).sum(1)


def _normalizer(logits: Channels) -> tuple[Plane, ...]:
    """For softmax, what is taken off every logit and what multiplies the exponentials."""
    if logits.ndim == 3:
        return ()
    shift = materialize(jax.lax.stop_gradient(_over_channels(jnp.maximum, jnp.max, logits)))
    exponentials = materialize(jnp.exp(logits - shift[..., None]))
    return shift, materialize(1 / _over_channels(jnp.add, jnp.sum, exponentials))


def _probabilities(logits: Channels, normalizer: tuple[Plane, ...]) -> Channels:
    if not normalizer:
        return jax.nn.sigmoid(logits)
    shift, scale = normalizer
    return jnp.exp(logits - shift[..., None]) * scale[..., None]


def _probability_tangent(p: Channels, logits_dot: Channels) -> Channels:
    if p.ndim == 3:
        return p * (1 - p) * logits_dot
    # Transposed, the sum is a broadcast, and the repetition a sum channel by channel.
    change = p * logits_dot
    return change - p * _repeat(change.sum(-1), p.shape[-1])


def _repeat(plane: Plane, num_channels: int) -> Channels:
    if num_channels > _FEW:
        return jnp.broadcast_to(plane[..., None], (*plane.shape, num_channels))
    return jnp.stack([plane] * num_channels, -1)


def _over_channels(
    combine: Callable[..., jax.Array], reduce: Callable[..., jax.Array], values: Channels
) -> Plane:
    if values.shape[-1] > _FEW:
        return reduce(values, -1)
    return functools.reduce(combine, [values[..., k] for k in range(values.shape[-1])])


def _instantiate(tangent: Any) -> Any:
    if not isinstance(tangent, SymbolicZero):
        return tangent
    shape_and_dtype: Any = tangent
    return np.zeros(shape_and_dtype.shape, shape_and_dtype.dtype)
