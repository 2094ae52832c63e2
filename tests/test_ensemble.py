import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxseg import inference
from jaxseg.errors import InputError

RNG = np.random.default_rng(3)
ensemble_logits = jax.jit(inference.ensemble_logits)
mutual_information = jax.jit(inference.mutual_information)


def members(classes, count=3):
    return RNG.normal(0, 3, (count, 2, 5, 7, classes)).astype(np.float32)


def probabilities(logits):
    """In float64, with the background as a separate class."""
    logits = np.asarray(logits, np.float64)
    if logits.shape[-1] == 1:
        logits = np.concatenate([np.zeros_like(logits), logits], axis=-1)
    return np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)


@pytest.mark.parametrize("classes", [1, 3])
def test_the_ensembles_probability_is_the_mean_of_its_members(classes):
    logits = members(classes)
    joint = ensemble_logits(logits)
    assert joint.dtype == jnp.float32
    np.testing.assert_allclose(
        probabilities(joint), probabilities(logits).mean(axis=0), rtol=2e-5, atol=1e-7
    )


@pytest.mark.parametrize("classes", [1, 3])
def test_one_network_is_its_own_ensemble(classes):
    logits = members(classes, count=1)
    joint = ensemble_logits(logits)
    np.testing.assert_allclose(probabilities(joint), probabilities(logits[0]), rtol=1e-5, atol=1e-7)
    assert float(mutual_information(logits).max()) == 0


def test_huge_logits_stay_finite():
    logits = np.array([1e4, -1e4, 1e4], np.float32)[:, None, None, None, None]
    joint = ensemble_logits(logits)
    np.testing.assert_allclose(joint, np.log(2), rtol=1e-6)
    np.testing.assert_allclose(mutual_information(logits), stats.entropy([1 / 3, 2 / 3]), rtol=1e-6)


@pytest.mark.parametrize("classes", [1, 3])
def test_mutual_information_is_the_entropy_of_the_mean_minus_the_mean_entropy(classes):
    logits = members(classes)
    each = probabilities(logits)
    mean = stats.entropy(each.mean(axis=0), axis=-1)
    expected = mean - stats.entropy(each, axis=-1).mean(axis=0)
    found = mutual_information(logits)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert expected.max() > 0.1


@pytest.fixture(scope="module")
def gradient():
    """Of the sum of the mutual information, compiled once for each shape."""
    return jax.jit(jax.grad(lambda logits: inference.mutual_information(logits).sum()))


@pytest.mark.parametrize("classes", [1, 3])
def test_the_gradient_of_mutual_information_is_its_difference_quotient(classes, gradient):
    logits, along = members(classes), members(classes)

    def by_hand(logits):
        each = probabilities(logits)
        joint = stats.entropy(each.mean(axis=0), axis=-1)
        return (joint - stats.entropy(each, axis=-1).mean(axis=0)).sum()

    step = 1e-5 * along.astype(np.float64)
    quotient = (by_hand(logits + step) - by_hand(logits - step)) / 2e-5
    np.testing.assert_allclose((gradient(logits) * along).sum(), quotient, rtol=1e-4)


@pytest.mark.parametrize("classes", [1, 3])
def test_certain_members_have_a_finite_gradient(classes, gradient):
    # The exponential of these differences is 0 in float32.
    logits = np.clip(100 * members(classes), -150, 150)
    assert np.isfinite(gradient(logits)).all()


def test_two_certain_members_that_disagree_have_one_bit_of_information():
    logits = np.array([50, -50], np.float32)[:, None, None, None, None]
    np.testing.assert_allclose(mutual_information(logits), np.log(2), rtol=1e-6)


@pytest.mark.parametrize("classes", [1, 3])
def test_disagreement_is_1_minus_the_mean_dice_of_pairs(classes):
    logits = members(classes)
    labels = logits[..., 0] > 0 if classes == 1 else logits.argmax(axis=-1)
    expected = []
    for image in range(2):
        dice = [
            2 * ((a == c) & (b == c)).sum() / ((a == c).sum() + (b == c).sum())
            for a, b in itertools.combinations(labels[:, image], 2)
            for c in range(1, max(classes, 2))
        ]
        expected.append(1 - np.mean(dice))
    np.testing.assert_allclose(jax.jit(inference.disagreement)(logits), expected, rtol=1e-6)


def test_empty_masks_agree_and_nan_stays_nan():
    empty = np.full((2, 2, 4, 4, 1), -1, np.float32)
    empty[0, 1, 0, 0] = np.nan
    assert inference.disagreement(empty)[0] == 0
    assert np.isnan(inference.disagreement(empty)[1])


def test_too_few_members_are_refused():
    with pytest.raises(InputError, match="of 2 or more networks"):
        inference.disagreement(members(1, count=1))
    with pytest.raises(InputError, match="of 1 or more networks"):
        inference.ensemble_logits(members(1, count=0))


def test_a_run_that_is_there_twice_is_refused(tmp_path, monkeypatch):
    from experiments import ensemble

    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="a run is there twice"):
        ensemble.load_members([tmp_path / "run", Path("run")], same_test_images=True)
