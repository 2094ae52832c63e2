"""Several networks as one: their mean, and where and how far they disagree."""

import itertools
import math

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp
from jaxtyping import Float

from jaxseg import metrics
from jaxseg.types import Array, InputError, Logits


def ensemble_logits(members: Float[Array, "M B H W K"]) -> Logits:
    """The logits of the members' mean probability.

    Probabilities are averaged, as in Lakshminarayanan et al. 2017, in logarithms, so that no
    logit is too large. What comes are logits again, for thresholds and scores as any network's.

    Args:
        members: Logits of one batch by each of M networks, M at least 1.

    Returns:
        float32 ``[B, H, W, K]``: for ``K == 1`` the logit of the mean, else its logarithm, whose
        softmax is the mean.

    Raises:
        InputError: There is no member.
    """
    members = _checked(members)
    if members.shape[-1] == 1:
        return _log_mean(jax.nn.log_sigmoid(members)) - _log_mean(jax.nn.log_sigmoid(-members))
    return _log_mean(jax.nn.log_softmax(members))


def mutual_information(members: Float[Array, "M B H W K"]) -> Float[jax.Array, "B H W"]:
    """How far the members disagree on each pixel, whatever doubt they share: an uncertainty map.

    The entropy of their mean probability less the mean of their entropies (Houlsby et al. 2011;
    of ensembles, Depeweg et al. 2018).

    Args:
        members: Logits of one batch by each of M networks, M at least 1.

    Returns:
        float32 ``[B, H, W]`` in nats, from 0 where all say the same (or there is one member) to
        the logarithm of the smaller of M and the number of classes.

    Raises:
        InputError: There is no member.
    """
    members = _checked(members)
    if members.shape[-1] == 1:
        # As two classes, the background's logit being 0.
        members = jnp.concatenate([jnp.zeros_like(members), members], axis=-1)
    logarithms = jax.nn.log_softmax(members)
    # Where all say the same, rounding alone is left, of either sign.
    return jnp.maximum(_entropy(_log_mean(logarithms)) - _entropy(logarithms).mean(axis=0), 0.0)


def disagreement(members: Float[Array, "M B H W K"]) -> Float[jax.Array, "B"]:
    """How far the members' masks of each film differ: one less their mean Dice with each other.

    Needs no truth, and tells films whose masks are doubtful (Roy et al. 2019, there of samples of
    one network). Two empty masks agree.

    Args:
        members: Logits of one batch by each of M networks, M at least 2.

    Returns:
        float32 ``[B]`` in [0, 1], the mean over pairs of members and over the classes but the
        background; NaN where a logit is NaN.

    Raises:
        InputError: There are fewer than two members.
    """
    members = _checked(members, least=2)
    classes = members.shape[-1]
    labels = [metrics.predicted_labels(logits) for logits in members]
    dice = []
    for one, other in itertools.combinations(labels, 2):
        counts = metrics.count(one, other, num_classes=classes)
        own = jnp.asarray(metrics.dice(counts, undefined=1.0))
        dice.append(own.mean(axis=-1) if classes == 1 else own[:, 1:].mean(axis=-1))
    return 1.0 - jnp.stack(dice).mean(axis=0)


def _checked(members: Array, *, least: int = 1) -> jax.Array:
    members = jnp.asarray(members, jnp.float32)
    if members.ndim != 5 or members.shape[0] < least:
        raise InputError(
            f"members: logits [M, B, H, W, K] of {least} or more networks, not {members.shape}"
        )
    return members


def _log_mean(logarithms: jax.Array) -> jax.Array:
    return logsumexp(logarithms, axis=0) - math.log(logarithms.shape[0])


def _entropy(logarithms: jax.Array) -> jax.Array:
    """In nats, of logarithms of probabilities; its gradient is finite also where one is 0."""
    probabilities = jnp.exp(logarithms)
    return -(probabilities * jnp.where(probabilities > 0, logarithms, 0.0)).sum(axis=-1)
