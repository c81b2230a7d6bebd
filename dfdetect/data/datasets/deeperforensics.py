"""DeeperForensics-1.0: Jiang et al., "DeeperForensics-1.0: A Large-Scale Dataset", CVPR 2020.

```
manipulated_videos/end_to_end/000_M101.mp4
lists/splits/test.txt
original_sequences/youtube/c23/videos/000.mp4 (of FaceForensics++)
```

The fake `000_M101` shows the scene of the video `000` with the face of the actor `M101`. The REAL
videos, such as `000`, are the 1,000 originals of FaceForensics++ at compression c23. Copy them to
the place shown above. The videos of the actors (folder `source_videos`) are not read.

Each file in `lists/splits` is named after a split, and lists the fakes of this split, one per line.
The original of a fake is in the same split as the fake.
"""

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

NAME = "DeeperForensics-1.0"
TARGETS = Path("original_sequences", "youtube", "c23", "videos")
LISTS = "lists/splits"


@register_layout
def read_deeperforensics(folder: Path) -> Dataset | None:
    """Return the fakes and their REAL originals, or None if the folder has another layout."""
    fakes = folder / "manipulated_videos"
    if not fakes.is_dir():
        return None
    splits = _read_splits(folder)
    targets = {name.partition("_")[0]: split for name, split in splits.items()}
    videos = [
        LabelledVideo(
            name=name_below(path, folder),
            path=path,
            label="FAKE",
            group=f"FaceForensics++ {path.stem.partition('_')[0]}",
            source=NAME,
            original=(None, folder / TARGETS / f"{path.stem.partition('_')[0]}.mp4"),
            method=path.relative_to(fakes).parts[0],
            split=splits.get(path.stem, ""),
        )
        for path in videos_below(fakes)
    ]
    real = [
        LabelledVideo(
            name=name_below(path, folder),
            path=path,
            label="REAL",
            group=f"FaceForensics++ {path.stem}",
            source=NAME,
            split=targets.get(path.stem, ""),
        )
        for path in videos_below(folder / TARGETS)
    ]
    missing = []
    if not real:
        missing.append(f"the REAL videos: {TARGETS.as_posix()} of FaceForensics++")
    if not splits:
        missing.append(f"the split files in {LISTS}")
    return Dataset(name=NAME, videos=[*real, *videos], missing=tuple(missing))


def _read_splits(folder: Path) -> dict[str, str]:
    """Return a dictionary from the name of each fake, without suffix, to its split."""
    splits: dict[str, str] = {}
    for split in SPLITS:
        if file := first_file(folder, f"{LISTS}/{split}.txt"):
            lines = file.read_text(encoding="utf-8").split()
            splits |= {Path(line).stem: split for line in lines}
    return splits
