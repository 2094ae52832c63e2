"""Reads the COVID-19 Radiography Database as Kaggle gives it: a zip, or the folder inside it."""

import functools
import hashlib
import io
import re
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxseg.data.splits import natural_key
from jaxseg.errors import DataWarning, InputError

RELEASE_COUNTS: Mapping[str, int] = {
    "COVID": 3616, "Lung_Opacity": 6012, "Normal": 10192, "Viral Pneumonia": 1345,
}  # fmt: skip
"""Images per class folder in the full release."""

CLASSES = tuple(RELEASE_COUNTS)

ZIP_NAMES = ("archive.zip", "covid19-radiography-database.zip", "COVID-19_Radiography_Dataset.zip")
FOLDER_NAME = "COVID-19_Radiography_Dataset"

IMAGE_SIZE = 299
MASK_SIZE = 256
"""Height and width of the release's images and masks in pixels."""

WHERE_TO_GET_IT = (
    'download the "COVID-19 Radiography Database" by tawsifurrahman from Kaggle and put the zip '
    f"there as {', '.join(ZIP_NAMES[:-1])} or {ZIP_NAMES[-1]}, or its unpacked folder {FOLDER_NAME}"
)

_CLASS = "|".join(map(re.escape, CLASSES))
_IN_PLACE = re.compile(
    rf"(?!.*__MACOSX)(?:.*/)?(?P<name>(?:{_CLASS})/(?:images|masks)/[^/.][^/]*\.(?i:png)"
    rf"|(?:{_CLASS})\.metadata\.xlsx)"
)


class PartialReleaseWarning(DataWarning):
    """The archive holds fewer images than the release."""


class Pair(NamedTuple):
    """An image and its mask in an archive.

    Attributes:
        id: The image's name without suffix, such as ``Viral Pneumonia-12``.
    """

    id: str

    @property
    def class_name(self) -> str:
        """The name of the class folder."""
        return self.id.rpartition("-")[0]

    @property
    def image(self) -> str:
        """The name of the image file in the archive."""
        return f"{self.class_name}/images/{self.id}.png"

    @property
    def mask(self) -> str:
        """The name of the mask file in the archive."""
        return f"{self.class_name}/masks/{self.id}.png"


class Archive:
    """An opened archive; a context manager. `open_archive` makes one.

    Files are named relative to the dataset's folder, with forward slashes
    (``COVID/images/COVID-1.png``), in a zip and in a folder alike.

    Attributes:
        path: The zip or the folder.
        classes: The class folders with at least one image, in the release's order.
    """

    def __init__(self, path: Path):
        """Finds the images, masks and metadata sheets, and pairs them.

        Args:
            path: The zip or the folder.

        Raises:
            InputError: The zip cannot be read. Or there are no images, or a file is there twice.
        """
        self.path = path
        self._zip: Any = _open_zip(path) if path.is_file() else None
        if self._zip is not None:
            files = ((entry.filename, entry) for entry in self._zip.infolist())
        else:
            # A glob of fixed depth follows symbolic links to folders; rglob does not.
            patterns = ("*.xlsx", "*/*/*", "*/*.xlsx", "*/*/*/*")
            found = (file for pattern in patterns for file in path.glob(pattern) if file.is_file())
            files = ((file.relative_to(path).as_posix(), file) for file in found)
        self._files: dict[str, zipfile.ZipInfo | Path] = {}
        for name, file in files:
            match = _IN_PLACE.fullmatch(name)
            if match and self._files.setdefault(match["name"], file) is not file:
                raise InputError(f"{path}: holds {match['name']} twice. Remove one of them")
        present = {name.split("/")[0] for name in self._files if "/images/" in name}
        if not present:
            raise InputError(f"{path}: holds no images; {WHERE_TO_GET_IT}")
        self.classes = tuple(name for name in CLASSES if name in present)

    def __enter__(self) -> "Archive":
        return self

    def __exit__(self, *_: object) -> None:
        if self._zip is not None:
            self._zip.close()

    def read(self, name: str) -> bytes:
        """Reads one file; several threads may.

        Raises:
            InputError: The file is damaged or cannot be read.
        """
        file = self._files[name]
        try:
            return file.read_bytes() if isinstance(file, Path) else self._zip.read(file)
        # zipfile raises its errors and those of the system and of each decompressor.
        except Exception as error:
            raise InputError(f"{name} cannot be read ({error})") from error

    @functools.cached_property
    def fingerprint(self) -> str:
        """sha256 of the name, size and CRC-32 of every file, in hexadecimal.

        It is the same for the zip and for its unpacked folder. A folder's files are all read.
        """
        digest = hashlib.sha256()
        for name, file in sorted(self._files.items()):
            if isinstance(file, Path):
                content = self.read(name)
                size, crc = len(content), zlib.crc32(content)
            else:
                size, crc = file.file_size, file.CRC
            digest.update(f"{name}\0{size}\0{crc}\n".encode())
        return digest.hexdigest()

    def pairs(self, classes: Sequence[str]) -> tuple[list[Pair], list[str]]:
        """Returns the images of some classes with their masks.

        Args:
            classes: Names of class folders.

        Returns:
            The pairs, sorted by class and number, and a message for every file without a partner
            or of another name than its class and a number.

        Raises:
            InputError: A class is absent.
        """
        if absent := [name for name in classes if name not in self.classes]:
            raise InputError(
                f"{self.path}: holds no images of {', '.join(absent)}. The classes present are "
                f"{', '.join(self.classes)}"
            )
        ids: dict[str, set[str]] = {"images": set(), "masks": set()}
        faults = []
        for name in sorted(self._files):
            class_name, *kind_and_file = name.split("/")
            if class_name in classes:
                kind, file = kind_and_file
                if re.fullmatch(rf"{class_name}-[0-9]+\.png", file):
                    ids[kind].add(file.removesuffix(".png"))
                else:
                    faults.append(f"{name} is not named {class_name}-NUMBER.png")
        images, masks = ids["images"], ids["masks"]
        faults += [f"{Pair(id).image} has no mask" for id in sorted(images - masks)]
        faults += [f"{Pair(id).mask} has no image" for id in sorted(masks - images)]
        return [Pair(id) for id in sorted(images & masks, key=natural_key)], faults

    def sources(self, class_name: str) -> dict[str, str]:
        """Reads the source of every image of a class from the class's metadata sheet.

        Returns:
            Addresses by image id in lower case (the sheets and the files differ in case), empty
            where the sheet has none. Without a sheet for the class there are none.

        Raises:
            InputError: The sheet cannot be read, or lacks the columns FILE NAME and URL.
        """
        name = f"{class_name}.metadata.xlsx"
        if name not in self._files:
            return {}
        import openpyxl

        content = io.BytesIO(self.read(name))
        try:
            sheet = openpyxl.load_workbook(content, read_only=True).worksheets[0]
            rows = [[str(cell or "").strip() for cell in row] for row in sheet.values]
        # openpyxl has no single error for damaged files.
        except Exception as error:
            raise InputError(f"{name} cannot be read as .xlsx ({error})") from error
        heading = [cell.upper() for cell in (rows[0] if rows else [])]
        if not {"FILE NAME", "URL"} <= set(heading):
            shown = ", ".join(heading) or "none"
            raise InputError(f"{name} lacks the columns FILE NAME and URL; it has {shown}")
        # Rows may be shorter than the heading.
        images = [dict(zip(heading, row, strict=False)) for row in rows[1:]]
        named = [image for image in images if image.get("FILE NAME")]
        return {image["FILE NAME"].lower(): image.get("URL", "") for image in named}

    def warn_if_partial(self, classes: Sequence[str]) -> None:
        """Warns with both counts if one of some classes has fewer images than the release.

        Raises:
            InputError: A class is absent.
        """
        counts = Counter(pair.class_name for pair in self.pairs(classes)[0])
        fewer = [
            f"{name} {count} of {RELEASE_COUNTS[name]}"
            for name, count in counts.items()
            if count < RELEASE_COUNTS[name]
        ]
        if fewer:
            message = f"{self.path} holds fewer images than the release: {', '.join(fewer)}"
            warnings.warn(message, PartialReleaseWarning, stacklevel=3)


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
    path = Path(manual_dir).expanduser()
    inside = (path / name for name in (*ZIP_NAMES, FOLDER_NAME))
    return Archive(next((file for file in inside if file.exists()), path))


def _open_zip(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    # zipfile raises NotImplementedError for later formats, ValueError for names that are not text.
    except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise InputError(
            f"{path}: cannot be read as a zip ({error}). If it is cut short, download it again"
        ) from error
