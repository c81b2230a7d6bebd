"""The videos of Deepfake-Eval-2024: Chandra et al., "Deepfake-Eval-2024", 2025.

```
video-metadata-publish.csv
video-data/NAME.mp4
```

The table has the columns `Filename`, `Video Ground Truth`, `Finetuning Set` and others. It may also
be named `video-metadata-publish-with-links.csv`. Videos whose truth is neither real nor fake are
left out. The column `Finetuning Set` gives the split.
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
from dfdetect.errors import InputError
from dfdetect.files import read_table

NAME = "Deepfake-Eval-2024"
TABLES = ("video-metadata-publish.csv", "video-metadata-publish-with-links.csv")
COLUMNS = ("Filename", "Video Ground Truth", "Finetuning Set")
LABELS = {"real": "REAL", "fake": "FAKE"}


@register_layout
def read_deepfake_eval_2024(folder: Path) -> Dataset | None:
    """Return the videos of Deepfake-Eval-2024, or None if the folder has another layout."""
    file = first_file(folder, *TABLES)
    if file is None:
        return None
    table = read_table(file, COLUMNS)
    if not set(COLUMNS) <= set(table):
        raise InputError(f"{file}: needs at least the columns {', '.join(COLUMNS)}")
    places = {path.name: path for path in videos_below(folder)}
    videos, unknown, absent = [], 0, 0
    for name, truth, split in table[list(COLUMNS)].astype(str).itertuples(index=False):
        label = LABELS.get(truth.strip().lower())
        if label is None:
            unknown += 1
        elif name not in places:
            absent += 1
        else:
            split = split.strip().lower()
            videos.append(
                LabelledVideo(
                    name=name_below(places[name], folder),
                    path=places[name],
                    label=label,
                    group=Path(name).stem,
                    source=NAME,
                    split=split if split in SPLITS else "",
                )
            )
    return Dataset(
        name=NAME,
        videos=videos,
        note=f"{unknown} videos of unknown truth are left out" if unknown else "",
        missing=(f"{absent} videos of {file.name}",) if absent else (),
    )
