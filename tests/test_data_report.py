"""The report of a build, from an inspection made by hand."""

import json

from jaxseg.data.covid_radiography.report import facts, markdown
from jaxseg.data.inspection import Inspected, Inspection
from jaxseg.data.listing import Fault, Film
from jaxseg.data.splits import group_films

TRAIN, VALIDATION, TEST = "0" * 64, "c" + "0" * 63, "f" * 64
"""Contents whose films, alone, fall into these splits."""


def film(class_name: str, number: int) -> Film:
    stem = f"{class_name}-{number}"
    return Film(
        stem,
        class_name,
        number,
        f"{class_name}/images/{stem}.png",
        f"{class_name}/masks/{stem}.png",
    )


def inspection(contents: dict[tuple[str, int], str], near=(), **found) -> Inspection:
    films = [Inspected(film(*key), content, b"", ()) for key, content in contents.items()]
    grouping = group_films(list(contents.values()), [(a, b) for a, b, _ in near])
    fields = {"sheets": [], "sources": {}, "oddities": {}, "faults": []} | found
    return Inspection(films, near, grouping, **fields)


def report_of(found: Inspection, classes) -> tuple[dict, str]:
    told = facts(found, classes)
    assert json.loads(json.dumps(told)) == told
    return told, markdown("covid_radiography/x/2.0.0", {**told, "fingerprint": "ab" * 32})


def test_films_are_counted_by_class_and_split_and_source():
    found = inspection(
        {
            ("COVID", 1): TRAIN,
            ("COVID", 2): TEST,
            ("COVID", 3): TEST[:-1] + "e",
            ("Normal", 1): VALIDATION,
        },
        sheets=["COVID"],
        sources={"COVID-1": "https://a.org", "COVID-2": ""},
    )
    told, text = report_of(found, ["COVID", "Normal"])
    assert told["films"] == {
        "COVID": {"train": 1, "validation": 0, "test": 2},
        "Normal": {"train": 0, "validation": 1, "test": 0},
    }
    assert told["sources"] == {
        "COVID": {"https://a.org": 1, "no address in the sheet": 1, "no row in the sheet": 1},
        "Normal": {"no metadata sheet": 1},
    }
    for line in (
        "| COVID | 3616 | 3 | 1 | 0 | 2 |",
        "| Normal | 10192 | 1 | 0 | 1 | 0 |",
        "| all | 13808 | 4 | 1 | 1 | 2 |",
        "| COVID | https://a.org | 1 |",
        "0 films left out; 0 files will not do.",
    ):
        assert line in text.splitlines()


def test_groups_name_their_split_and_the_films_that_alone_would_be_elsewhere():
    contents = {("COVID", 1): TRAIN, ("COVID", 2): TEST, ("COVID", 3): TRAIN, ("Normal", 9): TEST}
    told, text = report_of(inspection(contents, [(0, 1, 17)]), ["COVID"])
    assert told["duplicates"] == [["COVID-1", "COVID-3"], ["COVID-2", "Normal-9"]]
    assert told["near_duplicates"] == [["COVID-1", "COVID-2", 17]]
    (group,) = told["groups"]
    assert group["films"] == ["COVID-1", "COVID-2", "COVID-3", "Normal-9"]
    assert (group["split"], group["alone"]) == ("train", {"COVID-2": "test", "Normal-9": "test"})
    assert "- near duplicates: COVID-1 and COVID-2, 17 bits differ" in text
    assert "- train: COVID-1, COVID-2, COVID-3, Normal-9; COVID-2 alone: test" in text


def test_a_group_of_other_classes_only_is_left_out():
    told, _ = report_of(
        inspection({("COVID", 1): TRAIN, ("Normal", 1): TEST, ("Normal", 2): TEST}), ["COVID"]
    )
    assert told["groups"] == told["duplicates"] == []


def test_a_bridge_is_named_with_the_groups_that_it_moved():
    contents = {("COVID", number): content for number, content in enumerate((TRAIN, TEST), 1)}
    contents |= {("COVID", 3): VALIDATION, ("COVID", 4): VALIDATION[:-1] + "1"}
    told, text = report_of(inspection(contents, [(0, 3, 5), (1, 3, 6)]), ["COVID"])
    assert told["bridges"] == [
        {"film": "COVID-4", "groups": ["COVID-1", "COVID-2"], "moved": ["COVID-2"]}
    ]
    assert "- COVID-4 bridges the groups of COVID-1, COVID-2; in another split for it: COVID-2" in (
        text
    )


def test_what_was_left_out_is_named_and_counted():
    faults = [
        Fault("COVID-2", "COVID/images/COVID-2.png has no mask in COVID/masks"),
        Fault("", "../evil climbs out of the archive"),
    ]
    oddities = {"film stored as RGB: made grey": 3}
    found = inspection({("COVID", 1): TRAIN}, faults=faults, oddities=oddities)
    _, text = report_of(found, ["COVID"])
    assert "1 films left out; 2 files will not do." in text
    assert all(f"- {fault.message}" in text.splitlines() for fault in faults)
    assert "- film stored as RGB: made grey: 3" in text.splitlines()


def test_many_sources_are_summed_up_but_no_film_is_lost():
    contents = {("COVID", number): TRAIN for number in range(1, 41)}
    sources = {f"COVID-{number}": f"https://{number}.org" for number in range(1, 41)}
    told, text = report_of(inspection(contents, sheets=["COVID"], sources=sources), ["COVID"])
    assert len(told["sources"]["COVID"]) == 40
    assert "| COVID | 10 more | 10 |" in text.splitlines()
