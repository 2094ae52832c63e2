"""Ensembles: the mean prediction of several networks, and how much they disagree."""

import itertools
import math

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp
from jaxtyping import Float

from jaxseg import metrics
from jaxseg.errors import InputError
from jaxseg.types import Array, Logits


def ensemble_logits(members: Float[Array, "M B H W K"]) -> Logits:
    """Returns the logits of the members' mean probability.

    Probabilities are averaged, as in Lakshminarayanan et al. 2017, in log space, so that large
    logits do not overflow.

    Args:
        members: Logits of one batch by each of M networks, M at least 1.

    Returns:
        float32 ``[B, H, W, K]``. For ``K == 1`` the logit of the mean probability, else its
        logarithm, whose softmax is the mean probability.

    Raises:
        InputError: There is no member.
    """
    members = _checked(members)
    if members.shape[-1] == 1:
        return _log_mean(jax.nn.log_sigmoid(members)) - _log_mean(jax.nn.log_sigmoid(-members))
    return _log_mean(jax.nn.log_softmax(members))


def mutual_information(members: Float[Array, "M B H W K"]) -> Float[jax.Array, "B H W"]:
    """Returns the mutual information per pixel, a map of the members' disagreement.

    It is the entropy of the mean probability minus the mean of the members' entropies (Houlsby et
    al. 2011; for ensembles, Depeweg et al. 2018). Uncertainty that all members have in common
    does not count.

    Args:
        members: Logits of one batch by each of M networks, M at least 1.

    Returns:
        float32 ``[B, H, W]`` in nats. It is 0 where all members agree or M is 1, and at most the
        logarithm of the smaller of M and the number of classes.

    Raises:
        InputError: There is no member.
    """
    members = _checked(members)
    if members.shape[-1] == 1:
        # Two classes, of which the background has logit 0.
        members = jnp.concatenate([jnp.zeros_like(members), members], axis=-1)
    log_probabilities = jax.nn.log_softmax(members)
    of_mean = _entropy(_log_mean(log_probabilities))
    # Where all members agree, the difference is rounding error of either sign.
    return jnp.maximum(of_mean - _entropy(log_probabilities).mean(axis=0), 0.0)


def disagreement(members: Float[Array, "M B H W K"]) -> Float[jax.Array, "B"]:
    """Returns 1 minus the mean pairwise Dice of the members' masks, per image.

    It needs no ground truth and is high for images whose masks are uncertain (Roy et al. 2019, who
    use samples of one network). The Dice of two empty masks is 1.

    Args:
        members: Logits of one batch by each of M networks, M at least 2.

    Returns:
        float32 ``[B]`` in [0, 1], the mean over pairs of members and over foreground classes. NaN
        for an image with a NaN logit.

    Raises:
        InputError: There are fewer than two members.
    """
    members = _checked(members, least=2)
    classes = members.shape[-1]
    labels = [metrics.predicted_labels(logits) for logits in members]
    dice = []
    for one, other in itertools.combinations(labels, 2):
        counts = metrics.count(one, other, num_classes=classes)
        per_class = jnp.asarray(metrics.dice(counts, undefined=1.0))
        dice.append(per_class[:, min(1, classes - 1) :].mean(axis=-1))
    return 1.0 - jnp.stack(dice).mean(axis=0)


def _checked(members: Array, *, least: int = 1) -> jax.Array:
    members = jnp.asarray(members, jnp.float32)
    if members.ndim != 5 or members.shape[0] < least:
        raise InputError(
            f"members: shape {members.shape}. Pass logits [M, B, H, W, K] of {least} or more "
            "networks."
        )
    return members


def _log_mean(log_probabilities: jax.Array) -> jax.Array:
    return logsumexp(log_probabilities, axis=0) - math.log(log_probabilities.shape[0])


def _entropy(log_probabilities: jax.Array) -> jax.Array:
    """Returns the entropy in nats, with a finite gradient also where a probability is 0."""
    probabilities = jnp.exp(log_probabilities)
    return -(probabilities * jnp.where(probabilities > 0, log_probabilities, 0.0)).sum(axis=-1)
