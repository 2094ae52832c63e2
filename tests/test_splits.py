import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxseg.data.splits import (
    SPLITS,
    Bridge,
    choosing_split,
    group_films,
    grouped_split,
    natural_key,
    seed_split,
    split_alone,
)


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


contents_of_few_kinds = st.lists(st.integers(0, 12).map(lambda n: sha(str(n))), max_size=30)
contents_of_many_kinds = st.lists(st.integers(0, 60).map(lambda n: sha(str(n))), max_size=30)


@st.composite
def films_with_pairs(draw):
    """Contents, and pairs of films said to look alike."""
    contents = draw(contents_of_many_kinds)
    if not contents:
        return contents, []
    film = st.integers(0, len(contents) - 1)
    pair = st.tuples(film, film).filter(lambda pair: pair[0] != pair[1])
    return contents, draw(st.lists(pair, max_size=20) if len(contents) > 1 else st.just([]))


def reached(contents, pairs, start) -> set[int]:
    """All films that one leads to by steps of likeness, by brute force."""
    found, size = {start}, 0
    while size != len(found):
        size = len(found)
        found |= {i for i, c in enumerate(contents) for j in found if contents[j] == c}
        found |= {b for pair in pairs for a, b in (pair, pair[::-1]) if a in found}
    return found


@pytest.mark.parametrize(
    ("unsorted", "expected"),
    [
        (["COVID-10", "COVID-9", "COVID-1"], ["COVID-1", "COVID-9", "COVID-10"]),
        (["Normal-1", "COVID-2"], ["COVID-2", "Normal-1"]),
        (
            ["Viral Pneumonia-100", "Viral Pneumonia-20"],
            ["Viral Pneumonia-20", "Viral Pneumonia-100"],
        ),
        (["a2b10", "a2b9", "a1b11"], ["a1b11", "a2b9", "a2b10"]),
        (["film", "7", "film7"], ["7", "film", "film7"]),
        (["x1", "x01", "x001"], ["x001", "x01", "x1"]),
    ],
)
def test_natural_order_counts_digits_as_numbers(unsorted, expected):
    assert sorted(unsorted, key=natural_key) == expected


@given(st.lists(st.text(max_size=8), max_size=8))
def test_natural_order_is_one_order_for_any_names(names):
    assert sorted(names, key=natural_key) == sorted(reversed(names), key=natural_key)


@given(contents_of_few_kinds)
def test_a_group_is_all_films_of_one_content_named_by_its_first(contents):
    expected = [min(j for j, other in enumerate(contents) if other == c) for c in contents]
    assert group_films(contents).first == expected
    assert group_films(contents).bridges == []


@given(films_with_pairs())
def test_a_group_is_all_films_that_likeness_leads_to_named_by_its_first(films):
    contents, pairs = films
    expected = [min(reached(contents, pairs, film)) for film in range(len(contents))]
    assert group_films(contents, pairs).first == expected


@given(films_with_pairs())
def test_no_group_straddles_two_splits_and_the_first_film_decides(films):
    contents, pairs = films
    split = grouped_split(contents, pairs)
    for film in range(len(contents)):
        group = reached(contents, pairs, film)
        assert {split[other] for other in group} == {split_alone(contents[min(group)])}


@given(films_with_pairs(), st.integers(0, 30))
def test_films_added_at_the_end_move_none_but_groups_whose_bridge_is_named(films, before):
    contents, pairs = films
    earlier = [(a, b) for a, b in pairs if max(a, b) < before]
    old, new = grouped_split(contents[:before], earlier), grouped_split(contents, pairs)
    bridges = [b for b in group_films(contents, pairs).bridges if b.film >= before]
    joined = {
        film
        for bridge in bridges
        for first in bridge.groups[1:]
        for film in reached(contents, pairs, first)
    }
    moved = {film for film, split in enumerate(old) if new[film] != split}
    assert moved <= joined


def test_a_bridge_is_named_with_the_groups_that_it_joins():
    contents = [sha(str(n)) for n in range(6)]
    pairs = [(0, 1), (2, 3), (5, 1), (3, 5)]
    grouping = group_films(contents, pairs)
    assert grouping.bridges == [Bridge(5, (0, 2))]
    assert grouping.first == [0, 0, 0, 0, 4, 0]


def test_a_hundred_added_films_with_near_duplicates_move_none_of_a_thousand():
    rng = np.random.default_rng(0)
    contents = [sha(str(n)) for n in range(1100)]
    old = [(int(a), int(b)) for a, b in rng.integers(0, 1000, (60, 2))]
    # Each added film looks like one film that was there.
    added = [(int(rng.integers(0, 1000)), film) for film in range(1000, 1100)]
    assert grouped_split(contents, [*old, *added])[:1000] == grouped_split(contents[:1000], old)
    assert set(grouped_split(contents, [*old, *added])) == set(SPLITS)


@given(contents_of_few_kinds, st.data())
def test_without_near_duplicates_films_added_or_left_out_or_moved_change_no_others_split(
    contents, data
):
    split = dict(zip(contents, grouped_split(contents), strict=True))
    fewer = data.draw(st.lists(st.sampled_from(contents)) if contents else st.just([]))
    assert grouped_split(fewer) == [split[content] for content in fewer]


@pytest.mark.parametrize(
    ("first_digits", "split"),
    [
        ("0000", "train"),
        ("b332", "train"),
        ("b334", "validation"),
        ("cccb", "validation"),
        ("ccce", "test"),
        ("ffff", "test"),
    ],
)
def test_the_hash_as_a_fraction_falls_into_70_10_20(first_digits, split):
    assert grouped_split([first_digits + "8" * 60]) == [split]


def test_the_shares_of_many_films_are_70_10_20():
    splits = grouped_split([sha(str(n)) for n in range(20_000)])
    shares = [splits.count(name) / 20_000 for name in ("train", "validation", "test")]
    np.testing.assert_allclose(shares, [0.7, 0.1, 0.2], atol=0.01)


def test_the_seeds_split_of_ten_films_is_the_known_one():
    train, test = seed_split([f"COVID-{n}" for n in range(1, 11)])
    assert test.tolist() == [8, 1, 5]
    assert train.tolist() == [0, 7, 2, 9, 4, 3, 6]


@pytest.mark.parametrize("count", [2, 3, 7, 10, 101, 110, 330, 1100, 3616, 21165])
def test_the_seeds_split_is_scikit_learns(count):
    selection = pytest.importorskip("sklearn.model_selection", reason="needs scikit-learn")
    ids = [f"COVID-{n}" for n in range(count)]
    train, test = seed_split(ids)
    their_train, their_test = selection.train_test_split(ids, test_size=0.3, random_state=42)
    assert [ids[i] for i in train] == their_train
    assert [ids[i] for i in test] == their_test


@given(st.permutations([f"Normal-{n}" for n in range(25)]))
def test_the_seeds_split_picks_the_same_films_from_any_order(ids):
    in_order = [f"Normal-{n}" for n in range(25)]
    for ours, expected in zip(seed_split(ids), seed_split(in_order), strict=True):
        assert [ids[i] for i in ours] == [in_order[i] for i in expected]


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_the_seeds_split_takes_every_film_once(count):
    train, test = seed_split([f"COVID-{n}" for n in range(count)])
    assert sorted([*train, *test]) == list(range(count))
    assert train.dtype == test.dtype == np.int64


@given(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=60))
def test_a_recipe_is_chosen_on_films_that_no_rule_tests_on(kinds):
    ids = [f"Normal-{n}" for n in range(len(kinds))]
    contents = [sha(kind) for kind in kinds]
    groups = [ids[kinds.index(kind)] for kind in kinds]
    split = grouped_split(contents)
    train, test = choosing_split(ids, groups, split)
    tested_by_seed = {groups[i] for i in seed_split(ids)[1]}
    expected = {
        name: [i for i in range(len(ids)) if groups[i] not in tested_by_seed and split[i] == name]
        for name in SPLITS
    }
    assert train.tolist() == expected["train"]
    assert test.tolist() == expected["validation"]


def test_films_to_choose_by_are_some():
    ids = [f"Normal-{n}" for n in range(200)]
    train, test = choosing_split(ids, ids, grouped_split([sha(name) for name in ids]))
    assert len(train) > 80
    assert len(test) > 8
