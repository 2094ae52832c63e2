import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxseg.data.splits import group_films, grouped_split, natural_key, seed_split


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


contents_of_few_kinds = st.lists(st.integers(0, 12).map(lambda n: sha(str(n))), max_size=30)


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
    assert group_films(contents) == expected


@given(contents_of_few_kinds, st.data())
def test_films_added_or_left_out_or_moved_change_no_other_films_split(contents, data):
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
