"""WildDeepfake: Zi et al., "WildDeepfake: A Challenging Real-World Dataset", ACM MM 2020.

The data set consists of sequences of face crops. Each crop has 224 x 224 pixels. When the archives
of the data set are unpacked, the layout is:

```
fake_test/12/fake/345/0.png
real_train/7/real/89/0.png
```

The first number names a video from the web, and the second number names a sequence of crops from
this video.
"""

from collections.abc import Iterator
from pathlib import Path

from dfdetect.data.datasets.dataset import (
    CropSequence,
    Dataset,
    image_sequences,
    name_below,
    register_layout,
    to_face_set,
)
from dfdetect.errors import InputError

NAME = "WildDeepfake"
PARTS = {
    f"{label}_{split}": (label.upper(), split)
    for label in ("real", "fake")
    for split in ("train", "test")
}


@register_layout
def read_wilddeepfake(folder: Path) -> Dataset | None:
    """Return the crop sequences of WildDeepfake, or None if the folder has another layout.

    Raises:
        InputError: The archives are not unpacked.
    """
    present = [part for part in PARTS if (folder / part).is_dir()]
    if not present:
        return None
    sequences = [one for part in present for one in _sequences(folder, part)]
    if not sequences:
        raise InputError(
            f"{folder}: no images in {', '.join(present)}: unpack the .tar.gz files there, each "
            "in the folder that holds it"
        )
    missing = tuple(part for part in PARTS if part not in present)
    return Dataset(name=NAME, faces=to_face_set(sequences), missing=missing)


def _sequences(folder: Path, part: str) -> Iterator[CropSequence]:
    label, split = PARTS[part]
    for parent, images in image_sequences(folder / part).items():
        video = parent.relative_to(folder / part).parts[:1]
        yield CropSequence(
            video=name_below(parent, folder),
            label=label,
            group="/".join((part, *video)),
            source=NAME,
            method="",
            split=split,
            images=images,
        )
