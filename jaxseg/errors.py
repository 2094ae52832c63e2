"""The error and the warning for input that you can correct: a file, a folder or an option."""

from collections.abc import Sequence

_LISTED = 20


class InputError(ValueError):
    """A file, folder or option cannot be used. The message says what is wrong."""


class DataWarning(UserWarning):
    """A dataset can be used, but you should check something in it. The message says what."""


def refuse_files(where: object, bad: Sequence[str]) -> None:
    """Raises InputError that lists all files that cannot be used, if there are any.

    Args:
        where: The folder or archive of the files.
        bad: A message for each file, which names it.
    """
    if len(bad) == 1:
        raise InputError(bad[0] if bad[0].startswith(str(where)) else f"{where}: {bad[0]}")
    if bad:
        listed = "".join(f"\n  {message}" for message in bad[:_LISTED])
        more = f"\n  and {len(bad) - _LISTED} more" if len(bad) > _LISTED else ""
        raise InputError(f"{where}: {len(bad)} files cannot be used:{listed}{more}")
