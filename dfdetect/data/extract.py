"""Videos (folders or zip files) -> a face set with the crops of each person in a row.

Beside the index `NAME.csv` and the shards `NAME-00000.tar` and so on, `NAME.videos.csv` has one row
for each video that is done: a run that was stopped goes on with the others.
"""

import json
import logging
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from dfdetect.checkpoints.spec import INPUT_SIZES
from dfdetect.data.faceset import FaceSetError
from dfdetect.data.labels import LabelledPhoto, LabelledVideo, read_labels, read_photos
from dfdetect.data.self_blend import self_blend
from dfdetect.data.shards import SHARD_COLUMNS, ShardWriter, shard_path
from dfdetect.defaults import DEFAULT_FRAMES
from dfdetect.errors import ArgumentError, InputError
from dfdetect.faces.detection import FaceDetector
from dfdetect.faces.geometry import FARTHEST, CropRule
from dfdetect.faces.tracking import FaceTrack, crop_at_tracks, track_faces
from dfdetect.files import atomic_path, printable, read_table, require_writable
from dfdetect.results import FAILED, NO_ACCESS, NO_FACE, OK
from dfdetect.runtime.executor import Executor
from dfdetect.video.isolated import CancelledError, DecoderPool
from dfdetect.video.reader import Frame, VideoError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

CROP_SIZE = 224
JPEG_QUALITY = 95
SELF_BLENDED = "self-blended"
CROP_COLUMNS = [
    *("id", "label", "actor_group", "source", "manipulation"),
    *("video", "track", "frame", "time", "native_px"),
]
INDEX_COLUMNS = [*CROP_COLUMNS, *SHARD_COLUMNS]
DONE_COLUMNS = ["video", "label", "source", "status", "people", "crops", "settings"]
# How many bytes of the index, and of which shard, there are when a video is done.
END_COLUMNS = ["index_end", "shard", "shard_end"]
LOG_COLUMNS = [*DONE_COLUMNS, *END_COLUMNS]
LOGGER = logging.getLogger(__name__)
Video = LabelledVideo | LabelledPhoto


@dataclass(frozen=True)
class CropSettings:
    """How crops are cut; the same for all of a face set."""

    frames: int
    size: int
    crop: CropRule
    blend: bool

    def __str__(self) -> str:
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class VideoGroup:
    """A video and the fakes that were made of it.

    Attributes:
        original: The video in which faces are found.
        fakes: Videos whose crops are cut at its boxes.
        wanted: Names of those of them all whose crops are wanted.
    """

    original: Video
    fakes: tuple[Video, ...]
    wanted: frozenset[str]

    @property
    def videos(self) -> list[Video]:
        """Those that are wanted, in order."""
        return [video for video in (self.original, *self.fakes) if video.name in self.wanted]


@dataclass(frozen=True)
class ExtractedVideo:
    """What came of a video.

    Attributes:
        status: `ok`, or the reason why there are no crops.
        people: How many people were tracked.
        rows: Their crops' rows in the index, but for the columns of the shards.
        images: These crops, encoded.
    """

    status: str
    people: int = 0
    rows: Sequence[dict[str, Any]] = ()
    images: Sequence[bytes] = ()


def extract(
    sources: Sequence[str | Path],
    out: str | Path,
    frames: int = DEFAULT_FRAMES,
    size: int = CROP_SIZE,
    crop_scale: float = CropRule.scale,
    crop_shift: float = CropRule.shift,
    blend: bool = False,
    device: str = "auto",
    cluster: str | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Make a face set of labelled videos, or go on with one.

    Zip files are read where they are, one video at a time. Where `metadata.json` names the original
    of a fake, and it is there and of the same size, the fake's crops are cut at the boxes of its
    original: pairs are aligned, and faces are looked for once. As many videos are worked on at a
    time as there are cores; a run that is killed loses those in hand, and the same command goes on
    and ends with the same files, byte for byte.

    Every person in a video gets the video's label; where one of two is fake, that is wrong for the
    other. A video that cannot be read or shows no face is noted with the reason.

    Args:
        sources: Folders and zip files, labelled as `read_labels` takes them, and indexes of face
            sets whose pictures show more than the face.
        out: The index to write, ending in `.csv`; the crops go to `NAME-00000.tar` and so on.
        frames: Number of evenly spaced frames of each video.
        size: Side of the crops in pixels.
        crop_scale: As in `CropRule`.
        crop_shift: As in `CropRule`.
        blend: Also make a matched fake of each person in a REAL video, self-blended alike in all
            frames (`dfdetect.data.self_blend`).
        device: As in `load_detector`.
        cluster: Do it on the Ray cluster of this address, or `local`, as in
            `dfdetect.runtime.ray_cluster`.
        progress: Show a progress bar.

    Returns:
        One row a video: `video`, `label`, `status` (`ok` or a short reason), `people`, `crops` and
        the `settings` that they were made with.

    Raises:
        FileNotFoundError: A source is missing.
        InputError: The videos are not labelled.
        ArgumentError: `out` was made with other settings, or the cluster cannot be reached.
        OSError: The face set cannot be written; what was written before is kept.

    Example:
        >>> extract(["dfdc_train_part_00.zip"], "faces.csv")["status"].value_counts()
        ok    1334
    """
    out = Path(out)
    if out.suffix != ".csv":
        raise ArgumentError(f"{out}: the name of an index must end in .csv")
    require_writable(out)
    if frames < 1 or size not in INPUT_SIZES:
        raise ArgumentError(
            f"frames must be at least 1, size {INPUT_SIZES[0]} to {INPUT_SIZES[-1]} pixels; "
            f"not {frames} and {size}"
        )
    if not (0 < crop_scale < FARTHEST and abs(crop_shift) < FARTHEST):
        raise ArgumentError(f"no face is in crops of scale {crop_scale} and shift {crop_shift}")
    videos = _find(sources)
    settings = CropSettings(frames, size, CropRule(crop_scale, crop_shift), blend)
    with Executor(device, cluster) as executor, closing(FaceSetWriter(out, settings)) as writer:
        left = {video.name for video in videos if not writer.has(video)}
        if progress and len(left) < len(videos):
            tqdm.write(f"{out}: {len(videos) - len(left)} of {len(videos)} videos are done already")
        groups = _groups(videos, left)
        make_worker = partial(_Extractor, settings)
        results = executor.map(make_worker, groups, on_lost=_lost, failed=_has_failed)
        bar = tqdm(total=len(left), desc="videos", unit="video", disable=not progress)
        total, read = sum(video.size for group in groups for video in group.videos), 0
        with bar:
            for group, extracted in results:
                for video, one in zip(group.videos, extracted, strict=True):
                    writer.add(video, one)
                    read += video.size
                    bar.set_postfix_str(f"{_bytes(read)} of {_bytes(total)}", refresh=False)
                    bar.update()
                    if progress and one.status != OK:
                        tqdm.write(printable(f"{video.name}: {one.status}"))
        return writer.table()


class _Extractor:
    """Finds faces and cuts crops; used by several threads, each for another group."""

    def __init__(self, settings: CropSettings, device: torch.device, decoders: DecoderPool):
        self.settings = settings
        self.decoders = decoders
        self.face_detectors = FaceDetector(device), FaceDetector.high_recall(device)

    def __call__(self, group: VideoGroup) -> list[ExtractedVideo]:
        """What came of each wanted video of a group, in order."""
        original = _TrackedVideo(group.original, self.decoders)
        self._track(original)
        done = []
        for video in group.videos:
            tracked = original if video is group.original else _TrackedVideo(video, self.decoders)
            if tracked is not original:
                self._track(tracked, original)
            done.append(self._extracted(tracked))
        return done

    def _track(self, video: "_TrackedVideo", original: "_TrackedVideo | None" = None) -> None:
        """Set the people of a video, where possible at the boxes of its original."""
        try:
            if original is None or not self._track_at_original(video, original):
                self._find(video)
        except VideoError as error:
            video.status = error.reason
        except OSError as error:
            video.status = f"{NO_ACCESS} ({error})"
        except FaceSetError as error:
            video.status = str(error)
        except CancelledError:
            raise
        except Exception as error:
            # A run over many files must not lose the others to a fault that nobody foresaw.
            LOGGER.exception("%s", video.video.name)
            video.status = f"{FAILED}: {type(error).__name__}: {error}"

    def _find(self, video: "_TrackedVideo") -> None:
        video.status, video.tracks = NO_FACE, []
        for face_detector in self.face_detectors:
            frames = video.frames(self.settings.frames)
            video.tracks = track_faces(
                frames, face_detector.detect, self.settings.crop, self.settings.size
            )
            if video.tracks:
                video.status = OK
                return

    def _track_at_original(self, video: "_TrackedVideo", original: "_TrackedVideo") -> bool:
        """Whether the video shows its original's scene at the same size, and someone in it."""
        if not original.tracks:
            return False
        numbers = sorted({number for track in original.tracks for number in track.numbers})
        with closing(video.frames(numbers)) as frames:
            first = next(frames)
            if video.shape != original.shape:
                return False
            video.tracks = crop_at_tracks(
                chain([first], frames), original.tracks, self.settings.crop, self.settings.size
            )
        video.status = OK
        return True

    def _extracted(self, tracked: "_TrackedVideo") -> ExtractedVideo:
        rows: list[dict[str, Any]] = []
        images: list[bytes] = []
        video = tracked.video
        people = [pair for pair in enumerate(tracked.tracks) if pair[1].crops]
        for track, followed in people if tracked.status == OK else ():
            crops = torch.stack(followed.crops)
            rows += self._rows(video, track, followed)
            images += map(_encode, crops)
            if self.settings.blend and video.label == "REAL":
                rows += self._rows(video, track, followed, SELF_BLENDED)
                images += map(_encode, self_blend(crops, _generator(video.name, track)))
        return ExtractedVideo(tracked.status, len(people), rows, images)

    def _rows(
        self, video: Video, track: int, followed: FaceTrack, manipulation: str = ""
    ) -> Iterator[dict[str, Any]]:
        stem = Path(video.name).with_suffix("").as_posix().replace("/", "__")
        for position, number in enumerate(followed.numbers):
            name = "-".join(filter(None, (f"{stem}-{track}-{number:06}", manipulation)))
            _, _, side = self.settings.crop.square(followed.boxes[position])
            label = "FAKE" if manipulation else video.label
            time = round(followed.times[position], 3)
            values = (
                *(name, label, video.group, video.source, manipulation),
                *(video.name, track, number, time, round(side)),
            )
            yield dict(zip(CROP_COLUMNS, values, strict=True))


@dataclass
class _TrackedVideo:
    """A video, the people in it, and the shape of its frames."""

    video: Video
    decoders: DecoderPool
    status: str = NO_FACE
    tracks: list[FaceTrack] = field(default_factory=list)
    shape: tuple[int, ...] | None = None

    def frames(self, count: int | Sequence[int]) -> Iterator[Frame]:
        """Read the video; `shape` is known with the first frame."""
        for frame in self.video.read(count, self.decoders):
            self.shape = frame.image.shape
            yield frame


class FaceSetWriter:
    """The files of a face set that grows video by video."""

    def __init__(self, index: Path, settings: CropSettings):
        self.index = index
        self.log = index.with_suffix(".videos.csv")
        self.settings = settings
        self.done: dict[str, dict[str, Any]] = {}
        if self.log.is_file():
            self.lock = _lock(self.log)
            end = self._restore()
        else:
            for path in (index, shard_path(index, 0)):
                if path.exists():
                    raise InputError(
                        f"{path}: exists, and {self.log.name} is not beside it: give another name"
                    )
            _write_header(self.log, LOG_COLUMNS)
            self.lock = _lock(self.log)
            _write_header(index, INDEX_COLUMNS)
            end = 0, 0
        self.shards = ShardWriter(index, end)

    def close(self) -> None:
        """Make complete tar files of the shards."""
        self.shards.close()
        self.lock.close()

    def has(self, video: Video) -> bool:
        """Whether a video is done.

        Raises:
            ArgumentError: Another one of the same name is.
        """
        entry = self.done.get(video.name)
        if entry and (entry["label"], entry["source"]) != (video.label, video.source):
            raise InputError(
                f"{self.log}: has another {video.name}, {entry['label']} of {entry['source']!r}, "
                f"not {video.label} of {video.source!r}: give another index, or all videos at once"
            )
        return entry is not None

    def add(self, video: Video, extracted: ExtractedVideo) -> None:
        """Write a video's crops, then their rows, then that the video is done.

        Raises:
            OSError: The disk is full, or the like.
        """
        try:
            self._write(video, extracted)
        except OSError as error:
            what = f"{error.strerror}; make room, and give the same command again to go on"
            raise OSError(error.errno, what, str(self.index)) from error

    def _write(self, video: Video, extracted: ExtractedVideo) -> None:
        pairs = zip(extracted.rows, extracted.images, strict=True)
        rows = [
            row | dict(zip(SHARD_COLUMNS, self.shards.add(f"{row['id']}.jpg", data), strict=True))
            for row, data in pairs
        ]
        self.shards.flush()
        with self.index.open("ab") as file:
            file.write(_to_csv(rows, INDEX_COLUMNS))
            index_end = file.tell()
        values = (
            *(video.name, video.label, video.source, extracted.status),
            *(extracted.people, len(rows), str(self.settings)),
        )
        entry = dict(zip(DONE_COLUMNS, values, strict=True))
        ends = dict(zip(END_COLUMNS, (index_end, *self.shards.end), strict=True))
        with self.log.open("ab") as file:
            file.write(_to_csv([entry | ends], LOG_COLUMNS))
        self.done[video.name] = entry
        self.shards.close_if_full()

    def table(self) -> pd.DataFrame:
        """What was done, one row a video."""
        return pd.DataFrame(list(self.done.values()), columns=DONE_COLUMNS)

    def _restore(self) -> tuple[int, int]:
        """Take over what is complete, cut off what was in hand; the end of the shards."""
        _cut_off(self.log, self.log.read_bytes().rfind(b"\n") + 1)
        log = read_table(self.log, tuple(DONE_COLUMNS))
        if log.columns.tolist() != LOG_COLUMNS:
            raise InputError(f"{self.log}: made by another version of dfdetect: give another name")
        others = log[log["settings"] != str(self.settings)]
        if len(others):
            raise ArgumentError(
                f"{self.log}: made with other settings, {others['settings'].iloc[0]}: repeat "
                "them, or give another name"
            )
        done = log[DONE_COLUMNS].astype({"people": int, "crops": int})
        self.done = {entry["video"]: entry for entry in done.to_dict("records")}
        if log.empty:
            _write_header(self.index, INDEX_COLUMNS)
            return 0, 0
        index_end, shard, shard_end = map(int, log[END_COLUMNS].iloc[-1])
        for number in range(shard):
            _require_length(shard_path(self.index, number), 1)
        if shard_end:
            _require_length(shard_path(self.index, shard), shard_end)
        _cut_off(self.index, index_end)
        return shard, shard_end


def _lock(log: Path) -> BinaryIO:
    """Keep other runs from writing the same face set, until the file is closed or we die.

    Raises:
        ArgumentError: Another run does.
    """
    file = log.open("rb")
    if fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.close()
            raise ArgumentError(
                f"{log}: another run is writing this face set: wait for it, or give another name"
            ) from error
    return file


def _find(sources: Sequence[str | Path]) -> list[Video]:
    """All labelled videos and photographs; a name that occurs twice gets that of its source."""
    found: dict[str, Video] = {}
    for source in sources:
        is_index = Path(source).suffix == ".csv"
        for video in read_photos(source) if is_index else read_labels(source):
            name = video.name
            if name in found:
                name = f"{Path(source).stem}/{name}"
            if name in found:
                raise InputError(f"{source}: {name} is in two sources: give each once")
            found[name] = replace(video, name=name)
    return list(found.values())


def _groups(videos: Sequence[Video], wanted: set[str]) -> list[VideoGroup]:
    """Videos with the fakes made of them, where any of them is wanted, in the videos' order."""
    places = {video.place: video for video in videos}
    fakes = defaultdict(list)
    originals = []
    for video in videos:
        original = places.get(video.original)
        # A fake of a fake is not known to show the same scene.
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


def _lost(group: VideoGroup, why: str) -> list[ExtractedVideo]:
    return [ExtractedVideo(f"{FAILED}: {why}") for _ in group.videos]


def _has_failed(extracted: Sequence[ExtractedVideo]) -> bool:
    return any(video.status.startswith(FAILED) for video in extracted)


def _generator(name: str, track: int) -> torch.Generator:
    """The same for the same person of the same video, whatever was done before."""
    return torch.Generator().manual_seed(zlib.crc32(f"{name} {track}".encode()))


def _encode(crop: torch.Tensor) -> bytes:
    pixels = np.ascontiguousarray(crop.permute(1, 2, 0).numpy()[..., ::-1])
    _, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return data.tobytes()


def _write_header(path: Path, columns: list[str]) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(_to_csv([], columns, header=True))


def _to_csv(rows: list[dict[str, Any]], columns: list[str], header: bool = False) -> bytes:
    table = pd.DataFrame(rows, columns=columns)
    text = table.to_csv(None, index=False, header=header)
    return text.encode("utf-8", "surrogateescape")


def _require_length(path: Path, size: int) -> None:
    if not path.is_file() or path.stat().st_size < size:
        raise ArgumentError(
            f"{path}: is missing or shorter than it was: the face set was changed since; delete "
            "all its files and extract anew, or give another name"
        )


def _cut_off(path: Path, size: int) -> None:
    """Keep a file's first bytes, which must be there and end a line."""
    _require_length(path, size)
    with path.open("r+b") as file:
        file.seek(max(0, size - 1))
        if size and file.read(1) != b"\n":
            raise ArgumentError(
                f"{path}: was changed since it was written; delete all files of the face set and "
                "extract anew, or give another name"
            )
        file.truncate(size)


def _bytes(count: int) -> str:
    return tqdm.format_sizeof(count, "B", 1024)
