"""JSON that is checked, tables, and locks; files are complete or absent."""

import csv
import errno
import io
import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

from jaxseg.errors import InputError
from jaxseg.files import write_bytes

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


def write_text(path: Path, text: str) -> None:
    """Writes text as `write_bytes` does."""
    write_bytes(path, text.encode())


def write_json(path: Path, values: Any) -> None:
    """Writes JSON as `write_bytes` does. NaN and infinity become null."""
    write_text(path, json.dumps(without_nan(values), indent=2) + "\n")


def as_csv(rows: Iterable[Mapping[str, Any]], columns: Iterable[str] = ()) -> str:
    """Returns rows as CSV, with these columns and those of all rows. None is an empty cell."""
    rows = list(rows)
    text, names = io.StringIO(), dict.fromkeys([*columns, *(name for row in rows for name in row)])
    writer = csv.DictWriter(text, list(names), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object that a command wrote.

    Raises:
        InputError: The file is damaged.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: is damaged ({error}). Restore it or remove its folder") from None
    if not isinstance(values, dict):
        raise InputError(f"{path}: is damaged (no JSON object). Restore it or remove its folder")
    return values


def without_nan(values: Any) -> Any:
    """Returns the values with None for every float that is not finite."""
    if isinstance(values, Mapping):
        return {name: without_nan(value) for name, value in values.items()}
    if isinstance(values, float):
        return values if math.isfinite(values) else None
    if isinstance(values, Iterable) and not isinstance(values, str):
        return [without_nan(value) for value in values]
    return values


def lock(path: Path, message: str) -> IO[str]:
    """Locks a file until the returned file is closed or the process ends.

    On Windows, and on disks without locks, nothing is locked.

    Raises:
        InputError: Another process has locked it. The error has this message.
    """
    file = path.open("w")
    if fcntl is None:
        return file
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise InputError(message) from None
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP):
            file.close()
            raise
    # The process that held the lock before may have removed the file.
    if not path.exists() or not os.path.samestat(os.fstat(file.fileno()), path.stat()):
        file.close()
        path.parent.mkdir(parents=True, exist_ok=True)
        return lock(path, message)
    return file
