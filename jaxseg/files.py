"""Files that are complete or absent."""

import os
import uuid
from pathlib import Path


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file that is complete or absent, also after a power cut.

    Raises:
        OSError: The file cannot be written. The error names it, and an older one is kept.
    """
    # Short, because the file's own name may have the largest length; unique on a shared disk.
    temporary = path.with_name(f".{uuid.uuid4().hex}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        # The error of a full disk names no file.
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)
