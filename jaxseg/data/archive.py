"""The COVID-19 Radiography Database as people have it: Kaggle's zip, or the folder inside it.

Finds the archive, lists its films with their masks, reads files, and names the content by a
fingerprint that the zip and the unpacked folder share.
"""

import collections
import functools
import hashlib
import warnings
import zipfile
import zlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from jaxseg.data.listing import CLASSES, Fault, Film, check, climbs_out, pair_films, place
from jaxseg.data.sheets import read_sources
from jaxseg.data.splits import natural_key
from jaxseg.errors import InputError

ZIP_NAMES = ("archive.zip", "covid19-radiography-database.zip", "COVID-19_Radiography_Dataset.zip")
FOLDER_NAME = "COVID-19_Radiography_Dataset"

RELEASE_COUNTS: Mapping[str, int] = dict(zip(CLASSES, (3616, 6012, 10192, 1345), strict=True))
"""Films per class in the full release, classes in their order."""

FILM_SIZE = (299, 299)
MASK_SIZE = (256, 256)
"""Width and height in pixels of the release's films and masks."""

LARGEST_FILE = 16 * 2**20
"""Bytes: far more than any file of the release unpacks to."""

WHERE_TO_GET_IT = (
    'download the "COVID-19 Radiography Database" by tawsifurrahman from Kaggle and put the zip '
    f"there as {', '.join(ZIP_NAMES[:-1])} or {ZIP_NAMES[-1]}, or its unpacked folder {FOLDER_NAME}"
)


class PartialReleaseWarning(UserWarning):
    """The archive holds fewer films than the release."""


class Archive:
    """An opened archive; a context manager. ``open_archive`` makes one.

    Names of files are relative to the data set's own folder, with forward slashes
    (``COVID/images/COVID-1.png``), in a zip and in a folder alike.
    """

    def __init__(
        self,
        path: Path,
        files: Mapping[str, str],
        opened: zipfile.ZipFile | None,
        *,
        doubled: Collection[str] = (),
        strays: Sequence[Fault] = (),
    ):
        """Takes what was found.

        Args:
            path: the zip or the folder.
            files: what the zip or the file system calls each file, by name.
            opened: the zip.
            doubled: the names that the zip holds more than once.
            strays: faults of the archive that cost no film.
        """
        self.path = path
        self._files = files
        self._zip = opened
        self._doubled = doubled
        self._strays = strays

    def __enter__(self) -> "Archive":
        return self

    def __exit__(self, *_: object) -> None:
        if self._zip is not None:
            self._zip.close()

    def size(self, name: str) -> int:
        """Bytes of the named file, unpacked."""
        if self._zip is not None:
            return self._zip.getinfo(self._files[name]).file_size
        return Path(self._files[name]).stat().st_size

    def read(self, name: str) -> bytes:
        """Reads one file; several threads may.

        Raises:
            InputError: the file cannot be read, is larger than ``LARGEST_FILE``, or its bytes are
                not those that were packed.
        """
        if (size := self.size(name)) > LARGEST_FILE:
            raise InputError(
                f"{self.path}: {name} unpacks to {size / 1e6:.0f} MB, "
                f"more than the {LARGEST_FILE / 1e6:.0f} MB that any film or sheet needs"
            )
        try:
            if self._zip is not None:
                return self._zip.read(self._files[name])
            return Path(self._files[name]).read_bytes()
        # Unpacking raises RuntimeError on encrypted files, NotImplementedError on odd packing.
        except (OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
            raise InputError(f"{self.path}: {name} cannot be read ({error})") from error

    @functools.cached_property
    def classes(self) -> tuple[str, ...]:
        """The release's classes of which the archive has at least one film, in their order."""
        present = {name.split("/")[0] for name in self._files if "/images/" in name}
        return tuple(name for name in RELEASE_COUNTS if name in present)

    @functools.cached_property
    def fingerprint(self) -> str:
        """sha256, in hexadecimal, over every film, mask and sheet's name, size and CRC-32.

        A zip lists these in its directory; a folder's files are read through.
        """
        digest = hashlib.sha256()
        for name in sorted(self._files):
            digest.update(f"{name}\0{self.size(name)}\0{self._crc(name)}\n".encode())
        return digest.hexdigest()

    def survey(self, classes: Sequence[str]) -> tuple[list[Film], list[Fault]]:
        """Lists the films of some classes, and what is wrong with the rest.

        Args:
            classes: names of class folders, as in ``RELEASE_COUNTS``.

        Returns:
            The films with a mask, in (class, number) order; and the faults of these classes and
            of the archive. No picture is opened.

        Raises:
            InputError: a class is absent.
        """
        if absent := [name for name in classes if name not in self.classes]:
            raise InputError(
                f"{self.path}: holds no films of {', '.join(absent)}; "
                f"the classes present are {', '.join(self.classes)} (configurations "
                f"{', '.join(name.lower().replace(' ', '_') for name in self.classes)})"
            )
        films, faults = [], list(self._strays)
        for name in classes:
            paired, unpaired = self._paired[name]
            films += paired
            faults += unpaired
        return sorted(films, key=lambda film: natural_key(film.id)), faults

    def films(self, classes: Sequence[str]) -> list[Film]:
        """Lists the films of some classes, in (class, number) order.

        Args:
            classes: names of class folders, as in ``RELEASE_COUNTS``.

        Raises:
            InputError: a class is absent, a film has no mask or a mask no film, a file's name is
                not its class and a number or is there twice, or a name climbs out of the archive.
        """
        films, faults = self.survey(classes)
        check(faults, self.path)
        return films

    def sources(self, class_name: str) -> dict[str, str] | None:
        """Reads the URL of every film of a class from the class's metadata sheet.

        Returns:
            URL by film id in lower case, empty where the sheet has none; None where the archive
            has no sheet for the class.

        Raises:
            InputError: the sheet cannot be read.
        """
        name = f"{class_name}.metadata.xlsx"
        if name not in self._files:
            return None
        return read_sources(self.read(name), f"{self.path}: {name}")

    def warn_if_partial(self, classes: Sequence[str]) -> None:
        """Warns with both counts where a class has fewer films than the release.

        Args:
            classes: names of class folders; one that the archive lacks is passed over.
        """
        counts = {name: len(self._paired[name][0]) for name in classes if name in self.classes}
        fewer = [
            f"{name} {count} of {RELEASE_COUNTS[name]}"
            for name, count in counts.items()
            if count < RELEASE_COUNTS[name]
        ]
        if fewer:
            warnings.warn(
                f"{self.path} holds fewer films than the release: {', '.join(fewer)}",
                PartialReleaseWarning,
                stacklevel=3,
            )

    @functools.cached_property
    def _paired(self) -> Mapping[str, tuple[list[Film], list[Fault]]]:
        """The films and the faults of each class present."""
        return {name: pair_films(name, self._files, self._doubled) for name in self.classes}

    def _crc(self, name: str) -> int:
        if self._zip is not None:
            return self._zip.getinfo(self._files[name]).CRC
        checksum = 0
        with Path(self._files[name]).open("rb") as file:
            while block := file.read(1 << 20):
                checksum = zlib.crc32(block, checksum)
        return checksum


def open_archive(manual_dir: Path | str) -> Archive:
    """Opens the archive in a directory.

    Args:
        manual_dir: a directory that holds one of ``ZIP_NAMES`` or the folder ``FOLDER_NAME`` (the
            first in this order is taken), that folder itself, or the path of a zip of any name.

    Returns:
        The archive, to be closed after use. Only pictures and sheets in their places are listed;
        anything else in there is disregarded.

    Raises:
        InputError: there is no archive, or it is no zip, is cut short, or holds no films.
    """
    path = _find(Path(manual_dir).expanduser())
    expected = f"{FOLDER_NAME}/COVID/images"
    if path.is_dir():
        # A glob of this depth follows symbolic links to folders; rglob does not.
        patterns = ("*.xlsx", "*/*/*", "*/*.xlsx", "*/*/*/*")
        found = [file for pattern in patterns for file in path.glob(pattern) if file.is_file()]
        placed = place(
            [file.relative_to(path).as_posix() for file in found], path, expected=expected
        )
        return Archive(path, {name: str(path / file) for name, file in placed.items()}, None)
    opened = _open_zip(path)
    try:
        times = collections.Counter(opened.namelist())
        climbing = sorted(name for name in times if climbs_out(name))
        placed = place(times.keys() - set(climbing), path, expected=expected)
    except InputError:
        opened.close()
        raise
    return Archive(
        path,
        placed,
        opened,
        doubled={name for name, file in placed.items() if times[file] > 1},
        strays=[Fault("", f"{name} climbs out of the archive") for name in climbing],
    )


def _find(manual_dir: Path) -> Path:
    """The zip, or the folder that holds the class folders."""
    if manual_dir.is_file():
        return manual_dir
    if not manual_dir.is_dir():
        raise InputError(f"{manual_dir}: there is no such directory; {WHERE_TO_GET_IT}")
    for name in ZIP_NAMES:
        if (manual_dir / name).is_file():
            return manual_dir / name
    if (manual_dir / FOLDER_NAME).is_dir():
        return manual_dir / FOLDER_NAME
    if any((manual_dir / name / "images").is_dir() for name in RELEASE_COUNTS):
        return manual_dir
    raise InputError(f"{manual_dir}: holds no archive; {WHERE_TO_GET_IT}")


def _open_zip(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        with path.open("rb") as file:
            starts_as_zip = file.read(4) == b"PK\x03\x04"
        what = "is cut short: copy or download it again" if starts_as_zip else "is not a zip"
        raise InputError(f"{path}: {what} ({error})") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error})") from error
