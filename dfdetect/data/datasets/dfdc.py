"""The Deepfake Detection Challenge (Dolhansky et al. 2020) and its preview (Dolhansky et al. 2019).

The data of the challenge has this layout:

```
train/dfdc_train_part_0/metadata.json
train/dfdc_train_part_0/NAME.mp4
test/labels.csv
test/NAME.mp4
```

There are training parts 0 to 49. The parts and `labels.csv` may also lie directly in the folder of
the data set, without the folders `train/` and `test/`. The test videos may be in a sub-folder
`videos`.

The preview has this layout:

```
dataset.json
original_videos/643049/643049_A_001.mp4
method_A/643049/643049_A/643049_A_002_1224068_B_001.mp4
```
"""

import json
from collections.abc import Iterator
from pathlib import Path

from dfdetect.data.datasets.dataset import Dataset, name_below, register_layout, videos_below
from dfdetect.data.labels import METADATA, LabelledVideo, parse_metadata, require_label
from dfdetect.errors import InputError
from dfdetect.files import read_table

NAME, PREVIEW = "DFDC", "DFDC preview"
TRAIN_PARTS = 50
LABELS_TABLE, PREVIEW_INDEX = "labels.csv", "dataset.json"


@register_layout
def read_challenge(folder: Path) -> Dataset | None:
    """Return the videos of the challenge, or None if the folder has another layout."""
    parts = sorted({*folder.glob("dfdc_train_part_*"), *folder.glob("train/dfdc_train_part_*")})
    parts = [part for part in parts if part.is_dir()]
    test = next((one for one in (folder, folder / "test") if (one / LABELS_TABLE).is_file()), None)
    if not parts and test is None:
        return None
    videos = [video for part in parts for video in _train_videos(folder, part)]
    missing = []
    if parts and len(parts) < TRAIN_PARTS:
        missing.append(f"{TRAIN_PARTS - len(parts)} of {TRAIN_PARTS} training parts")
    if test is None:
        missing.append("the test set")
    else:
        found = list(_test_videos(folder, test))
        if absent := len(_read_labels(test / LABELS_TABLE)) - len(found):
            missing.append(f"{absent} videos of {LABELS_TABLE}")
        videos += found
    return Dataset(name=NAME, videos=videos, missing=tuple(missing))


@register_layout
def read_preview(folder: Path) -> Dataset | None:
    """Return the videos of the preview, or None if the folder has another layout."""
    index = folder / PREVIEW_INDEX
    if not index.is_file() or not (folder / "original_videos").is_dir():
        return None
    try:
        entries = json.loads(index.read_text(encoding="utf-8"))
        rows = {name: (entry["label"].upper(), entry["set"]) for name, entry in entries.items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{index}: not the index of the DFDC preview ({error!r})") from error
    for name, (label, _) in rows.items():
        require_label(label, index, name)
    videos = [
        LabelledVideo(
            name=name,
            path=folder / name,
            label=label,
            group=f"{PREVIEW} {'/'.join(Path(name).parts[1:2])}",
            source=PREVIEW,
            method="" if label == "REAL" else Path(name).parts[0],
            split=split,
        )
        for name, (label, split) in sorted(rows.items())
        if (folder / name).is_file()
    ]
    absent = len(rows) - len(videos)
    missing = (f"{absent} of {len(rows)} videos of {PREVIEW_INDEX}",) if absent else ()
    return Dataset(name=PREVIEW, videos=videos, missing=missing)


def _train_videos(folder: Path, part: Path) -> Iterator[LabelledVideo]:
    file = part / METADATA
    if not file.is_file():
        raise InputError(f"{part}: no {METADATA}: copy it from the zip file of this part")
    entries = parse_metadata(file, file.read_bytes())
    for path in videos_below(part):
        entry = entries.get(path.name, {})
        if "label" not in entry:
            raise InputError(f"{path}: not in {file}")
        require_label(entry["label"], file, path.name)
        original = entry.get("original")
        yield LabelledVideo(
            name=name_below(path, folder),
            path=path,
            label=entry["label"],
            group=Path(original or path.name).stem,
            source=f"{NAME} {part.name}",
            original=(None, path.parent / original) if original else None,
            split="train",
        )


def _test_videos(folder: Path, test: Path) -> Iterator[LabelledVideo]:
    labels = _read_labels(test / LABELS_TABLE)
    places = [test, test / "videos"]
    for name, label in sorted(labels.items()):
        path = next((place / name for place in places if (place / name).is_file()), None)
        if path is not None:
            yield LabelledVideo(
                name=name_below(path, folder),
                path=path,
                label=label,
                group=path.stem,
                source=f"{NAME} test",
                split="test",
            )


def _read_labels(file: Path) -> dict[str, str]:
    table = read_table(file, ("filename",))
    if not {"filename", "label"} <= set(table) or not set(table["label"]) <= {0, 1}:
        raise InputError(f"{file}: needs the columns filename and label, with 0 (REAL) or 1 (FAKE)")
    return {
        str(name): "FAKE" if label else "REAL"
        for name, label in zip(table["filename"], table["label"], strict=True)
    }
