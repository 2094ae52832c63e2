"""The COVID-19 Radiography Database as people have it: Kaggle's zip, or the folder inside it.

Finds the archive, lists its films with their masks, reads files, and names the content by a
fingerprint that the zip and the unpacked folder share.
"""

import functools
import hashlib
import re
import warnings
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from jaxseg.data.sheets import read_sources
from jaxseg.data.splits import natural_key
from jaxseg.types import InputError

ZIP_NAMES = ("archive.zip", "covid19-radiography-database.zip", "COVID-19_Radiography_Dataset.zip")
FOLDER_NAME = "COVID-19_Radiography_Dataset"

RELEASE_COUNTS: Mapping[str, int] = {
    "COVID": 3616,
    "Lung_Opacity": 6012,
    "Normal": 10192,
    "Viral Pneumonia": 1345,
}
"""Films per class in the full release, classes in their order."""

WHERE_TO_GET_IT = (
    'download the "COVID-19 Radiography Database" by tawsifurrahman from Kaggle and put the zip '
    f"there as {', '.join(ZIP_NAMES[:-1])} or {ZIP_NAMES[-1]}, or its unpacked folder {FOLDER_NAME}"
)


class PartialReleaseWarning(UserWarning):
    """The archive holds fewer films than the release."""


@dataclass(frozen=True)
class Film:
    """One film and its mask: where they lie in the archive.

    Attributes:
        id: the file's stem, such as ``Viral Pneumonia-12``.
        class_name: the class folder's name.
        number: the film's number within its class.
        image: the film's name in the archive.
        mask: the mask's name in the archive.
    """

    id: str
    class_name: str
    number: int
    image: str
    mask: str


class Archive:
    """An opened archive; a context manager. ``open_archive`` makes one.

    Names of files are relative to the data set's own folder, with forward slashes
    (``COVID/images/COVID-1.png``), in a zip and in a folder alike.
    """

    def __init__(self, path: Path, files: Mapping[str, str], opened: zipfile.ZipFile | None):
        """Takes the files found: name by what the zip or the file system calls them."""
        self.path = path
        self._files = files
        self._zip = opened

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
            InputError: the file cannot be read, or its bytes are not those that were packed.
        """
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

    def films(self, classes: Sequence[str]) -> list[Film]:
        """Lists the films of some classes, in (class, number) order.

        Args:
            classes: names of class folders, as in ``RELEASE_COUNTS``.

        Raises:
            InputError: a class is absent, a film has no mask or a mask no film, or a file's name
                is not its class and a number.
        """
        if absent := [name for name in classes if name not in self.classes]:
            raise InputError(
                f"{self.path}: holds no films of {', '.join(absent)}; "
                f"the classes present are {', '.join(self.classes)}"
            )
        films = [film for name in classes for film in self._films_of(name)]
        return sorted(films, key=lambda film: natural_key(film.id))

    def sources(self, class_name: str) -> dict[str, str]:
        """Reads the URL of every film of a class from the class's metadata sheet.

        Returns:
            URL by film id in lower case; empty where the archive has no sheet for the class.

        Raises:
            InputError: the sheet cannot be read.
        """
        name = f"{class_name}.metadata.xlsx"
        if name not in self._files:
            return {}
        return read_sources(self.read(name), f"{self.path}: {name}")

    def warn_if_partial(self, classes: Sequence[str]) -> None:
        """Warns with both counts where a class has fewer films than the release.

        Args:
            classes: names of class folders that the archive has.
        """
        counts = {name: len(self._films_of(name)) for name in classes}
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

    def _films_of(self, class_name: str) -> list[Film]:
        images, masks = self._numbered(class_name, "images"), self._numbered(class_name, "masks")
        for number, name in images.items():
            if number not in masks:
                raise InputError(f"{self.path}: {name} has no mask in {class_name}/masks")
        for number, name in masks.items():
            if number not in images:
                raise InputError(f"{self.path}: {name} has no film in {class_name}/images")
        return [
            Film(
                PurePosixPath(images[number]).stem,
                class_name,
                number,
                images[number],
                masks[number],
            )
            for number in sorted(images)
        ]

    def _numbered(self, class_name: str, kind: str) -> dict[int, str]:
        """The files of one folder, by film number."""
        numbered: dict[int, str] = {}
        for name in self._files:
            if not name.startswith(f"{class_name}/{kind}/"):
                continue
            match = re.fullmatch(rf"{re.escape(class_name)}-(\d+)", PurePosixPath(name).stem)
            if match is None:
                raise InputError(f"{self.path}: {name} should be named {class_name}-NUMBER.png")
            other = numbered.setdefault(int(match[1]), name)
            if other != name:
                raise InputError(f"{self.path}: {name} and {other} have the same number")
        return numbered

    def _crc(self, name: str) -> int:
        if self._zip is not None:
            return self._zip.getinfo(self._files[name]).CRC
        return zlib.crc32(self.read(name))


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
    if path.is_dir():
        opened = None
        found = {
            file.relative_to(path).as_posix(): str(file)
            # A glob of this depth follows symbolic links to folders; rglob does not.
            for pattern in ("*.xlsx", "*/*/*", "*/*.xlsx", "*/*/*/*")
            for file in path.glob(pattern)
            if file.is_file()
        }
    else:
        opened = _open_zip(path)
        found = {name: name for name in opened.namelist()}
    try:
        return Archive(path, _placed(path, found), opened)
    except InputError:
        if opened is not None:
            opened.close()
        raise


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


def _placed(path: Path, found: Mapping[str, str]) -> dict[str, str]:
    """The films, masks and sheets among the files found, by name relative to their common root."""
    classes = "|".join(re.escape(name) for name in RELEASE_COUNTS)
    place = re.compile(
        rf"(?P<root>.*/)?(?P<name>(?:{classes})/(?:images|masks)/[^/.][^/]*\.(?i:png)"
        rf"|(?:{classes})\.metadata\.xlsx)"
    )
    matches = {
        name: match
        for name in found
        if (match := place.fullmatch(name)) and "__MACOSX" not in name.split("/")
    }
    roots = {match["root"] for match in matches.values() if "/images/" in match["name"]}
    if not roots:
        raise InputError(
            f"{path}: holds no films; they should lie in folders such as {FOLDER_NAME}/COVID/images"
        )
    if len(roots) > 1:
        first, second, *_ = sorted(root or "./" for root in roots)
        raise InputError(f"{path}: holds the films twice, in {first} and in {second}")
    (root,) = roots
    return {m["name"]: found[name] for name, m in matches.items() if m["root"] == root}
