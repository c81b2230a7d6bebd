"""The labelled videos or crops of a data set, and a register of functions that read data sets."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import NamedTuple

import numpy as np
import pandas as pd

from dfdetect.data.faceset import GROUP, IMAGE_SUFFIXES, FaceSet, ImageLocation
from dfdetect.data.labels import LabelledVideo
from dfdetect.defaults import SPLITS
from dfdetect.errors import ArgumentError, InputError
from dfdetect.video.discovery import COMPANION, find_videos
from dfdetect.video.reader import pick_evenly

# Maximum number of methods, and of missing parts, that a description lists.
NAMED = 8


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """The labelled videos or crops that were found in the folder of a data set.

    Attributes:
        name: The usual name of the data set, such as `Celeb-DF-v2`. For videos that are no standard
            data set, it is the path of the folder or zip file.
        videos: The videos, if the data set consists of videos.
        faces: The face crops, if the data set consists of crops instead of videos.
        note: A remark for the user, for example that the data set has no official split. It may be
            empty.
        missing: Short descriptions of the parts of the data set that the folder lacks.
    """

    name: str
    videos: Sequence[LabelledVideo] = ()
    faces: FaceSet | None = None
    note: str = ""
    missing: tuple[str, ...] = ()

    def select(self, split: str) -> "Dataset":
        """Return one split of the data set.

        Raises:
            ArgumentError: `split` is not the name of a split.
            InputError: No video or crop belongs to the split.
        """
        if split not in SPLITS:
            raise ArgumentError(f"split must be one of {', '.join(SPLITS)}, not {split!r}")
        videos = [video for video in self.videos if video.split == split]
        faces = None
        if self.faces is not None:
            faces = self.faces.select(self.faces.texts("split") == split)
        if not videos and not faces:
            raise InputError(
                f"{self.name}: nothing here belongs to the split {split!r}"
                f"{self._details()}; add the missing parts, or use the whole data set by leaving "
                "out the split"
            )
        return replace(self, videos=videos, faces=faces)

    def without_repeats(self) -> "Dataset":
        """Return the data set with each face crop once.

        The JSON files of DeepfakeBench list some videos in several splits.
        """
        if self.faces is None:
            return self
        places = pd.Series([(place.path, place.offset) for place in self.faces.locations])
        return replace(self, faces=self.faces.select(~places.duplicated().to_numpy()))

    def describe(self) -> str:
        """Return one line that describes the data set.

        The line has the name, the numbers of REAL and FAKE videos (or sequences of face crops), the
        number of videos of each method, the missing parts and the note.
        """
        if self.faces is None:
            labels = [video.label for video in self.videos]
            methods = [video.method for video in self.videos if video.method]
        else:
            videos = self.faces.table.drop_duplicates("video")
            labels = videos["label"].tolist()
            methods = [method for method in videos["method"] if method]
        thing = "videos" if self.faces is None else "sequences of face crops"
        counts = f"{labels.count('REAL')} REAL and {labels.count('FAKE')} FAKE {thing}"
        by_method = [f"{name} {count}" for name, count in Counter(methods).most_common()]
        shown = f" ({_shortened(by_method)})" if len(by_method) > 1 else ""
        return f"{self.name}: {counts}{shown}{self._details()}"

    def _details(self) -> str:
        missing = f"; missing: {_shortened(self.missing)}" if self.missing else ""
        return f"{missing}{f'; {self.note}' if self.note else ''}"


# A function that returns the data set in a folder or file, or None if the layout is another one.
Reader = Callable[[Path], Dataset | None]
READERS: list[Reader] = []


def register_layout(reader: Reader) -> Reader:
    """Decorate a function, so that `read_dataset` uses it to read data sets of one layout.

    The decorated function must return None if a folder or file has another layout.

    Example:
        >>> @register_layout
        ... def read_mine(folder: Path) -> Dataset | None:
        ...     if not (folder / "mine.txt").is_file():
        ...         return None
        ...     return Dataset(name="Mine", videos=[...])
    """
    READERS.append(reader)
    return reader


class CropSequence(NamedTuple):
    """Successive crops of one face. Some data sets consist of such sequences instead of videos.

    Attributes:
        video: Name of the sequence, such as the name of its video. No other sequence of the split
            has the same name.
        label: REAL or FAKE.
        group: A name for the person. Sequences that are known to show the same person have the same
            group.
        source: Name of the data set, or of a part of it.
        method: The method that made a fake, or an empty text.
        split: `train`, `val`, `test` or an empty text.
        images: The image files, in order of time.
    """

    video: str
    label: str
    group: str
    source: str
    method: str
    split: str
    images: Sequence[Path]


def to_face_set(sequences: Iterable[CropSequence]) -> FaceSet:
    """Return a face set with the crops of all sequences.

    In the face set, each sequence counts as a video with one track.
    """
    rows, places = [], []
    for one in sequences:
        for number, image in enumerate(one.images):
            rows.append(
                {
                    "id": f"{one.split}:{one.video}:{number}",
                    "label": one.label,
                    GROUP: one.group,
                    "source": one.source,
                    "method": one.method,
                    "split": one.split,
                    "video": f"{one.split}:{one.video}",
                    "track": 0,
                    "frame": number,
                }
            )
            places.append(ImageLocation(image))
    return FaceSet(pd.DataFrame(rows), places)


def sample_frames(faces: FaceSet, count: int) -> FaceSet:
    """Return a face set with at most `count` evenly spaced crops of each track.

    Benchmarks usually score a fixed number of frames per video.

    Args:
        faces: The face set.
        count: Maximum number of crops per track, at least 1.
    """
    tracks = [np.array(track) for track in faces.tracks()]
    kept = [track[pick_evenly(np.arange(len(track)), count)] for track in tracks]
    return faces.select(np.sort(np.concatenate(kept)))


def videos_below(folder: Path) -> list[Path]:
    """Return the sorted paths of all videos in a folder and its sub-folders.

    If the folder is missing, the list is empty.
    """
    try:
        return sorted(find_videos([folder]).values())
    except (FileNotFoundError, InputError):
        return []


def image_sequences(folder: Path) -> dict[Path, list[Path]]:
    """Return the images in a folder and its sub-folders, in order of time.

    The result is a dictionary from the path of each folder that holds images to these images.
    """
    found: dict[Path, list[Path]] = {}
    for parent, folders, names in os.walk(folder):  # faster than `rglob` for millions of images
        folders.sort()
        images = [
            Path(parent, name)
            for name in names
            if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(COMPANION)
        ]
        if images:
            found[Path(parent)] = sorted(images, key=by_number)
    return found


def name_below(path: Path, folder: Path) -> str:
    """Return the path of a video relative to the folder of its data set, with `/` as separator."""
    return path.relative_to(folder).as_posix()


def first_folder(folder: Path, *names: str) -> Path | None:
    """Return the first of the sub-folders `names` that exists, or None if none exists.

    Upper and lower case are not distinguished.
    """
    if not folder.is_dir():
        return None
    present = {path.name.lower(): path for path in folder.iterdir() if path.is_dir()}
    return next((present[name.lower()] for name in names if name.lower() in present), None)


def first_file(folder: Path, *names: str) -> Path | None:
    """Return the first of the files `names` that exists in a folder, or None if none exists."""
    return next((folder / name for name in names if (folder / name).is_file()), None)


def by_number(path: PurePath) -> tuple[int, str]:
    """Return a sort key for an image: its number if its name is a number, and else its name."""
    return (int(path.stem), "") if path.stem.isdecimal() else (0, path.stem)


def _shortened(names: Sequence[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")
