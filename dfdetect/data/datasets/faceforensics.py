"""FaceForensics++ and DeepFakeDetection (DFD), which share one folder tree.

Roessler et al., "FaceForensics++: Learning to Detect Manipulated Facial Images", ICCV 2019; Dufour
and Gully, "Contributing Data to Deepfake Detection Research", Google AI Blog 2019.

```
original_sequences/youtube/c23/videos/000.mp4
original_sequences/actors/c23/videos/01__exit_phone_room.mp4
manipulated_sequences/Deepfakes/c23/videos/000_003.mp4
manipulated_sequences/DeepFakeDetection/c23/videos/01_02__exit_phone_room__YVGY8LOK.mp4
splits/test.json or test.json
```

The name of a fake begins with TARGET_SOURCE. The fake shows the scene of TARGET with the face of
SOURCE. In FaceForensics++, TARGET and SOURCE are original videos; in DFD, they are actors. Each
split file is named after a split, such as `test`, and lists pairs of original videos. Both videos
of a pair, and the fakes made from them, belong to this split.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from dfdetect.data.datasets.dataset import (
    Dataset,
    first_file,
    name_below,
    register_layout,
    videos_below,
)
from dfdetect.data.labels import LabelledVideo
from dfdetect.defaults import SPLITS
from dfdetect.errors import InputError

NAME = "FaceForensics++"
DFD = "DeepFakeDetection"
# The four methods that papers report. Videos of other methods, such as FaceShifter, are read too.
METHODS = ("Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures")
COMPRESSIONS = ("raw", "c0", "c23", "c40")
ORIGINALS, MANIPULATED = "original_sequences", "manipulated_sequences"


@register_layout
def read_faceforensics(folder: Path) -> Dataset | None:
    """Return the videos of FaceForensics++ and DFD, or None if the folder has another layout."""
    originals_only = (folder / ORIGINALS).is_dir() and not (folder / "manipulated_videos").is_dir()
    if not originals_only and not (folder / MANIPULATED).is_dir():  # for example DeeperForensics
        return None
    splits = _read_splits(folder)
    pairs = {one: other for pair in splits for one, other in (pair.split("_"),)}
    videos = []
    for path in _videos(folder):
        _, kind, compression = path.relative_to(folder).parts[:3]
        if kind in ("actors", DFD):
            videos.append(_dfd_video(folder, path, compression))
        else:
            videos.append(_video(folder, path, kind, compression, splits, pairs))
    return Dataset(
        name=" and ".join(sorted({video.source.rpartition(" ")[0] for video in videos})) or NAME,
        videos=videos,
        note=f"{DFD} has no official split: all of it is test"
        if any(video.source.startswith(DFD) for video in videos)
        else "",
        missing=_missing(videos, splits),
    )


def _videos(folder: Path) -> Iterator[Path]:
    for part in (ORIGINALS, MANIPULATED):
        for compression in COMPRESSIONS:
            for kind in sorted((folder / part).glob(f"*/{compression}/videos")):
                yield from videos_below(kind)


def _video(
    folder: Path,
    path: Path,
    method: str,
    compression: str,
    splits: dict[str, str],
    pairs: dict[str, str],
) -> LabelledVideo:
    real = method == "youtube"
    target, _, source = path.stem.partition("_")
    partner = pairs.get(target, source or target)
    original = folder / ORIGINALS / "youtube" / compression / "videos" / f"{target}{path.suffix}"
    return LabelledVideo(
        name=name_below(path, folder),
        path=path,
        label="REAL" if real else "FAKE",
        group=f"{NAME} {min(target, partner)}",
        source=f"{NAME} {compression}",
        original=None if real else (None, original),
        method="" if real else method,
        split=splits.get(f"{target}_{partner}", ""),
    )


def _dfd_video(folder: Path, path: Path, compression: str) -> LabelledVideo:
    real = path.relative_to(folder).parts[0] == ORIGINALS
    actors, _, rest = path.stem.partition("__")
    target, scene = actors.partition("_")[0], rest.rpartition("__")[0]
    videos = folder / ORIGINALS / "actors" / compression / "videos"
    return LabelledVideo(
        name=name_below(path, folder),
        path=path,
        label="REAL" if real else "FAKE",
        group=f"{DFD} {target}",
        source=f"{DFD} {compression}",
        original=None if real else (None, videos / f"{target}__{scene}{path.suffix}"),
        method="" if real else DFD,
        split="test",
    )


def _read_splits(folder: Path) -> dict[str, str]:
    """Return a dictionary from each pair of originals to the split of the pair.

    Each pair has two keys, for example `000_003` and `003_000`.
    """
    splits: dict[str, str] = {}
    for split in SPLITS:
        file = first_file(folder, f"splits/{split}.json", f"{split}.json")
        if file is None:
            continue
        try:
            for one, other in json.loads(file.read_text(encoding="utf-8")):
                splits |= {f"{one}_{other}": split, f"{other}_{one}": split}
        except (ValueError, TypeError) as error:
            raise InputError(f"{file}: not a list of pairs of videos ({error})") from error
    return splits


def _missing(videos: list[LabelledVideo], splits: dict[str, str]) -> tuple[str, ...]:
    own = [video for video in videos if video.source.startswith(NAME)]
    missing = [method for method in METHODS if own and method not in {one.method for one in own}]
    for name in (NAME, DFD):
        labels = {video.label for video in videos if video.source.startswith(name)}
        if labels == {"FAKE"}:
            missing.append(f"the REAL videos of {name}")
    if own and not splits:
        missing.append("train.json, val.json and test.json (the split files of its repository)")
    return tuple(missing)
