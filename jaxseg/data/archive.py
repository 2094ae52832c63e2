"""Reads the COVID-19 Radiography Database as Kaggle gives it: a zip, or the folder inside it."""

import functools
import hashlib
import io
import lzma
import re
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from jaxseg.data.splits import natural_key
from jaxseg.errors import DataWarning, InputError

RELEASE_COUNTS: Mapping[str, int] = {
    "COVID": 3616, "Lung_Opacity": 6012, "Normal": 10192, "Viral Pneumonia": 1345,
}  # fmt: skip
"""Images per class folder in the full release."""

CLASSES = tuple(RELEASE_COUNTS)

ZIP_NAMES = ("archive.zip", "covid19-radiography-database.zip", "COVID-19_Radiography_Dataset.zip")
FOLDER_NAME = "COVID-19_Radiography_Dataset"

IMAGE_SIZE = (299, 299)
MASK_SIZE = (256, 256)
"""Width and height of the release's images and masks in pixels."""

MAX_FILE_BYTES = 16 * 2**20
"""Larger files are refused. No file of the release is nearly as large."""

WHERE_TO_GET_IT = (
    'download the "COVID-19 Radiography Database" by tawsifurrahman from Kaggle and put the zip '
    f"there as {', '.join(ZIP_NAMES[:-1])} or {ZIP_NAMES[-1]}, or its unpacked folder {FOLDER_NAME}"
)

_names = "|".join(map(re.escape, CLASSES))
_IN_PLACE = re.compile(
    rf"(?P<root>.*/)?(?P<name>(?:{_names})/(?:images|masks)/[^/.][^/]*\.(?i:png)"
    rf"|(?:{_names})\.metadata\.xlsx)"
)


class PartialReleaseWarning(DataWarning):
    """The archive holds fewer images than the release."""


class Pair(NamedTuple):
    """An image and its mask in an archive.

    Attributes:
        id: The image's name without suffix, such as ``Viral Pneumonia-12``.
        class_name: The name of the class folder.
        image: The name of the image file in the archive.
        mask: The name of the mask file in the archive.
    """

    id: str
    class_name: str
    image: str
    mask: str


class Archive:
    """An opened archive; a context manager. `open_archive` makes one.

    Files are named relative to the dataset's folder, with forward slashes
    (``COVID/images/COVID-1.png``), in a zip and in a folder alike.

    Attributes:
        path: The zip or the folder.
        classes: The class folders with at least one image, in the release's order.
    """

    def __init__(self, path: Path, names: Iterable[str], opened: zipfile.ZipFile | None):
        """Finds the images, masks and metadata sheets among the files.

        Args:
            path: The zip or the folder.
            names: The names of all files.
            opened: The zip, or None for a folder.

        Raises:
            InputError: There are no images, or they are there twice.
        """
        self.path, self._zip = path, opened
        matches = {
            name: match
            for name in names
            if (match := _IN_PLACE.fullmatch(name)) and "__MACOSX" not in name.split("/")
        }
        roots = {match["root"] for match in matches.values() if "/images/" in match["name"]}
        if not roots:
            raise InputError(
                f"{path}: holds no images; they belong in {FOLDER_NAME}/COVID/images and so on"
            )
        if len(roots) > 1:
            first, second, *_ = sorted(root or "./" for root in roots)
            raise InputError(f"{path}: holds the images twice, in {first} and in {second}")
        (root,) = roots
        self._files = {m["name"]: name for name, m in matches.items() if m["root"] == root}
        present = {name.split("/")[0] for name in self._files if "/images/" in name}
        self.classes = tuple(name for name in CLASSES if name in present)

    def __enter__(self) -> "Archive":
        return self

    def __exit__(self, *_: object) -> None:
        if self._zip is not None:
            self._zip.close()

    def size(self, name: str) -> int:
        """Returns the size of a file in bytes, uncompressed."""
        if self._zip is not None:
            return self._zip.getinfo(self._files[name]).file_size
        return (self.path / self._files[name]).stat().st_size

    def read(self, name: str) -> bytes:
        """Reads one file; several threads may.

        Raises:
            InputError: The file is damaged, cannot be read, or exceeds `MAX_FILE_BYTES`.
        """
        try:
            if (size := self.size(name)) > MAX_FILE_BYTES:
                raise InputError(
                    f"{self.path}: {name} has {size / 1e6:.0f} MB, but no file of the release has "
                    f"more than {MAX_FILE_BYTES / 1e6:.0f} MB"
                )
            if self._zip is not None:
                return self._zip.read(self._files[name])
            return (self.path / self._files[name]).read_bytes()
        except InputError:
            raise
        # zipfile raises RuntimeError for encrypted files, NotImplementedError for rare compression,
        # and what the decompressors raise for damaged data.
        except (
            OSError, EOFError, RuntimeError, ValueError, zipfile.BadZipFile, zlib.error,
            lzma.LZMAError,
        ) as error:  # fmt: skip
            raise InputError(f"{self.path}: {name} cannot be read ({error})") from error

    @functools.cached_property
    def fingerprint(self) -> str:
        """sha256 of the name, size and CRC-32 of every file, in hexadecimal.

        It is the same for the zip and for its unpacked folder. A folder's files are all read.
        """
        digest = hashlib.sha256()
        for name in sorted(self._files):
            if self._zip is not None:
                crc = self._zip.getinfo(self._files[name]).CRC
            else:
                crc = zlib.crc32((self.path / self._files[name]).read_bytes())
            digest.update(f"{name}\0{self.size(name)}\0{crc}\n".encode())
        return digest.hexdigest()

    def pairs(self, classes: Sequence[str]) -> tuple[list[Pair], list[str]]:
        """Pairs the images of some classes with their masks by number. Opens no file.

        Args:
            classes: Names of class folders.

        Returns:
            The pairs, sorted by class and number, and a message for every file without a partner,
            of another name than its class and a number, or with the number of another file.

        Raises:
            InputError: A class is absent.
        """
        if absent := [name for name in classes if name not in self.classes]:
            raise InputError(
                f"{self.path}: holds no images of {', '.join(absent)}. The classes present are "
                f"{', '.join(self.classes)}"
            )
        found: dict[str, dict[str, str]] = {"images": {}, "masks": {}}
        faults, ambiguous = [], set()
        for name in sorted(self._files):
            folder, _, file = name.rpartition("/")
            class_name, _, kind = folder.partition("/")
            if class_name not in classes or kind not in found:
                continue
            number = file.rsplit(".", 1)[0].removeprefix(f"{class_name}-")
            if not (number.isascii() and number.isdecimal()):
                faults.append(f"{name} is not named {class_name}-NUMBER.png")
                continue
            key = f"{class_name}-{int(number)}"
            if (other := found[kind].setdefault(key, name)) != name:
                faults.append(f"{name} has the same number as {other}")
                ambiguous.add(key)
        images, masks = found["images"], found["masks"]
        faults += [f"{images[key]} has no mask" for key in images if key not in masks]
        faults += [f"{masks[key]} has no image" for key in masks if key not in images]
        pairs = [
            Pair(Path(images[key]).stem, key.rpartition("-")[0], images[key], masks[key])
            for key in (images.keys() & masks.keys()) - ambiguous
        ]
        return sorted(pairs, key=lambda pair: natural_key(pair.id)), faults

    def sources(self, class_name: str) -> dict[str, str] | None:
        """Reads the source of every image of a class from the class's metadata sheet.

        Returns:
            Addresses by image id in lower case (the sheets and the files differ in case), empty
            where the sheet has none; None if the archive has no sheet for the class.

        Raises:
            InputError: The sheet cannot be read, or lacks the columns FILE NAME and URL.
        """
        name = f"{class_name}.metadata.xlsx"
        if name not in self._files:
            return None
        import openpyxl

        content = self.read(name)
        try:
            book = openpyxl.load_workbook(io.BytesIO(content), read_only=True)
            rows = list(book.worksheets[0].iter_rows(values_only=True))
        # openpyxl has no error of its own for damaged files.
        except Exception as error:
            raise InputError(f"{self.path}: {name} cannot be read as .xlsx ({error})") from error
        heading = [str(cell or "").strip().upper() for cell in (rows[0] if rows else ())]
        if not {"FILE NAME", "URL"} <= set(heading):
            raise InputError(
                f"{self.path}: {name} lacks the columns FILE NAME and URL; it has "
                f"{', '.join(heading) or 'none'}"
            )
        image, url = heading.index("FILE NAME"), heading.index("URL")
        # Rows may be shorter than the heading.
        full = ((*row, *[None] * len(heading)) for row in rows[1:])
        texts = ((str(row[image] or "").strip(), str(row[url] or "").strip()) for row in full)
        return {image.lower(): url for image, url in texts if image}

    def warn_if_partial(self, classes: Sequence[str]) -> None:
        """Warns with both counts if a class has fewer images than the release."""
        pairs, _ = self.pairs([name for name in classes if name in self.classes])
        counts = {name: sum(pair.class_name == name for pair in pairs) for name in classes}
        fewer = [
            f"{name} {count} of {RELEASE_COUNTS[name]}"
            for name, count in counts.items()
            if 0 < count < RELEASE_COUNTS[name]
        ]
        if fewer:
            warnings.warn(
                f"{self.path} holds fewer images than the release: {', '.join(fewer)}",
                PartialReleaseWarning,
                stacklevel=3,
            )


def open_archive(manual_dir: Path | str) -> Archive:
    """Opens the archive in a directory.

    Args:
        manual_dir: A directory that holds one of `ZIP_NAMES` or the folder `FOLDER_NAME` (the first
            in this order is opened), that folder itself, or the path of a zip of any name.

    Returns:
        The archive, to be closed after use. Other files in it are ignored.

    Raises:
        InputError: There is no archive; or it is not a zip, is cut short, has a name twice, or
            holds no images.
    """
    path = _find(Path(manual_dir).expanduser())
    if path.is_dir():
        # A glob of fixed depth follows symbolic links to folders; rglob does not.
        patterns = ("*.xlsx", "*/*/*", "*/*.xlsx", "*/*/*/*")
        files = (file for pattern in patterns for file in path.glob(pattern) if file.is_file())
        return Archive(path, [file.relative_to(path).as_posix() for file in files], None)
    try:
        opened = zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        with path.open("rb") as file:
            starts_as_zip = file.read(4) == b"PK\x03\x04"
        what = "is cut short. Copy or download it again" if starts_as_zip else "is not a zip"
        raise InputError(f"{path}: {what} ({error})") from error
    # zipfile raises NotImplementedError for later formats, ValueError for names that are not text.
    except (OSError, NotImplementedError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error
    try:
        names = opened.namelist()
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise InputError(f"{path}: holds {twice} more than once")
        return Archive(path, names, opened)
    except InputError:
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
    if any((manual_dir / name / "images").is_dir() for name in CLASSES):
        return manual_dir
    raise InputError(f"{manual_dir}: holds no archive; {WHERE_TO_GET_IT}")
