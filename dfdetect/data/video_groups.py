"""Group labelled videos: each original forms a group with the fakes that were made from it."""

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
    """An original video and the fakes that were made from it.

    Attributes:
        original: The original, or a fake that counts as an original (see `group_videos`). Faces are
            detected in this video.
        fakes: The fakes. Their crops are cut at the face boxes found in the original.
        wanted: Names of the videos from which crops are cut: some or all videos of this group.
    """

    original: Video
    fakes: tuple[Video, ...]
    wanted: frozenset[str]

    @property
    def videos(self) -> list[Video]:
        """Return the videos that `wanted` names: the original first, then the fakes."""
        return [video for video in (self.original, *self.fakes) if video.name in self.wanted]


def read_videos(sources: Sequence[str | Path], split: str | None = None) -> list[Video]:
    """Return the labelled videos of several sources.

    A source may be a face set whose images show more than the face. Each image of the face set
    counts as a video of one frame. If a name occurs in two sources, the video of the later source
    is renamed to `SOURCE/NAME`. SOURCE is the name of the later source without its suffix.

    Args:
        sources: Folders and zip files in the layouts that `read_dataset` knows, and indexes of face
            sets.
        split: `train`, `val` or `test` to read only this official split of a data set, or None to
            read all videos.

    Raises:
        FileNotFoundError: A source is missing.
        InputError: A source has no labels or was given twice, or a source is a data set that was
            published as face crops, such as WildDeepfake.
    """
    found: dict[str, Video] = {}
    for source in sources:
        for video in _read(source, split):
            name = video.name
            if name in found:
                name = f"{Path(source).stem}/{name}"
            if name in found:
                raise InputError(f"{source}: {name} is in two sources: give each source once")
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
    """Group each original with its fakes, and return the groups in the order of the originals.

    A fake counts as an original in two cases: its own original is not among `videos`, or its own
    original was itself made from one of `videos`.

    Args:
        videos: All videos.
        wanted: Names of the videos from which crops are cut. Groups without such a video are left
            out.
    """
    places = {video.place: video for video in videos}
    fakes = defaultdict(list)
    originals = []
    for video in videos:
        original = None if video.original is None else places.get(video.original)
        # A fake made from another fake may show another scene than the original of the other fake.
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
