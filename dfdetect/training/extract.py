"""Videos (folders or zip files) -> a face set with the crops of each person in a row.

Beside the index `NAME.csv` and the folder `NAME/` of crops there is `NAME.videos.csv`, with one row
for each video that is done: a run that was stopped goes on with the others.
"""

import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from dfdetect.checkpoint import FARTHEST, INPUT_SIZES, CropRule
from dfdetect.device import choose_device
from dfdetect.faces import FaceFinder, Person, follow_faces
from dfdetect.files import atomic_path, printable, read_table, require_writable
from dfdetect.options import DEFAULT_FRAMES
from dfdetect.reasons import NO_FACE
from dfdetect.training.blend import self_blend
from dfdetect.training.faceset import FaceSetError
from dfdetect.training.labels import LabelledPhoto, LabelledVideo, read_labels, read_photos
from dfdetect.video import VideoError
from dfdetect.videoscore import OK

CROP_SIZE = 224
JPEG_QUALITY = 95
SELF_BLENDED = "self-blended"
INDEX_COLUMNS = [
    *("id", "label", "actor_group", "source", "manipulation"),
    *("video", "track", "frame", "time", "native_px"),
]
DONE_COLUMNS = ["video", "label", "source", "status", "people", "crops", "settings"]


@dataclass(frozen=True)
class Cut:
    """How crops are cut; the same for all of a face set."""

    frames: int
    size: int
    crop: CropRule
    blend: bool

    def __str__(self) -> str:
        return json.dumps(asdict(self))


def extract(
    sources: Sequence[str | Path],
    out: str | Path,
    frames: int = DEFAULT_FRAMES,
    size: int = CROP_SIZE,
    crop_scale: float = CropRule.scale,
    crop_shift: float = CropRule.shift,
    blend: bool = False,
    device: str = "auto",
    progress: bool = True,
) -> pd.DataFrame:
    """Make a face set of labelled videos, or go on with one.

    Every person in a video gets the video's label; where one of two is fake, that is wrong for the
    other. A video that cannot be read or shows no face is noted with the reason.

    Args:
        sources: Folders and zip files, labelled as `read_labels` takes them, and indexes of face
            sets whose pictures show more than the face.
        out: The index to write, ending in `.csv`; the crops go to the folder of the same name.
        frames: Number of evenly spaced frames of each video.
        size: Side of the crops in pixels.
        crop_scale: As in `CropRule`.
        crop_shift: As in `CropRule`.
        blend: Also make a matched fake of each person in a REAL video, self-blended alike in all
            frames (`dfdetect.training.blend`).
        device: As in `load_detector`.
        progress: Show a progress bar.

    Returns:
        One row a video: `video`, `label`, `status` (`ok` or a short reason), `people`, `crops` and
        the `settings` that they were made with.

    Raises:
        FileNotFoundError: A source is missing.
        ValueError: The videos are not labelled, or `out` was made with other settings.

    Example:
        >>> extract(["dfdc_train_part_00.zip"], "faces.csv")["status"].value_counts()
        ok    1334
    """
    out = Path(out)
    if out.suffix != ".csv":
        raise ValueError(f"{out}: the name of an index must end in .csv")
    require_writable(out)
    if frames < 1 or size not in INPUT_SIZES:
        raise ValueError(
            f"--frames must be at least 1, --size {INPUT_SIZES[0]} to {INPUT_SIZES[-1]} pixels; "
            f"not {frames} and {size}"
        )
    if not (0 < crop_scale < FARTHEST and abs(crop_shift) < FARTHEST):
        raise ValueError(f"no face is in crops of scale {crop_scale} and shift {crop_shift}")
    videos = _find(sources)
    cut = Cut(frames, size, CropRule(crop_scale, crop_shift), blend)
    store = _Store(out, cut)
    left = [video for video in videos if not store.has(video)]
    if progress and len(left) < len(videos):
        tqdm.write(f"{out}: {len(videos) - len(left)} of {len(videos)} videos are done already")
    torch_device = choose_device(device)
    finders = (FaceFinder(torch_device), FaceFinder.careful(torch_device))
    with tqdm(left, "videos", unit="video", disable=not progress) as bar:
        for video in bar:
            status, people = _find_people(video, finders, cut)
            store.add(video, status, people)
            if progress and status != OK:
                tqdm.write(printable(f"{video.name}: {status}"))
    return store.table()


class _Store:
    """The files of a face set that grows video by video."""

    def __init__(self, index: Path, cut: Cut):
        self.index = index
        self.folder = index.with_suffix("")
        self.log = index.with_suffix(".videos.csv")
        self.cut = cut
        self.done: dict[str, dict[str, Any]] = {}
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.log.is_file():
            self._restore()
        elif index.exists():
            raise ValueError(f"{index}: exists, and {self.log.name} is not beside it: give another")
        else:
            pd.DataFrame(columns=INDEX_COLUMNS).to_csv(index, index=False)
            pd.DataFrame(columns=DONE_COLUMNS).to_csv(self.log, index=False)

    def has(self, video: LabelledVideo | LabelledPhoto) -> bool:
        """Whether a video is done.

        Raises:
            ValueError: Another one of the same name is.
        """
        entry = self.done.get(video.name)
        if entry and (entry["label"], entry["source"]) != (video.label, video.source):
            raise ValueError(
                f"{self.log}: has another {video.name}, {entry['label']} of {entry['source']!r}, "
                f"not {video.label} of {video.source!r}: give another --out, or all at once"
            )
        return entry is not None

    def add(self, video: LabelledVideo | LabelledPhoto, status: str, people: list[Person]) -> None:
        """Write a video's crops, then their rows, then that the video is done."""
        rows: list[dict[str, Any]] = []
        for track, person in enumerate(people):
            crops = torch.stack(person.crops)
            rows += self._write_track(video, track, person, crops)
            if self.cut.blend and video.label == "REAL":
                fakes = self_blend(crops, _generator(video.name, track))
                rows += self._write_track(video, track, person, fakes, SELF_BLENDED)
        values = (
            *(video.name, video.label, video.source, status),
            *(len(people), len(rows), str(self.cut)),
        )
        entry = dict(zip(DONE_COLUMNS, values, strict=True))
        self._append(self.index, rows, INDEX_COLUMNS)
        self._append(self.log, [entry], DONE_COLUMNS)
        self.done[video.name] = entry

    def table(self) -> pd.DataFrame:
        """What was done, one row a video."""
        return pd.DataFrame(list(self.done.values()), columns=DONE_COLUMNS)

    def _restore(self) -> None:
        """Take over what is complete; rows of a video that was cut off are dropped."""
        log = read_table(self.log, tuple(DONE_COLUMNS))
        complete = log[log["settings"].astype(str).str.endswith("}")]
        others = complete[complete["settings"] != str(self.cut)]
        if len(others):
            raise ValueError(
                f"{self.log}: made with other settings, {others['settings'].iloc[0]}: repeat "
                "them, or give another name"
            )
        complete = complete.astype({"people": int, "crops": int})
        self.done = {entry["video"]: entry for entry in complete.to_dict("records")}
        index = read_table(self.index, tuple(INDEX_COLUMNS))
        index = index[index["video"].isin(self.done.keys())]
        for path, table in ((self.index, index), (self.log, complete)):
            with atomic_path(path) as temporary:
                table.to_csv(temporary, index=False, errors="surrogateescape")

    def _write_track(
        self,
        video: LabelledVideo | LabelledPhoto,
        track: int,
        person: Person,
        crops: torch.Tensor,
        manipulation: str = "",
    ) -> Iterator[dict[str, Any]]:
        stem = Path(video.name).with_suffix("").as_posix().replace("/", "__")
        for position, crop in enumerate(crops):
            number = person.numbers[position]
            name = "-".join(filter(None, (f"{stem}-{track}-{number:06}", manipulation)))
            _write_image(self.folder / f"{name}.jpg", crop)
            _, _, side = self.cut.crop.square(person.boxes[position])
            label = "FAKE" if manipulation else video.label
            time = round(person.times[position], 3)
            values = (
                *(name, label, video.group, video.source, manipulation),
                *(video.name, track, number, time, round(side)),
            )
            yield dict(zip(INDEX_COLUMNS, values, strict=True))

    @staticmethod
    def _append(path: Path, rows: list[dict[str, Any]], columns: list[str]) -> None:
        options = {"header": False, "index": False, "errors": "surrogateescape"}
        pd.DataFrame(rows, columns=columns).to_csv(path, mode="a", **options)


def _find(sources: Sequence[str | Path]) -> list[LabelledVideo | LabelledPhoto]:
    """All labelled videos and photographs; a name that occurs twice gets that of its source."""
    found: dict[str, LabelledVideo | LabelledPhoto] = {}
    for source in sources:
        is_index = Path(source).suffix == ".csv"
        for video in read_photos(source) if is_index else read_labels(source):
            name = video.name
            if name in found:
                name = f"{Path(source).stem}/{name}"
            if name in found:
                raise ValueError(f"{source}: {name} is in two sources: give each once")
            found[name] = replace(video, name=name)
    return list(found.values())


def _find_people(
    video: LabelledVideo | LabelledPhoto, finders: tuple[FaceFinder, ...], cut: Cut
) -> tuple[str, list[Person]]:
    """`ok` and the people of a video, or the reason why there are none."""
    try:
        for finder in finders:
            frames = video.read(cut.frames)
            if people := follow_faces(frames, finder.find, cut.crop, cut.size):
                return OK, people
    except VideoError as error:
        return error.reason, []
    except (OSError, FaceSetError) as error:
        return str(error), []
    return NO_FACE, []


def _generator(name: str, track: int) -> torch.Generator:
    """The same for the same person of the same video, whatever was done before."""
    return torch.Generator().manual_seed(zlib.crc32(f"{name} {track}".encode()))


def _write_image(path: Path, crop: torch.Tensor) -> None:
    pixels = np.ascontiguousarray(crop.permute(1, 2, 0).numpy()[..., ::-1])
    _, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    path.write_bytes(data.tobytes())
