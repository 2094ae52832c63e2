"""Bootstrap intervals against SciPy, the normal approximation and every possible resample."""

import functools
import itertools
import math
from typing import Any

import jax
import numpy as np
import pytest
import scipy.stats

from jaxseg import metrics
from jaxseg.metrics import bootstrap

KEY = jax.random.key(0)
interval_of = functools.partial(metrics.bootstrap_mean, resamples=1000)
paired_of = functools.partial(metrics.paired_bootstrap, resamples=1000)


def dice_like(images, seed=0):
    """One value per image, skewed like Dice."""
    return np.random.default_rng(seed).beta(8, 2, images)


def test_the_interval_is_that_of_scipy():
    values = dice_like(40)
    ours = metrics.bootstrap_mean(KEY, values, level=0.9, resamples=20_000)
    theirs = scipy.stats.bootstrap(
        (values,),
        np.mean,
        confidence_level=0.9,
        n_resamples=20_000,
        method="percentile",
        rng=np.random.default_rng(1),
    )
    width = theirs.confidence_interval.high - theirs.confidence_interval.low
    assert ours.mean == pytest.approx(values.mean(), rel=1e-12)
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=0.03 * width)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=0.03 * width)


@pytest.mark.slow
def test_the_interval_of_many_images_is_the_normal_one():
    values = dice_like(2000)
    ours = metrics.bootstrap_mean(KEY, values, resamples=5000)
    half = scipy.stats.norm.ppf(0.975) * values.std() / math.sqrt(len(values))
    assert ours.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert ours.high == pytest.approx(values.mean() + half, abs=0.1 * half)


@pytest.mark.parametrize(
    ("values", "groups"),
    [([0.1, 0.4, 0.5, 0.9], [0, 1, 2, 3]), ([0.1, 0.3, 0.9, 0.8, 0.2, 0.5], [0, 1, 1, 2, 2, 2])],
)
def test_resampled_means_have_the_distribution_of_all_resamples_of_groups(values, groups):
    values, groups = np.array(values), np.array(groups)
    whole = [values[groups == group] for group in np.unique(groups)]
    draws = itertools.product(whole, repeat=len(whole))
    every = np.array([np.concatenate(draw).mean() for draw in draws])
    means = bootstrap._resampled_means(KEY, values, groups, 20_000)
    assert set(np.round(means, 6)) <= set(np.round(every, 6))
    for fraction in (0.05, 0.25, 0.5, 0.75, 0.95):
        at = np.quantile(every, fraction)
        assert (means <= at + 1e-6).mean() == pytest.approx((every <= at + 1e-6).mean(), abs=0.015)


def test_images_each_in_a_group_of_its_own_are_images_without_groups():
    values, other = dice_like(40), dice_like(40, seed=1)
    values[7] = np.nan
    groups = [f"group {i}" for i in range(40)]
    assert interval_of(KEY, values, groups=groups) == interval_of(KEY, values)
    assert paired_of(KEY, values, other, groups=groups) == paired_of(KEY, values, other)


@pytest.mark.slow
def test_the_interval_of_groups_contains_the_true_mean_where_that_of_images_does_not():
    random = np.random.default_rng(0)
    groups = np.repeat(np.arange(20), 5)
    held, apart = np.zeros(2, int), np.zeros(2, int)
    for trial in range(60):
        # 100 images of 20 patients, who differ more than their images; two runs of equal quality.
        dice = 0.9 + np.repeat(random.normal(0, 0.03, 20), 5) + random.normal(0, 0.02, 100)
        other = dice - np.repeat(random.normal(0, 0.03, 20), 5) - random.normal(0, 0.02, 100)
        for way, resampled in enumerate((None, groups)):
            found = interval_of(jax.random.key(trial), dice, groups=resampled)
            held[way] += found.low <= 0.9 <= found.high
            apart[way] += (
                paired_of(jax.random.key(trial), dice, other, groups=resampled).p_value < 0.05
            )
    # Of 60 trials 57 and 3 are expected; intervals of 20 groups are a little too narrow.
    assert held[1] >= 51
    assert apart[1] <= 10
    assert held[0] < 48
    assert apart[0] > 12


@pytest.mark.slow
def test_the_interval_of_five_images_is_too_narrow_as_the_docstring_says():
    random = np.random.default_rng(0)
    held = 0
    for trial in range(300):
        interval = interval_of(jax.random.key(trial), random.beta(16, 1, 5))
        held += interval.low <= 16 / 17 <= interval.high
    # Two standard deviations of the binomial either side.
    assert held / 300 == pytest.approx(0.8, abs=0.04)


def test_one_group_has_no_interval():
    interval = interval_of(KEY, np.array([0.5, 0.75]), groups=["a", "a"])
    assert (interval.mean, interval.images) == (0.625, 2)
    assert math.isnan(interval.low)
    assert math.isnan(paired_of(KEY, np.zeros(2), np.ones(2), groups=["a", "a"]).p_value)


def test_undefined_images_are_left_out_and_counted():
    values = dice_like(40)
    padded = np.insert(values, [0, 7, 40], np.nan)
    assert interval_of(KEY, padded) == interval_of(KEY, values)._replace(undefined=3)


def test_the_same_key_gives_the_same_interval_and_another_key_another():
    values = dice_like(40)
    first = interval_of(KEY, values)
    assert first == interval_of(jax.random.key(0), values)
    assert first.low != interval_of(jax.random.key(1), values).low


def test_shifting_and_scaling_the_values_shifts_and_scales_the_interval():
    values = dice_like(40)
    plain = interval_of(KEY, values)
    moved = interval_of(KEY, 1e6 + 1e-3 * values)
    for one, two in zip(plain[:3], moved[:3], strict=True):
        assert (two - 1e6) * 1e3 == pytest.approx(one, abs=1e-6)


def test_equal_values_have_an_interval_of_no_width():
    interval = interval_of(KEY, np.full(5, 0.75))
    assert interval == metrics.Interval(0.75, 0.75, 0.75, images=5, undefined=0)


def test_no_end_is_outside_the_values():
    value = 0.3
    # A third of all resamples hold zeros alone, whose mean comes out of centred float32.
    low = interval_of(KEY, np.append(np.zeros(10), value)).low
    assert 0 <= low < 1e-8
    high = interval_of(KEY, np.append(np.ones(10), 1 - value)).high
    assert 1 - 1e-8 < high <= 1


@pytest.mark.parametrize(("values", "mean"), [([], math.nan), ([0.5], 0.5), ([math.nan], math.nan)])
def test_fewer_than_two_images_have_no_interval(values, mean):
    interval = interval_of(KEY, np.array(values))
    assert interval.mean == pytest.approx(mean, nan_ok=True)
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)
    paired = paired_of(KEY, np.array(values), np.array(values))
    assert math.isnan(paired.low)
    assert math.isnan(paired.p_value)


@pytest.mark.slow
def test_ninety_percent_intervals_contain_the_true_mean_nine_times_in_ten():
    random = np.random.default_rng(0)
    held = 0
    for trial in range(200):
        interval = interval_of(jax.random.key(trial), random.normal(size=40), level=0.9)
        held += interval.low <= 0 <= interval.high
    # 180 expected; four standard deviations of a binomial either side, and the known shortfall of
    # the percentile interval of 40 images, about two in a hundred.
    assert 158 <= held <= 195


def test_the_paired_interval_is_that_of_the_differences():
    first, second = dice_like(40), dice_like(40, seed=1)
    paired = paired_of(KEY, first, second)
    alone = interval_of(KEY, first - second)
    assert (paired.difference, paired.low, paired.high) == alone[:3]
    assert paired.difference == pytest.approx(first.mean() - second.mean())


def test_swapping_the_runs_mirrors_the_paired_interval():
    first, second = dice_like(40), dice_like(40, seed=1)
    one, two = (paired_of(KEY, *runs) for runs in ((first, second), (second, first)))
    assert one.difference == pytest.approx(-two.difference)
    assert one.low == pytest.approx(-two.high)
    assert one.high == pytest.approx(-two.low)
    assert one.p_value == two.p_value


@pytest.mark.slow
def test_the_p_value_of_many_images_is_the_normal_one():
    # Differences whose mean is 1.3 standard errors.
    noise = np.random.default_rng(2).normal(size=2000)
    differences = noise - noise.mean() + 1.3 * noise.std() / math.sqrt(2000)
    second = dice_like(2000)
    paired = metrics.paired_bootstrap(KEY, second + differences, second, resamples=5000)
    assert paired.p_value == pytest.approx(2 * scipy.stats.norm.sf(1.3), abs=0.03)


def test_the_p_value_is_below_five_percent_where_the_interval_excludes_zero():
    random = np.random.default_rng(3)
    apart = 0
    for shift in np.linspace(0, 0.5, 12):
        first, second = random.normal(size=40) + shift, random.normal(size=40)
        paired = paired_of(KEY, first, second)
        if abs(paired.p_value - 0.05) > 0.005:
            assert (paired.p_value < 0.05) == (paired.low > 0 or paired.high < 0)
            apart += paired.p_value < 0.05
    assert 0 < apart < 12


def test_two_equal_runs_do_not_differ_and_the_p_value_is_never_zero():
    values = dice_like(40)
    same = paired_of(KEY, values, values)
    assert (same.difference, same.low, same.high, same.p_value) == (0, 0, 0, 1)
    apart = paired_of(KEY, values + 1, values)
    assert apart.p_value == 2 / 1001


def test_runs_that_differ_on_one_image_alone_do_not_differ():
    images = 73
    first = dice_like(images)
    second = first.copy()
    second[3] -= 0.1
    paired = metrics.paired_bootstrap(KEY, first, second)
    assert paired.low == 0 < paired.difference < paired.high
    # A resample without the one image has no difference.
    assert paired.p_value == pytest.approx(2 * (1 - 1 / images) ** images, abs=0.03)


def test_images_undefined_in_either_run_are_left_out_of_both():
    first, second = dice_like(40), dice_like(40, seed=1)
    first[3] = second[3] = second[7] = np.nan
    kept = ~np.isnan(first + second)
    paired = paired_of(KEY, first, second)
    assert paired == paired_of(KEY, first[kept], second[kept])._replace(undefined=2)
    assert paired.images == 38


def test_a_kept_infinite_value_makes_the_mean_and_one_end_infinite():
    values = np.array([1.0, 2.0, 4.0, np.inf])
    every = np.array([np.mean(draw) for draw in itertools.product(values, repeat=4)])
    found = metrics.bootstrap_mean(KEY, values, level=0.9, resamples=20_000)
    assert found.low == pytest.approx(np.quantile(every, 0.05, method="inverted_cdf"), rel=1e-6)
    assert (found.mean, found.high, found.images) == (math.inf, math.inf, 4)
    means = bootstrap._resampled_means(KEY, values, np.arange(4), 20_000)
    # A resample is finite if none of its four draws is the infinite value.
    assert np.isfinite(means).mean() == pytest.approx(0.75**4, abs=0.015)
    first = metrics.paired_bootstrap(KEY, values, np.ones(4), level=0.9, resamples=20_000)
    assert first[:3] == pytest.approx((math.inf, found.low - 1, math.inf))
    second = metrics.paired_bootstrap(KEY, np.ones(4), values, level=0.9, resamples=20_000)
    assert second[:3] == pytest.approx((-math.inf, -math.inf, -first.low))
    assert first.p_value == second.p_value
    everything = interval_of(KEY, np.full(4, np.inf))
    assert everything[:3] == (math.inf,) * 3


@pytest.mark.parametrize(("infinite", "replacement"), [("exclude", math.nan), (20.0, 20.0)])
def test_infinite_values_are_left_out_or_replaced(infinite, replacement):
    first, second = dice_like(40), dice_like(40, seed=1)
    first[[3, 5]] = second[[5, 7]] = np.inf
    replaced = [np.where(np.isinf(values), replacement, values) for values in (first, second)]
    found = interval_of(KEY, first, infinite=infinite)
    assert found == interval_of(KEY, replaced[0])
    assert found.undefined == (2 if infinite == "exclude" else 0)
    paired = paired_of(KEY, first, second, infinite=infinite)
    assert paired == paired_of(KEY, *replaced)
    assert paired.images == (37 if infinite == "exclude" else 40)


def test_a_difference_between_two_infinite_values_is_undefined():
    first, second = np.array([1.0, np.inf, 3.0]), np.array([1.5, np.inf, 2.0])
    paired = paired_of(KEY, first, second)
    assert paired == paired_of(KEY, first[[0, 2]], second[[0, 2]])._replace(undefined=1)
    # Infinitely better on one image and infinitely worse on another.
    both = paired_of(KEY, np.array([np.inf, 1.0, 2.0]), np.array([1.0, np.inf, 2.0]))
    assert all(math.isnan(value) for value in both[:4])


def test_device_values_are_taken_as_they_are():
    values = jax.numpy.asarray(dice_like(40), dtype=np.float32)
    assert interval_of(KEY, values) == interval_of(KEY, np.asarray(values))


A_WORD: Any = "drop"

ERRORS = {
    "two axes": (
        lambda: metrics.bootstrap_mean(KEY, np.zeros((3, 1))),
        r"values must have shape \[N\], got \(3, 1\)",
    ),
    "infinite": (
        lambda: metrics.bootstrap_mean(KEY, np.zeros(3), infinite=A_WORD),
        'infinite must be "keep", "exclude" or a number, got \'drop\'',
    ),
    "level": (
        lambda: metrics.bootstrap_mean(KEY, np.zeros(3), level=95.0),
        r"level must be in \(0, 1\), got 95.0",
    ),
    "resamples": (
        lambda: metrics.bootstrap_mean(KEY, np.zeros(3), resamples=0),
        "resamples must be at least 1, got 0",
    ),
    "too few groups": (
        lambda: metrics.bootstrap_mean(KEY, np.zeros(3), groups=["a", "b"]),
        "there are 2 groups for 3 values",
    ),
    "runs of different length": (
        lambda: metrics.paired_bootstrap(KEY, np.zeros(3), np.zeros(4)),
        r"first has shape \(3,\), second has \(4,\)",
    ),
}


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize("case", ERRORS)
def test_a_wrong_argument_is_named(case):
    call, message = ERRORS[case]
    with pytest.raises(ValueError, match=message):
        call()
