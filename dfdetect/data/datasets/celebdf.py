"""Celeb-DF v1 and v2: Li et al., "Celeb-DF: A Large-scale Challenging Dataset", CVPR 2020.

```
Celeb-real/id0_0000.mp4
Celeb-synthesis/id0_id1_0000.mp4
YouTube-real/00000.mp4
List_of_testing_videos.txt
```

The fake `id0_id1_0000` shows the scene of the video `id0_0000` with the face of the person `id1`.
The videos of each folder may also be in a sub-folder `videos`. The videos in
`List_of_testing_videos.txt` form the split `test`. All other videos form the split `train`.
"""

from pathlib import Path

from dfdetect.data.datasets.dataset import (
    Dataset,
    first_folder,
    name_below,
    register_layout,
    videos_below,
)
from dfdetect.data.labels import LabelledVideo

TEST_LIST = "List_of_testing_videos.txt"
PARTS = ("Celeb-real", "YouTube-real", "Celeb-synthesis")
# The name of each version, by the number of videos in its test list.
VERSIONS = {100: "Celeb-DF-v1", 518: "Celeb-DF-v2"}


@register_layout
def read_celebdf(folder: Path) -> Dataset | None:
    """Return the videos of Celeb-DF, or None if the folder has another layout."""
    parts = {part: first_folder(folder, part) for part in PARTS}
    if parts["Celeb-synthesis"] is None:
        return None
    tested = _read_list(folder / TEST_LIST)
    name = _name(folder, len(tested))
    videos = [
        _video(folder, path, part, name, tested)
        for part, place in parts.items()
        for path in (videos_below(place) if place else ())
    ]
    missing = [part for part, place in parts.items() if place is None]
    found = {_key(Path(video.name)) for video in videos}
    if not tested:
        missing.append(TEST_LIST)
    elif absent := len(tested - found):
        missing.append(f"{absent} of {len(tested)} test videos")
    return Dataset(name=name, videos=videos, missing=tuple(missing))


def _video(
    folder: Path, path: Path, part: str, source: str, tested: set[tuple[str, str]]
) -> LabelledVideo:
    fake = part == "Celeb-synthesis"
    group, original = path.stem, None
    if part != "YouTube-real":
        group, _, rest = path.stem.partition("_")
        if fake:
            between = path.relative_to(folder).parts[1:-1]
            name = f"{group}_{rest.rpartition('_')[2]}{path.suffix}"
            original = (None, folder.joinpath(PARTS[0], *between, name))
    split = ("test" if _key(path.relative_to(folder)) in tested else "train") if tested else ""
    return LabelledVideo(
        name=name_below(path, folder),
        path=path,
        label="FAKE" if fake else "REAL",
        group=f"Celeb-DF {group}",
        source=source,
        original=original,
        method="Celeb-DF" if fake else "",
        split=split,
    )


def _key(path: Path) -> tuple[str, str]:
    """Return a key for a video: the first folder of its path in lower case, and its file name.

    `path` is relative to the folder of the data set.
    """
    return path.parts[0].lower(), path.name


def _read_list(file: Path) -> set[tuple[str, str]]:
    if not file.is_file():
        return set()
    lines = file.read_text(encoding="utf-8").splitlines()
    return {_key(Path(line.split(maxsplit=1)[1].strip())) for line in lines if " " in line.strip()}


def _name(folder: Path, tested: int) -> str:
    for version in ("v1", "v2"):
        if version in folder.name.lower():
            return f"Celeb-DF-{version}"
    return VERSIONS.get(tested, "Celeb-DF")
