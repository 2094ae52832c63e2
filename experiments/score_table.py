"""The scores of every film of a set, as they lie in a CSV file."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experiments.run_directory import write_text
from jaxseg.errors import InputError


@dataclass(frozen=True, eq=False)
class ScoreTable:
    """A value per film in each column.

    Attributes:
        ids: The films.
        classes: Their classes, empty text where unknown.
        groups: What films share that are not independent, as copies are; else a film's own id.
        columns: float64 ``[films]`` by name, NaN where undefined.
    """

    ids: Sequence[str]
    classes: Sequence[str]
    groups: Sequence[str]
    columns: dict[str, np.ndarray]

    def write(self, path: Path) -> None:
        """Writes a line per film; a cell is empty where undefined."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["id", "class", "group", *self.columns])
        named = zip(self.ids, self.classes, self.groups, strict=True)
        for row, names in enumerate(named):
            values = (column[row] for column in self.columns.values())
            writer.writerow([*names, *("" if np.isnan(v) else f"{v:.6g}" for v in values)])
        write_text(path, text.getvalue())


def read(path: Path) -> ScoreTable:
    """Reads what `ScoreTable.write` wrote, also before it told groups.

    Raises:
        InputError: There is no such file, or it is no table of scores.
    """
    try:
        rows = list(csv.reader(io.StringIO(path.read_text())))
        head, films = rows[0], rows[1:]
        names = 3 if head[2:3] == ["group"] else 2
        values = np.array([[float(cell or "nan") for cell in row[names:]] for row in films])
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such table of scores") from error
    except (IndexError, ValueError) as error:
        raise InputError(f"{path}: is no table of scores ({error})") from error
    if head[:2] != ["id", "class"]:
        raise InputError(f"{path}: is no table of scores")
    values = values.reshape(len(films), len(head) - names)
    return ScoreTable(
        ids=[row[0] for row in films],
        classes=[row[1] for row in films],
        groups=[row[2] if names == 3 else row[0] for row in films],
        columns={name: values[:, place] for place, name in enumerate(head[names:])},
    )
