import hashlib
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxseg.data.splits import (
    SPLITS,
    fold_split,
    group_images,
    grouped_split,
    held_out_split,
    leaked,
    model_selection_split,
    natural_key,
    random_split,
    split_of_hash,
)
from jaxseg.errors import InputError


def sha(text: object) -> str:
    return hashlib.sha256(str(text).encode()).hexdigest()


def fraction(content: str) -> float:
    """The hash as a number from 0 to 1, from all of its digits."""
    return int(content, 16) / 2**256


@st.composite
def images_with_pairs(draw):
    """Contents, some of them equal, and pairs of images that belong together."""
    contents = draw(st.lists(st.integers(0, 60).map(sha), min_size=1, max_size=30))
    image = st.integers(0, len(contents) - 1)
    return contents, draw(st.lists(st.tuples(image, image), max_size=20))


def reached(contents, pairs, start) -> set[int]:
    """All images that an image is connected to, by brute force."""
    found, size = {start}, 0
    while size != len(found):
        size = len(found)
        found |= {i for i, content in enumerate(contents) for j in found if contents[j] == content}
        found |= {b for pair in pairs for a, b in (pair, pair[::-1]) if a in found}
    return found


@pytest.mark.parametrize(
    "expected",
    [["COVID-1", "COVID-9", "COVID-10"], ["COVID-2", "Normal-1"], ["a1b11", "a2b9", "a2b10"],
     ["7", "image", "image7"], ["x001", "x01", "x1"]],
)  # fmt: skip
def test_natural_order_counts_digits_as_numbers(expected):
    assert sorted(reversed(expected), key=natural_key) == expected


@given(st.lists(st.text("aZ-019²٣é ", max_size=8), max_size=8))
def test_natural_order_is_one_order_for_any_names(names):
    assert sorted(names, key=natural_key) == sorted(reversed(names), key=natural_key)


@given(images_with_pairs())
def test_a_group_is_all_connected_images_and_its_first_decides_the_split(images):
    contents, pairs = images
    first = group_images(contents, pairs)
    assert first == [min(reached(contents, pairs, image)) for image in range(len(contents))]
    assert grouped_split(contents, first) == [split_of_hash(contents[image]) for image in first]


@given(images_with_pairs(), st.integers(0, 30))
def test_images_added_at_the_end_move_none_unless_they_join_groups(images, count):
    contents, pairs = images
    old_pairs = [pair for pair in pairs if max(pair) < count]
    old = group_images(contents[:count], old_pairs)
    new = group_images(contents, pairs)
    splits = grouped_split(contents[:count], old), grouped_split(contents, new)
    for image in range(len(old)):
        joined = {old[other] for other in reached(contents, pairs, image) if other < count}
        assert len(joined) > 1 or splits[0][image] == splits[1][image]


@pytest.mark.parametrize(
    ("first_digits", "split"),
    [("0000", "train"), ("b332", "train"), ("b334", "validation"), ("cccb", "validation"),
     ("ccce", "test"), ("ffff", "test")],
)  # fmt: skip
def test_the_hash_as_a_fraction_is_cut_at_70_and_80_percent(first_digits, split):
    assert split_of_hash(first_digits + "8" * 60) == split


def test_the_fractions_of_many_images_are_70_10_20():
    counts = Counter(split_of_hash(sha(number)) for number in range(20_000))
    fractions = [counts[name] / 20_000 for name in SPLITS]
    np.testing.assert_allclose(fractions, [0.7, 0.1, 0.2], atol=0.01)


@given(images_with_pairs())
def test_filling_leaves_no_split_empty_and_moves_the_group_closest_to_the_middle(images):
    contents, pairs = images
    first = group_images(contents, pairs)
    before, after = grouped_split(contents, first), grouped_split(contents, first, fill_empty=True)
    groups = sorted(set(first))
    assert len(set(after)) == min(3, len(groups))
    assert all(after[image] == after[start] for image, start in enumerate(first))
    moved = [group for group in groups if before[group] != after[group]]
    assert {after[group] for group in moved} == set(after) - set(before)
    middles = {"train": 0.35, "validation": 0.75, "test": 0.9}
    if len(moved) == 1:
        (group,) = moved
        counts = Counter(before[other] for other in groups)
        distance = {other: abs(fraction(contents[other]) - middles[after[group]])
                    for other in groups if counts[before[other]] > 1}  # fmt: skip
        assert group == min(distance, key=distance.__getitem__)


@given(st.data())
def test_a_held_out_source_is_tested_on_and_shares_no_group_with_train(data):
    count = data.draw(st.integers(2, 30))
    several = {"min_size": count, "max_size": count}
    addresses = ["https://Clinic.org/1", "https://clinic.org/2", "https://other.org", ""]
    sources = data.draw(st.lists(st.sampled_from(addresses), **several))
    groups = data.draw(st.lists(st.sampled_from("abcdefghijkl"), **several))
    split = data.draw(st.lists(st.sampled_from(SPLITS), **several))
    tested = [i for i in range(count) if "clinic" in sources[i].lower()]
    if len(tested) in (0, count):
        with pytest.raises(InputError, match="held-out source 'CLINIC'"):
            held_out_split(sources, groups, split, held_out="CLINIC")
        return
    free = [i for i in range(count) if groups[i] not in {groups[j] for j in tested}]
    train, validation, test = held_out_split(sources, groups, split, held_out="CLINIC")
    assert test.tolist() == tested
    assert validation.tolist() == [i for i in free if split[i] == "validation"]
    assert train.tolist() == [i for i in free if split[i] != "validation"]


@pytest.mark.parametrize(
    ("sources", "held_out", "message"),
    [(["b.org", "a.org", ""], "c.org", r"'c\.org': no image .* are a\.org, b\.org$"),
     (["b.org", "a.org"], ".org", "every image"), (["b.org", "a.org"], "", "held-out source ''"),
     (["", ""], "a.org", "not known: the archive has no metadata sheets"),
     ([f"{n}.org" for n in range(25)], "a", r"and 5 more$")],
)  # fmt: skip
def test_a_source_that_cannot_be_held_out_is_refused_with_those_that_exist(
    sources, held_out, message
):
    names = [str(index) for index in range(len(sources))]
    with pytest.raises(InputError, match=message):
        held_out_split(sources, names, ["train"] * len(sources), held_out=held_out)


@given(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=20), st.data())
def test_a_leaked_image_shares_a_group_with_a_training_image(groups, data):
    indices = st.lists(st.integers(0, len(groups) - 1), max_size=10)
    train, test = (np.array(data.draw(indices), np.int64) for _ in range(2))
    expected = [any(groups[i] == groups[j] for j in train) for i in test]
    found = leaked(groups, train, test)
    assert found.dtype == bool
    assert found.tolist() == expected


def test_the_random_split_of_ten_images_is_the_known_one():
    train, test = random_split([f"COVID-{n}" for n in range(1, 11)])
    assert test.tolist() == [8, 1, 5]
    assert train.tolist() == [0, 7, 2, 9, 4, 3, 6]


@pytest.mark.parametrize("count", [2, 3, 7, 110, 3616])
def test_the_random_split_is_that_of_scikit_learn(count):
    selection = pytest.importorskip("sklearn.model_selection", reason="needs scikit-learn")
    ids = [f"COVID-{n}" for n in range(count)]
    expected = selection.train_test_split(ids, test_size=0.3, random_state=42)
    assert [[ids[i] for i in indices] for indices in random_split(ids)] == expected


@given(st.permutations([f"Normal-{n}" for n in range(25)]))
def test_the_random_split_picks_the_same_images_from_any_order(ids):
    in_order = [f"Normal-{n}" for n in range(25)]
    for ours, expected in zip(random_split(ids), random_split(in_order), strict=True):
        assert [ids[i] for i in ours] == [in_order[i] for i in expected]


@pytest.mark.parametrize("count", [0, 1, 2])
def test_the_random_split_takes_every_image_once(count):
    train, test = random_split([f"COVID-{n}" for n in range(count)])
    assert sorted([*train, *test]) == list(range(count))
    assert train.dtype == test.dtype == np.int64


@pytest.mark.parametrize("seed", range(3))
def test_models_are_selected_on_images_that_no_rule_tests_on(seed):
    kinds = [str(kind) for kind in np.random.default_rng(seed).integers(0, 400, 300)]
    ids = [f"Normal-{n}" for n in range(300)]
    split = [split_of_hash(sha(kind)) for kind in kinds]
    tested = {kinds[i] for i in random_split(ids)[1]}
    train, test = model_selection_split(ids, kinds, split)
    for found, name, least in ((train, "train", 80), (test, "validation", 5)):
        assert len(found) > least
        expected = [i for i in range(300) if kinds[i] not in tested and split[i] == name]
        assert found.tolist() == expected


def test_folds_test_every_image_once_and_keep_groups_whole():
    rng = np.random.default_rng(0)
    groups = [f"patient-{i}" for i in rng.integers(0, 60, 200)]
    every = [fold_split(groups, fold, 5) for fold in range(1, 6)]
    tested = np.concatenate([test for _, _, test in every])
    np.testing.assert_array_equal(np.sort(tested), np.arange(200))
    # As even as scikit-learn's GroupKFold, which has the same rule.
    assert {len(test) for _, _, test in every} == {40}
    for parts in every:
        np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(200))
        named = [{groups[i] for i in part} for part in parts]
        assert sum(map(len, named)) == len(set(groups))
        assert len(parts[1]) == 16
    shuffled = rng.permutation(200)
    again = fold_split([groups[i] for i in shuffled], 2, 5)
    for part, other in zip(every[1], again, strict=True):
        np.testing.assert_array_equal(np.sort(shuffled[other]), part)


def test_folds_have_the_sizes_of_scikit_learns():
    model_selection = pytest.importorskip("sklearn.model_selection")
    groups = [f"g{i}" for i in np.random.default_rng(1).integers(0, 23, 150)]
    theirs = model_selection.GroupKFold(4).split(groups, groups=groups)
    ours = [fold_split(groups, fold, 4)[2] for fold in range(1, 5)]
    assert sorted(map(len, ours)) == sorted(len(test) for _, test in theirs)


@pytest.mark.parametrize(("fold", "folds"), [(0, 2), (3, 2), (1, 1), (1, 4)])
def test_folds_out_of_range_are_refused(fold, folds):
    with pytest.raises(InputError, match=f"fold {fold} of {folds}: folds must be 2 to 3"):
        fold_split(["a", "b", "c", "c"], fold, folds)
