"""FakeAVCeleb: Khalid et al., "FakeAVCeleb: A Novel Audio-Video Multimodal Dataset", NeurIPS 2021.

```
RealVideo-RealAudio/African/men/id00076/00109.mp4
FakeVideo-FakeAudio/African/men/id00076/00109_10_id00476_wavtolip.mp4
meta_data.csv
```

A video is FAKE if its picture is fake. The videos in `RealVideo-FakeAudio` are REAL, because only
their sound is fake and dfdetect ignores sound. `meta_data.csv` gives the method of each fake.
"""

from pathlib import Path

from dfdetect.data.datasets.dataset import Dataset, name_below, register_layout, videos_below
from dfdetect.data.labels import LabelledVideo
from dfdetect.errors import InputError
from dfdetect.files import read_table

NAME = "FakeAVCeleb"
TABLE = "meta_data.csv"
LABELS = {
    "RealVideo-RealAudio": "REAL",
    "RealVideo-FakeAudio": "REAL",
    "FakeVideo-RealAudio": "FAKE",
    "FakeVideo-FakeAudio": "FAKE",
}


@register_layout
def read_fakeavceleb(folder: Path) -> Dataset | None:
    """Return the videos of FakeAVCeleb, or None if the folder has another layout."""
    present = [part for part in LABELS if (folder / part).is_dir()]
    if not present:
        return None
    methods = _read_methods(folder / TABLE)
    videos = []
    for part in present:
        for path in videos_below(folder / part):
            fake = LABELS[part] == "FAKE"
            videos.append(
                LabelledVideo(
                    name=name_below(path, folder),
                    path=path,
                    label=LABELS[part],
                    group=f"{NAME} {path.parent.name}",
                    source=NAME,
                    method=methods.get(name_below(path, folder), part) if fake else "",
                    split="test",
                )
            )
    missing = [part for part in LABELS if part not in present]
    if not methods:
        missing.append(f"{TABLE} (the methods)")
    return Dataset(
        name=NAME,
        videos=videos,
        note="it has no official split: all of it is test",
        missing=tuple(missing),
    )


def _read_methods(file: Path) -> dict[str, str]:
    """Return a dictionary from the path of each video to the method that made the video.

    If the table is missing, the dictionary is empty.
    """
    if not file.is_file():
        return {}
    table = read_table(file, ("method", "path"))
    if not {"method", "path"} <= set(table):
        raise InputError(f"{file}: needs at least the columns method and path")
    # The last column of the table has no name. It holds the folder of the video.
    folders = table.iloc[:, -1].astype(str).str.rstrip("/")
    below = folders.str.replace(r"^.*?(?=(Real|Fake)Video-)", "", regex=True)
    names = below + "/" + table["path"].astype(str)
    return dict(zip(names, table["method"], strict=True))
