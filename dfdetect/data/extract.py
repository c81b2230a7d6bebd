"""Extract a face set (crops of each person's face) from labelled videos in folders or zip files.

Once all crops of a video are in the face set `NAME.csv`, the video gets a row in the log
`NAME.videos.csv` (see `dfdetect.data.writer`). If a run is interrupted, the next run continues with
the videos that have no row in the log.
"""

import json
import logging
import zlib
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path, PurePath
from typing import Any

import pandas as pd
import torch
from tqdm import tqdm

from dfdetect.checkpoints.spec import INPUT_SIZES
from dfdetect.data.faceset import FaceSetError
from dfdetect.data.self_blend import self_blend
from dfdetect.data.video_groups import Video, VideoGroup, group_videos, read_videos
from dfdetect.data.writer import EncodedCrop, FaceSetWriter
from dfdetect.defaults import DEFAULT_FRAMES
from dfdetect.errors import ArgumentError, InputError
from dfdetect.faces.crops import encode_jpeg
from dfdetect.faces.detection import MTCNNDetector
from dfdetect.faces.geometry import FARTHEST, CropFormat, CropRule
from dfdetect.faces.tracking import FaceTrack, crop_at_tracks, track_faces
from dfdetect.files import require_writable
from dfdetect.results import Status
from dfdetect.runtime.executor import Executor
from dfdetect.video.discovery import VIDEO_SUFFIXES
from dfdetect.video.isolated import CancelledError, DecoderPool
from dfdetect.video.reader import Frame, VideoError

CROP_SIZE = 224
JPEG_QUALITY = 95
SELF_BLENDED = "self-blended"
CROP_COLUMNS = [
    *("id", "label", "actor_group", "source", "method"),
    *("video", "track", "frame", "time", "native_px"),
]
VIDEO_COLUMNS = ["video", "label", "source", "status", "people", "crops"]
LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class CropSettings:
    """The settings for cutting crops. All crops of a face set are cut with the same settings.

    Attributes:
        frames: Number of evenly spaced frames to read from each video.
        size: Side of the crops in pixels.
        crop: The rule that says which square is cut around a face.
        blend: Whether a self-blended fake (see `dfdetect.data.self_blend`) is also made of each
            person in a REAL video.
    """

    frames: int
    size: int
    crop: CropRule
    blend: bool

    @property
    def crop_format(self) -> CropFormat:
        """Return the format of the crops: the crop rule and the size."""
        return CropFormat(self.crop, self.size)

    def __str__(self) -> str:
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class ExtractedVideo:
    """The crops of a video, or the reason why there are none.

    Attributes:
        status: `Status.OK`, or the reason why there are no crops.
        message: A sentence that describes the status, with details.
        people: Number of people with crops.
        crops: The crops of all people.
    """

    status: Status
    message: str
    people: int = 0
    crops: Sequence[EncodedCrop] = ()


def extract(
    sources: Sequence[str | Path],
    *,
    out: str | Path,
    split: str | None = None,
    frames: int = DEFAULT_FRAMES,
    size: int = CROP_SIZE,
    crop_scale: float = CropRule.scale,
    crop_shift: float = CropRule.shift,
    blend: bool = False,
    device: str = "auto",
    cluster: str | None = None,
    progress: bool = False,
) -> pd.DataFrame:
    """Extract a face set from labelled videos, or continue an interrupted extraction.

    Every person in a FAKE video gets the label FAKE, even if only one of the people is fake.

    A fake is cut at the face boxes of its original, so that the crops of both are aligned. In three
    cases, faces are detected in the fake itself:

    - The original is unknown or missing.
    - No face is found in the original.
    - The frames of the fake and the original differ in size.

    To continue an interrupted run, call the function again with the same arguments. The resulting
    files are the same as without the interruption.

    Args:
        sources: Folders and zip files in the layouts that `read_dataset` knows, and indexes of face
            sets. The images of such a face set must show more than the face.
        out: The index to write, called `NAME.csv`. The crops are written to `NAME-00000.tar` and so
            on. The log `NAME.videos.csv` has a row for each video.
        split: `train`, `val` or `test` to read only this official split of a data set, or None to
            read all videos.
        frames: Number of evenly spaced frames to read from each video.
        size: Side of the crops in pixels.
        crop_scale: Side of the square that is cut out, divided by the height of the face's box.
        crop_shift: Distance by which the crop's centre lies below the box's centre, divided by the
            height of the box.
        blend: Whether to also make a self-blended fake (see `dfdetect.data.self_blend`) of each
            person in a REAL video. All crops of one person get the same changes.
        device: `auto`, `cpu`, `cuda` (all GPUs) or `cuda:N`.
        cluster: Address of the Ray cluster that does the work, or `local` (see
            `dfdetect.runtime.ray_cluster.map_on_cluster`). None means that no cluster is used.
        progress: Whether to show a progress bar.

    Returns:
        One row per video, with the columns `video`, `label`, `source`, `status`, `people` (number
        of people) and `crops` (number of crops). The status is a value of `Status`: `ok`, or the
        reason why there are no crops.

    Raises:
        FileNotFoundError: A source is missing.
        InputError: A source cannot be used, for example because a video has no label; the names of
            two videos differ only in their suffix; or `out` exists, but was not made by this
            function or was changed.
        ArgumentError: A setting is out of range, `out` was made with other settings, or the cluster
            cannot be reached.
        OSError: The face set cannot be written. The crops of earlier videos are kept.

    Example:
        >>> extract(["dfdc_train_part_00.zip"], out="faces.csv")["status"].value_counts()
        ok    1334
    """
    out = Path(out)
    if out.suffix != ".csv":
        raise ArgumentError(f"{out}: the name of an index must end in .csv")
    require_writable(out)
    if frames < 1 or size not in INPUT_SIZES:
        raise ArgumentError(
            f"frames must be at least 1, and size {INPUT_SIZES[0]} to {INPUT_SIZES[-1]} pixels; "
            f"got {frames} and {size}"
        )
    if not (0 < crop_scale < FARTHEST and abs(crop_shift) < FARTHEST):
        raise ArgumentError(
            f"crop_scale must be greater than 0 and less than {FARTHEST}, and crop_shift between "
            f"-{FARTHEST} and {FARTHEST}; got {crop_scale} and {crop_shift}"
        )
    videos = read_videos(sources, split)
    _require_different_ids(videos)
    settings = CropSettings(frames, size, CropRule(crop_scale, crop_shift), blend)
    log = out.with_suffix(".videos.csv")
    with (
        Executor(device, cluster) as executor,
        FaceSetWriter(out, log, CROP_COLUMNS, VIDEO_COLUMNS, str(settings)) as writer,
    ):
        left = {video.name for video in videos if not _is_done(video, writer)}
        if len(left) < len(videos):
            done = len(videos) - len(left)
            LOGGER.info("%s: %d of %d videos are done already", out, done, len(videos))
        groups = group_videos(videos, left)
        make_worker = partial(_Extractor, settings)
        results = executor.map(make_worker, groups, on_lost=_lost, failed=_has_failed)
        bar = tqdm(total=len(left), desc="videos", unit="video", disable=not progress)
        total, read = sum(video.size for group in groups for video in group.videos), 0
        with bar:
            for group, extracted in results:
                for video, one in zip(group.videos, extracted, strict=True):
                    writer.add(_entry(video, one), one.crops)
                    read += video.size
                    bar.set_postfix_str(f"{_bytes(read)} of {_bytes(total)}", refresh=False)
                    bar.update()
                    if one.status != Status.OK:
                        LOGGER.info("%s: %s", video.name, one.message)
    table = pd.DataFrame(list(writer.done.values()), columns=VIDEO_COLUMNS)
    return table.astype({"people": int, "crops": int})


class _Extractor:
    """Finds faces in videos and cuts crops. Several threads may share an extractor."""

    def __init__(self, settings: CropSettings, device: torch.device, decoders: DecoderPool):
        self.settings = settings
        self.decoders = decoders
        self.face_detectors = MTCNNDetector(device), MTCNNDetector.high_recall(device)

    def __call__(self, group: VideoGroup) -> list[ExtractedVideo]:
        """Return the crops of each video in `group.videos`, in the same order."""
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
        """Track the people of a video. If tracking fails, the status of the video says why.

        If `original` is given, its face boxes are used if possible (see `_track_at_original`).
        """
        try:
            if original is None or not self._track_at_original(video, original):
                self._find(video)
        except VideoError as error:
            video.fail(error.status, error.details)
        except (OSError, FaceSetError) as error:
            video.fail(Status.UNREADABLE_FILE, str(error))
        except CancelledError:
            raise
        except Exception as error:
            # An unexpected error in one video must not stop a run over many videos.
            LOGGER.exception("%s: unexpected error", video.video.name)
            video.fail(Status.FAILED, f"{type(error).__name__}: {error}")

    def _find(self, video: "_TrackedVideo") -> None:
        video.tracks = []
        video.fail(Status.NO_FACE)
        for face_detector in self.face_detectors:
            frames = video.frames(num_frames=self.settings.frames)
            video.tracks = track_faces(
                frames,
                face_detector.detect,
                [self.settings.crop_format],
                face_detector.detect_nearby,
            )
            if video.tracks:
                video.status, video.message = Status.OK, Status.OK.sentence
                return

    def _track_at_original(self, video: "_TrackedVideo", original: "_TrackedVideo") -> bool:
        """Cut a fake's crops at the face boxes of its original, and return whether it was possible.

        It is possible if the original has faces, and the frames of both videos have the same size.
        """
        if not original.tracks:
            return False
        numbers = sorted({number for track in original.tracks for number in track.numbers})
        with closing(video.frames(indices=numbers)) as frames:
            first = next(frames)
            if video.shape != original.shape:
                return False
            video.tracks = crop_at_tracks(
                chain([first], frames), original.tracks, [self.settings.crop_format]
            )
        video.status, video.message = Status.OK, Status.OK.sentence
        return True

    def _extracted(self, tracked: "_TrackedVideo") -> ExtractedVideo:
        done: list[EncodedCrop] = []
        video = tracked.video
        people = [pair for pair in enumerate(tracked.tracks) if pair[1].crops]
        for track, followed in people if tracked.status == Status.OK else ():
            crops = torch.stack(followed.crops[self.settings.crop_format])
            done += map(EncodedCrop, self._rows(video, track, followed), map(_encode, crops))
            if self.settings.blend and video.label == "REAL":
                rows = self._rows(video, track, followed, SELF_BLENDED)
                fakes = self_blend(crops, _generator(video.name, track))
                done += map(EncodedCrop, rows, map(_encode, fakes))
        return ExtractedVideo(tracked.status, tracked.message, len(people), done)

    def _rows(
        self, video: Video, track: int, followed: FaceTrack, method: str = ""
    ) -> Iterator[dict[str, Any]]:
        for position, number in enumerate(followed.numbers):
            name = "-".join(filter(None, (f"{_stem(video)}-{track}-{number:06}", method)))
            _, _, _, side = self.settings.crop.rectangle(followed.boxes[position])
            label = "FAKE" if method else video.label
            time = round(followed.times[position], 3)
            values = (
                *(name, label, video.group, video.source, method or video.method),
                *(video.name, track, number, time, round(side)),
            )
            yield dict(zip(CROP_COLUMNS, values, strict=True))


def _stem(video: Video) -> str:
    """Return the text with which the ids of a video's crops begin."""
    name = PurePath(video.name)
    bare = name.with_suffix("") if name.suffix.lower() in VIDEO_SUFFIXES else name
    return bare.as_posix().replace("/", "__")


def _require_different_ids(videos: Sequence[Video]) -> None:
    """Raise InputError if the crops of two videos would get the same ids."""
    first: dict[str, Video] = {}
    for video in videos:
        other = first.setdefault(_stem(video), video)
        if other is not video:
            raise InputError(
                f"{other.name} and {video.name}: their crops would get the same ids: rename one"
            )


@dataclass
class _TrackedVideo:
    """A video, the tracks of the people in the video, and the shape of the video's frames."""

    video: Video
    decoders: DecoderPool
    status: Status = Status.NO_FACE
    message: str = Status.NO_FACE.sentence
    tracks: list[FaceTrack] = field(default_factory=list)
    shape: tuple[int, ...] | None = None

    def fail(self, status: Status, details: str = "") -> None:
        """Set the status and the message that say why the video has no crops."""
        self.status, self.message = status, status.describe(details)

    def frames(self, **wanted: Any) -> Generator[Frame, None, None]:
        """Yield frames of the video, and set the attribute `shape` to the shape of each frame.

        The keyword arguments say which frames are read, as in `LabelledVideo.read`.
        """
        for frame in self.video.read(self.decoders, **wanted):
            self.shape = frame.image.shape
            yield frame


def _entry(video: Video, extracted: ExtractedVideo) -> dict[str, Any]:
    """Return the row that a video gets in the log `NAME.videos.csv`."""
    values = (
        *(video.name, video.label, video.source, extracted.status.value),
        *(extracted.people, len(extracted.crops)),
    )
    return dict(zip(VIDEO_COLUMNS, values, strict=True))


def _is_done(video: Video, writer: FaceSetWriter) -> bool:
    """Return whether a video is done: whether the log has a row for it.

    Raises:
        InputError: The log has a video with the same name, but with another label or source.
    """
    entry = writer.done.get(video.name)
    if entry and (entry["label"], entry["source"]) != (video.label, video.source):
        raise InputError(
            f"{writer.log}: has another video {video.name}, which is {entry['label']} from "
            f"{entry['source']!r}, not {video.label} from {video.source!r}: write to another "
            "index, or give both sources to one command"
        )
    return entry is not None


def _lost(group: VideoGroup, why: str) -> list[ExtractedVideo]:
    message = Status.FAILED.describe(why)
    return [ExtractedVideo(Status.FAILED, message) for _ in group.videos]


def _has_failed(extracted: Sequence[ExtractedVideo]) -> bool:
    return any(video.status == Status.FAILED for video in extracted)


def _generator(name: str, track: int) -> torch.Generator:
    """Return a random generator whose seed depends on the video's name and the track's number."""
    return torch.Generator().manual_seed(zlib.crc32(f"{name} {track}".encode()))


def _encode(crop: torch.Tensor) -> bytes:
    return encode_jpeg(crop.permute(1, 2, 0).numpy(), JPEG_QUALITY)


def _bytes(count: int) -> str:
    return tqdm.format_sizeof(count, "B", 1024)
