"""The JSON files of DeepfakeBench and of DF40, which have the same layout.

Yan et al., "DeepfakeBench", NeurIPS 2023; Yan et al., "DF40: Toward Next-Generation Deepfake
Detection", NeurIPS 2024. Each JSON file lists the crops that the authors' preprocessing has cut:

```
{"Celeb-DF-v2": {"CelebDFv2_real": {"test": {"id0_0000": {
    "label": "CelebDFv2_real", "frames": ["Celeb-DF-v2/Celeb-real/frames/id0_0000/000.png"]}}}}}
```

Above the videos, there may be one more level: the compression, such as `c23`. The paths of the
frames are relative to the folder that holds all data sets. This folder must be the JSON file's
folder, a folder above it, or a sub-folder of one of these (see `PLACES`).

DF40 also publishes crops without a JSON file. The folder `METHOD/ff` has fakes made from
FaceForensics++, and `METHOD/cdf` has fakes made from Celeb-DF-v2. Some methods have the folders
`METHOD/real` and `METHOD/fake` instead.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from dfdetect.data.datasets.dataset import (
    CropSequence,
    Dataset,
    by_number,
    first_folder,
    image_sequences,
    name_below,
    register_layout,
    to_face_set,
)
from dfdetect.defaults import SPLITS
from dfdetect.errors import InputError

DF40 = "DF40"
# Folders that may hold all data sets, relative to the JSON file's folder or to a folder above it.
PLACES = ("", "datasets", "datasets/rgb", "rgb")
# Folders of the REAL crops from which the fakes in METHOD/ff and METHOD/cdf were made.
ORIGINALS = {
    "ff": Path("FaceForensics++", "original_sequences", "youtube", "c23", "frames"),
    "cdf": Path("Celeb-DF-v2", "Celeb-real", "frames"),
}
# Folders whose images show different people. Each image counts as a video.
OF_STILLS = frozenset(("inversions", "real", "fake"))
# Methods for which DF40 has REAL images of their own.
WITH_REAL = frozenset(
    "collabdiff deepfacelab heygen heygen_new midjourney stargan starganv2 styleclip "
    "whichfaceisreal".split()
)


@register_layout
def read_deepfakebench(file: Path) -> Dataset | None:
    """Return the crops that a JSON file lists, or None if `file` is not a JSON file."""
    if file.suffix != ".json" or not file.is_file():
        return None
    try:
        (content,) = json.loads(file.read_text(encoding="utf-8")).items()
        name, by_label = content
        listed = list(_listed(name, by_label))
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise InputError(f"{file}: not a JSON file of DeepfakeBench ({error})") from error
    root = _find_root(file, (frame for one in listed for frame in one.images))
    if root is None:
        raise InputError(
            f"{file}: none of its images was found; put the file beside the folders in which its "
            f"images are, such as {listed[0].images[0] if listed else 'Celeb-DF-v2'}"
        )
    sequences = []
    for one in listed:
        images = [root / image for image in one.images if (root / image).is_file()]
        if images:
            sequences.append(one._replace(images=images))
    absent = len(listed) - len(sequences)
    missing = (f"{absent} of {len(listed)} listed videos",) if absent else ()
    return Dataset(name=name, faces=to_face_set(sequences), missing=missing)


@register_layout
def read_df40(folder: Path) -> Dataset | None:
    """Return the crops of DF40, or None if the folder has another layout.

    All crops get the split `test`.
    """
    methods = [
        path
        for path in (sorted(folder.iterdir()) if folder.is_dir() else ())
        if first_folder(path, "ff", "cdf")
        or (path.name.lower() in WITH_REAL and first_folder(path, "real", "fake", "heygen_new"))
    ]
    if not methods:
        return None
    sequences = [one for method in methods for one in _method_sequences(folder, method)]
    if not sequences:  # the folders have matching names by chance: they hold no crops
        return None
    missing = []
    for domain, place in ORIGINALS.items():
        if not any((method / domain).is_dir() for method in methods):
            continue
        real = next((up / place for up in (folder, folder.parent) if (up / place).is_dir()), None)
        if real is None:
            missing.append(f"the REAL crops of {domain}: {place.as_posix()}")
            continue
        for parent, images in image_sequences(real).items():
            source = f"{DF40} {domain}"
            name = f"{source} {parent.name}"
            sequences.append(CropSequence(name, "REAL", name, source, "", "test", images))
    return Dataset(
        name=DF40,
        faces=to_face_set(sequences),
        note="the folder is taken for the test split",
        missing=tuple(missing),
    )


def _listed(name: str, by_label: Mapping[str, Any]) -> Iterator[CropSequence]:
    """Yield the crop sequences that a JSON file lists.

    The image paths are copied from the JSON file, and are relative to the folder that holds all
    data sets.
    """
    for label, by_split in by_label.items():
        for split, videos in by_split.items():
            if split not in SPLITS:
                raise InputError(f"{split!r} is no split")
            for video, entry in _videos(videos):
                real = str(entry["label"]).lower().endswith("real")  # not `whichisreal_Fake`
                frames = [PurePosixPath(frame.replace("\\", "/")) for frame in entry["frames"]]
                frames.sort(key=by_number)
                if frames:
                    yield CropSequence(
                        video=f"{label}/{video}",
                        label="REAL" if real else "FAKE",
                        group=f"{name} {video.split('/')[-1].partition('_')[0]}",
                        source=name,
                        method="" if real else label,
                        split=split,
                        images=[Path(frame) for frame in frames],
                    )


def _videos(videos: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the name and the JSON entry of each video.

    If the videos are grouped by compression, the names have the form `c23/000`. The function then
    calls itself for each group. The argument `above` is the prefix of the names, such as `c23/`.
    """
    for name, entry in videos.items():
        if not isinstance(entry, Mapping):  # of one record that stands where videos should be
            continue
        if "frames" in entry:
            yield above + name, entry
        else:
            yield from _videos(entry, f"{above}{name}/")


def _find_root(file: Path, images: Iterable[Path]) -> Path | None:
    """Return the folder to which the paths in a JSON file are relative, or None if none is found.

    The function tries all folders above the JSON file `file`, and in each of them the sub-folders
    that `PLACES` lists. It returns the first folder in which one of the paths `images` exists.
    """
    roots = [parent / place for parent in file.absolute().parents for place in PLACES]
    for image in images:
        for root in roots:
            if (root / image).is_file():
                return root
    return None


def _method_sequences(folder: Path, method: Path) -> Iterator[CropSequence]:
    for parent, found in image_sequences(method).items():
        parts = [part.lower() for part in parent.relative_to(folder).parts]
        domain = next((one for one in ORIGINALS if one in parts), method.name)
        label = "REAL" if "real" in parts and domain == method.name else "FAKE"
        stills = {image.with_suffix(""): [image] for image in found}
        for place, images in (stills if parts[-1] in OF_STILLS else {parent: found}).items():
            yield CropSequence(
                video=name_below(place, folder),
                label=label,
                group=f"{DF40} {domain} {place.name.partition('_')[0]}",
                source=f"{DF40} {domain}",
                method=method.name if label == "FAKE" else "",
                split="test",
                images=images,
            )
