"""Read which videos in a folder or zip file are REAL and which are FAKE.

The labels may be given in three ways, which are tried in this order:

- a table `manifest.csv` in the folder or its parent (not for a zip file). The table has the columns
  `path` (relative to the table's folder) and `label`. The columns `identity` (name of the person)
  and `source` are optional.
- a `metadata.json` beside the videos, as in the Deepfake Detection Challenge:
  `{"name.mp4": {"label": "FAKE", "original": "other.mp4"}}`.
- sub-folders named `real` and `fake`, in upper or lower case. If such folders are nested, the
  innermost folder gives the label.
"""

import json
import logging
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

from dfdetect.data.faceset import LABELS, FaceSet, ImageLocation, decode_image
from dfdetect.errors import InputError
from dfdetect.files import read_table
from dfdetect.video.discovery import COMPANION, VIDEO_SUFFIXES, find_videos
from dfdetect.video.isolated import DecoderPool
from dfdetect.video.reader import Frame

METADATA = "metadata.json"
MANIFEST = "manifest.csv"
ARCHIVE_SUFFIX = ".zip"
# Exceptions that zipfile raises if it cannot read a member. RuntimeError is for encrypted members.
DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, KeyError, RuntimeError, NotImplementedError)
LOGGER = logging.getLogger(__name__)
# The zip file that holds a video, or None; and the path of the video, or its path in the zip file.
Place = tuple[Path | None, Path]


@dataclass(frozen=True)
class LabelledVideo:
    """A video and its label.

    Attributes:
        name: Name of the video. No other video in the folder or zip file has the same name.
        path: Path of the file. For a video in a zip file, it is the path inside the zip file.
        label: REAL or FAKE.
        group: The actor group (see `dfdetect.data.faceset`): a name for the person. If the person
            is unknown, it is the name of the original, or else of this video.
        source: Where the video comes from: the source that the manifest gives, the name of a
            standard data set (or of a part of it), or else the name of a folder above the video.
        archive: The zip file that holds the video, or None.
        original: The place of a fake's original: a zip file (or None) and a path. The file may be
            missing. None if the video is REAL or its original is unknown.
        size: Size of the file in bytes.
        method: The method that made a fake; empty if it is unknown.
        split: `train`, `val` or `test` if the data set has an official split, otherwise empty.
    """

    name: str
    path: Path
    label: str
    group: str
    source: str
    archive: Path | None = None
    original: Place | None = None
    size: int = 0
    method: str = ""
    split: str = ""

    @property
    def place(self) -> Place:
        """Return the zip file (or None) and the path, which together identify the video."""
        return self.archive, self.path

    def read(self, decoders: DecoderPool, **wanted: Any) -> Iterator[Frame]:
        """Yield frames of the video.

        Args:
            decoders: The decoder pool that reads the video.
            **wanted: Keyword arguments that say which frames are read: `num_frames` or `indices`,
                as in `DecoderPool.read_frames`.

        Raises:
            VideoError: No frame can be read.
            OSError: The file cannot be read, or the video in the zip file is damaged or encrypted.
        """
        with self.open() as path:
            yield from decoders.read_frames(path, **wanted)

    @contextmanager
    def open(self) -> Iterator[Path]:
        """Return a context manager that yields a path from which the video can be read.

        A video in a zip file is unpacked into a temporary folder, which is deleted when the `with`
        block ends.

        Raises:
            OSError: The zip file cannot be read, or the video in it is damaged or encrypted.
        """
        if self.archive is None:
            yield self.path
            return
        with TemporaryDirectory(prefix="dfdetect-") as folder:
            try:
                with zipfile.ZipFile(self.archive) as archive:
                    # Only the base name is used, because the whole path may lead out of `folder`.
                    target = Path(folder, self.path.name)
                    with archive.open(self.path.as_posix()) as member, target.open("wb") as file:
                        while part := member.read(2**20):
                            file.write(part)
            except DAMAGED as error:
                LOGGER.debug("%s: %s: %s", self.archive, self.path, error)
                raise OSError("damaged or encrypted in its zip file") from error
            yield target


@dataclass(frozen=True)
class LabelledPhoto:
    """An image of a face set, treated as a video of one frame.

    All attributes except `image` are as in `LabelledVideo`.

    Attributes:
        image: The file that holds the image, and the byte offset and size of the image in the file.
    """

    name: str
    label: str
    group: str
    source: str
    image: ImageLocation
    original: None = None
    method: str = ""

    @property
    def place(self) -> ImageLocation:
        """Return `image`, which identifies the image by its place in a file."""
        return self.image

    @property
    def size(self) -> int:
        """Return the size of the encoded image in bytes, or 0 if it is not known."""
        return max(0, self.image.size)

    def read(self, decoders: DecoderPool, **wanted: Any) -> Iterator[Frame]:
        """Yield the image as the only frame. The arguments are ignored.

        Raises:
            FaceSetError: The image cannot be decoded.
        """
        yield Frame(0.0, decode_image(self.image, self.name))


def read_photos(index: str | Path) -> list[LabelledPhoto]:
    """Return the images of a face set as videos of one frame each.

    The face detector searches each image like a frame of a video. The images must therefore show
    more than the face.

    Args:
        index: The index of the face set.

    Raises:
        FaceSetError: The face set cannot be used.
    """
    faces = FaceSet.read(index)
    unknown = [None] * len(faces)  # their originals
    columns = (
        *(faces.table["id"], faces.table["label"], faces.groups, faces.sources),
        *(faces.locations, unknown, faces.texts("method").tolist()),
    )
    return [LabelledPhoto(*values) for values in zip(*columns, strict=True)]


def read_labels(source: str | Path) -> list[LabelledVideo]:
    """Return the labelled videos of a folder or zip file, sorted by name.

    The labels come from `manifest.csv`, `metadata.json` or the names of the folders, as the
    docstring of this module describes.

    Raises:
        FileNotFoundError: There is no such folder or file.
        InputError: There are no videos, a video has no label or two, `manifest.csv` or
            `metadata.json` is not in the expected form, or the zip file is damaged.

    Warns:
        UserWarning: `manifest.csv` lists videos that the folder does not contain.

    Example:
        >>> [(video.name, video.label) for video in read_labels("train_sample_videos")][:1]
        [('aagfhgtpmv.mp4', 'FAKE')]
    """
    source = Path(source)
    return _read_archive(source) if source.suffix == ARCHIVE_SUFFIX else _read_folder(source)


def _read_folder(folder: Path) -> list[LabelledVideo]:
    folder = folder.absolute()
    manifest = _read_manifest(folder)
    found = find_videos([folder])
    present = set(found.values())
    _warn_of_absent(folder, [path for path in manifest if path not in present])
    metadata = {
        parent: parse_metadata(parent / METADATA, (parent / METADATA).read_bytes())
        for parent in {path.parent for path in found.values()}
        if (parent / METADATA).is_file()
    }
    videos = []
    for name, path in found.items():
        if path in manifest:
            videos.append(LabelledVideo(name, path, *manifest[path]))
        else:
            below = PurePosixPath(path.relative_to(folder.parent))
            videos.append(_label(name, path, below, metadata.get(path.parent)))
    return [replace(video, size=_size(video.path)) for video in videos]


def _read_archive(archive: Path) -> list[LabelledVideo]:
    archive = archive.absolute()
    try:
        with zipfile.ZipFile(archive) as opened:
            sizes = {Path(member.filename): member.file_size for member in opened.infolist()}
            metadata = {
                path.parent: parse_metadata(f"{archive}: {path}", opened.read(path.as_posix()))
                for path in sizes
                if path.name == METADATA
            }
    except DAMAGED as error:
        raise InputError(f"{archive}: not a zip file, damaged or encrypted ({error})") from error
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(archive)) from error
    videos = [
        path
        for path in sizes
        if path.suffix.lower() in VIDEO_SUFFIXES and not path.name.startswith(COMPANION)
    ]
    if not videos:
        raise InputError(f"{archive}: contains no videos")
    count = Counter(path.name for path in videos)
    labelled = [
        _label(
            path.name if count[path.name] == 1 else path.as_posix(),
            path,
            PurePosixPath(archive.stem) / path,
            metadata.get(path.parent),
            archive,
        )
        for path in videos
    ]
    labelled = [replace(video, size=sizes[video.path]) for video in labelled]
    return sorted(labelled, key=lambda video: video.name)


def _label(
    name: str,
    path: Path,
    below: PurePosixPath,
    metadata: dict[str, dict[str, str]] | None,
    archive: Path | None = None,
) -> LabelledVideo:
    """Return a video with its label.

    `metadata` is the content of the `metadata.json` beside the video, or None if there is no such
    file. `below` is the path of the video, beginning with the name of the folder or zip file that
    the user gave. If `metadata` gives no label for the video, the label comes from the names of the
    folders in `below`.
    """
    folders = below.parts[:-1]
    entry = (metadata or {}).get(path.name, {})
    label = entry.get("label")
    if label is None:
        label = next((part.upper() for part in folders[::-1] if part.upper() in LABELS), None)
    if label not in LABELS:
        raise InputError(
            f"{path}: no label (REAL or FAKE): list the video in {METADATA} beside it or in a "
            f"{MANIFEST} in a folder above it, or put it into a folder named real or fake"
        )
    original = str(entry.get("original") or "")
    group = Path(original or path.name).stem
    place = (archive, path.parent / original) if original else None
    return LabelledVideo(name, path, label, group, _source(folders), archive, place)


def _source(folders: tuple[str, ...]) -> str:
    """Return the innermost folder whose name is not a label, or an empty text."""
    return next((part for part in folders[::-1] if part.upper() not in LABELS), "")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # reading the video later will give the reason
        return 0


def find_manifest(folder: Path) -> Path | None:
    """Return the path of `manifest.csv` in a folder or its parent, or None if neither has one."""
    places = folder / MANIFEST, folder.parent / MANIFEST
    return next(filter(Path.is_file, places), None)


def _read_manifest(folder: Path) -> dict[Path, tuple[str, str, str]]:
    """Return a dictionary from each video path in a manifest to the label, group and source.

    `folder` is the folder of the videos. If there is no manifest, the dictionary is empty.
    """
    file = find_manifest(folder)
    if file is None:
        return {}
    table = read_table(file, ("path", "label", "identity", "source"))
    if not {"path", "label"} <= set(table):
        raise InputError(f"{file}: needs at least the columns path and label")
    rows: dict[Path, tuple[str, str, str]] = {}
    for row in table.to_dict("records"):
        path = file.parent / row["path"]
        require_label(row["label"], file, row["path"])
        if path in rows and rows[path][0] != row["label"]:
            raise InputError(
                f"{file}: {row['path']}: both REAL and FAKE; keep one row of each video"
            )
        group = row.get("identity") or path.stem
        rows[path] = row["label"], group, row.get("source") or _source(path.parent.parts)
    return rows


def require_label(label: Any, file: str | Path, name: str) -> None:
    """Check the label that a file gives to a video.

    Args:
        label: The label.
        file: The file, for the error message.
        name: Name of the video, for the error message.

    Raises:
        InputError: The label is neither REAL nor FAKE.
    """
    if label not in LABELS:
        raise InputError(f"{file}: {name}: label {label!r}; use REAL or FAKE")


def _warn_of_absent(folder: Path, absent: list[Path]) -> None:
    """Warn of rows of the manifest whose videos should be in a folder, but are not."""
    lost = [path.relative_to(folder) for path in absent if path.is_relative_to(folder)]
    if lost:
        warnings.warn(
            f"{find_manifest(folder)}: {len(lost)} of the listed videos not found in {folder}, "
            f"first {lost[0]}: correct the paths in the table, or copy the videos there",
            stacklevel=4,
        )


def parse_metadata(path: str | Path, text: bytes) -> dict[str, dict[str, str]]:
    """Return a dictionary from the file name of each video to its entry in a `metadata.json`.

    Args:
        path: Path of the file, for the error message.
        text: Content of the file.

    Raises:
        InputError: The content is not in the expected form.
    """
    try:
        entries = json.loads(text.decode("utf-8"))
        for entry in entries.values():
            entry.get("label")
        return entries
    except (ValueError, AttributeError, RecursionError) as error:
        raise InputError(
            f'{path}: not of the form {{"name.mp4": {{"label": "FAKE"}}}} ({error})'
        ) from error
