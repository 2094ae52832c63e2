"""What a build found and made of it: facts kept with the data set, and the text made of them."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxseg.data.archive import RELEASE_COUNTS
from jaxseg.data.inspection import Inspection
from jaxseg.data.likeness import BITS, NEAR
from jaxseg.data.splits import SPLITS, split_alone

FILE = "report.md"
"""The report's name, beside the prepared data."""

NO_SHEET = "no metadata sheet"
NO_ROW = "no row in the sheet"
NO_SOURCE = "no address in the sheet"

_MOST_SOURCES = 30
"""Sources of a class that the text names; the facts hold all."""


def facts(inspection: Inspection, classes: Sequence[str]) -> dict[str, Any]:
    """What the report says, as plain values; of groups those with a film of these classes.

    Returns:
        ``films``: by class, ``{split: count}``. ``sources``: by class, ``{source: count}``.
        ``duplicates``: lists of ids of films with the same bytes. ``near_duplicates``: ``[id, id,
        bits that differ]`` of films with other bytes. ``groups``: ``films``, ``split``, and under
        ``alone`` the films that would be in another split by themselves. ``bridges``: the ``film``,
        the ``groups`` that it joined, named by their first films, and ``moved``, the first films of
        those that are in another split for it. ``oddities``: ``{what: count}``. ``faults``: each a
        ``film`` (or empty) and a ``message``.
    """
    ids = [inspected.film.id for inspected in inspection.films]
    of_config = [inspected.film.class_name in classes for inspected in inspection.films]
    contents = [inspected.content for inspected in inspection.films]
    films: Counter[tuple[str, str]] = Counter()
    sources: dict[str, Counter] = {name: Counter() for name in classes}
    for index, inspected in enumerate(inspection.films):
        name = inspected.film.class_name
        if name in classes:
            films[name, inspection.split(index)] += 1
            missing = NO_ROW if name in inspection.sheets else NO_SHEET
            sources[name][inspection.sources.get(ids[index], missing) or NO_SOURCE] += 1

    def kept(members: Sequence[int]) -> bool:
        return len(members) > 1 and any(of_config[film] for film in members)

    return {
        "films": {name: {split: films[name, split] for split in SPLITS} for name in classes},
        "sources": {name: dict(counts.most_common()) for name, counts in sources.items()},
        "duplicates": [[ids[film] for film in same] for same in _alike(contents) if kept(same)],
        "near_duplicates": [
            [ids[one], ids[other], bits]
            for one, other, bits in inspection.near
            if contents[one] != contents[other] and kept((one, other))
        ],
        "groups": [
            {
                "films": [ids[film] for film in group],
                "split": (split := inspection.split(group[0])),
                "alone": {
                    ids[film]: alone
                    for film in group
                    if (alone := split_alone(contents[film])) != split
                },
            }
            for group in _alike(inspection.grouping.first)
            if kept(group)
        ],
        "bridges": [
            {
                "film": ids[bridge.film],
                "groups": [ids[first] for first in bridge.groups],
                "moved": [
                    ids[first]
                    for first in bridge.groups[1:]
                    if split_alone(contents[first]) != split_alone(contents[bridge.groups[0]])
                ],
            }
            for bridge in inspection.grouping.bridges
            if kept((bridge.film, *bridge.groups))
        ],
        "oddities": dict(inspection.oddities),
        "faults": [fault._asdict() for fault in inspection.faults],
    }


def markdown(name: str, facts: Mapping[str, Any]) -> str:
    """The report as text in Markdown.

    Args:
        name: the data set's.
        facts: as the function of that name gives them, and the archive's ``fingerprint``.
    """
    lines = [
        f"# {name}",
        "",
        f"Built from the archive with the fingerprint {facts['fingerprint'][:16]}.",
        "",
        *_films(facts["films"]),
        "## Sources",
        "",
        "| class | source | films |",
        "|---|---|---|",
        *_sources(facts["sources"]),
        "",
        *_groups(facts),
        "## Irregular files",
        "",
        *(f"- {what}: {count}" for what, count in sorted(facts["oddities"].items())),
        *([] if facts["oddities"] else ["None."]),
        "",
        "## Left out",
        "",
        *_faults(facts["faults"]),
    ]
    return "\n".join(lines) + "\n"


def _films(films: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    yield "| class | in the release | here | " + " | ".join(SPLITS) + " |"
    yield "|---" * (3 + len(SPLITS)) + "|"
    totals = {split: sum(counts[split] for counts in films.values()) for split in SPLITS}
    released = {name: RELEASE_COUNTS[name] for name in films}
    rows = [(name, released[name], films[name]) for name in films]
    for name, release, counts in [*rows, ("all", sum(released.values()), totals)]:
        cells = [name, release, sum(counts.values()), *(counts[split] for split in SPLITS)]
        yield "| " + " | ".join(map(str, cells)) + " |"
    yield ""


def _sources(sources: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    for class_name, counts in sources.items():
        rows = list(counts.items())
        for source, count in rows[:_MOST_SOURCES]:
            yield f"| {class_name} | {source} | {count} |"
        if rest := rows[_MOST_SOURCES:]:
            yield f"| {class_name} | {len(rest)} more | {sum(count for _, count in rest)} |"


def _groups(facts: Mapping[str, Any]) -> Iterator[str]:
    groups, duplicates, near = facts["groups"], facts["duplicates"], facts["near_duplicates"]
    yield "## Films that share a split"
    yield ""
    yield (
        f"{len(groups)} groups of {sum(len(group['films']) for group in groups)} films: "
        f"{len(duplicates)} times the same bytes, {len(near)} pairs of near duplicates "
        f"(at most {NEAR} of {BITS} bits differ)."
    )
    yield ""
    for group in groups:
        alone = "".join(f"; {film} alone: {split}" for film, split in group["alone"].items())
        yield f"- {group['split']}: {', '.join(group['films'])}{alone}"
    for one, other, bits in near:
        yield f"- near duplicates: {one} and {other}, {bits} bits differ"
    for bridge in facts["bridges"]:
        moved = ", ".join(bridge["moved"]) or "none"
        yield (
            f"- {bridge['film']} bridges the groups of {', '.join(bridge['groups'])}; "
            f"in another split for it: {moved}"
        )
    if groups:
        yield ""


def _faults(faults: Sequence[Mapping[str, str]]) -> Iterator[str]:
    dropped = {fault["film"] for fault in faults} - {""}
    yield f"{len(dropped)} films left out; {len(faults)} files will not do."
    if faults:
        yield ""
    yield from (f"- {fault['message']}" for fault in faults)


def _alike(values: Sequence[Any]) -> list[list[int]]:
    """The indices of every value, values in the order of their first."""
    indices: dict[Any, list[int]] = {}
    for index, value in enumerate(values):
        indices.setdefault(value, []).append(index)
    return list(indices.values())
