"""Group labelled videos: each original with the fakes that were made from it."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from dfdetect.data.datasets.registry import read_dataset
from dfdetect.data.labels import LabelledPhoto, LabelledVideo, read_photos
from dfdetect.errors import InputError

Video: TypeAlias = LabelledVideo | LabelledPhoto


@dataclass(frozen=True)
class VideoGroup:
    """A video and the fakes that were made of it.

    Attributes:
        original: The video in which faces are found.
        fakes: Videos whose crops are cut at the boxes of the original.
        wanted: Names of the videos, among all these, whose crops are wanted.
    """

    original: Video
    fakes: tuple[Video, ...]
    wanted: frozenset[str]

    @property
    def videos(self) -> list[Video]:
        """Return the videos whose crops are wanted, in order."""
        return [video for video in (self.original, *self.fakes) if video.name in self.wanted]


def read_videos(sources: Sequence[str | Path], split: str | None = None) -> list[Video]:
    """Return all labelled videos and photographs of several sources.

    A name that occurs twice is preceded by that of its source.

    Args:
        sources: Folders and zip files, as `read_dataset` takes them, and indexes of face sets.
        split: As in `read_dataset`.

    Raises:
        FileNotFoundError: A source is missing.
        InputError: A source is not labelled, given twice, or holds crops that are already cut.
    """
    found: dict[str, Video] = {}
    for source in sources:
        for video in _read(source, split):
            name = video.name
            if name in found:
                name = f"{Path(source).stem}/{name}"
            if name in found:
                raise InputError(f"{source}: {name} is in two sources: give each once")
            found[name] = replace(video, name=name)
    return list(found.values())


def _read(source: str | Path, split: str | None) -> Sequence[Video]:
    if Path(source).suffix == ".csv":
        return read_photos(source)
    dataset = read_dataset(source, split)
    if dataset.faces is not None:
        raise InputError(f"{source}: {dataset.name} comes as face crops that are already cut")
    return dataset.videos


def group_videos(videos: Sequence[Video], wanted: set[str]) -> list[VideoGroup]:
    """Group videos with the fakes that were made of them, in the order of the videos.

    Args:
        videos: All videos.
        wanted: Names of the videos whose crops are wanted. Groups without such videos are left out.
    """
    places = {video.place: video for video in videos}
    fakes = defaultdict(list)
    originals = []
    for video in videos:
        original = None if video.original is None else places.get(video.original)
        # A fake of a fake is not known to show the same scene.
        if original is None or original.original in places:
            originals.append(video)
        else:
            fakes[original.name].append(video)
    groups = []
    for original in originals:
        names = {video.name for video in (original, *fakes[original.name])} & wanted
        if names:
            groups.append(VideoGroup(original, tuple(fakes[original.name]), frozenset(names)))
    return groups
