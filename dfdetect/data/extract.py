"""Make a face set of labelled videos in folders or zip files: the crops of each person as a track.

The log `NAME.videos.csv` (see `dfdetect.data.writer`) has one row for each complete video. An
interrupted run continues with the other videos.
"""

import json
import logging
import zlib
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
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
    """How crops are cut; the settings are the same for a whole face set.

    Attributes:
        frames: Number of evenly spaced frames of each video.
        size: Side of the crops in pixels.
        crop: Which square around a face is cut.
        blend: Whether each person in a REAL video also gets a self-blended fake.
    """

    frames: int
    size: int
    crop: CropRule
    blend: bool

    @property
    def crop_format(self) -> CropFormat:
        """Return rule and size of the crops."""
        return CropFormat(self.crop, self.size)

    def __str__(self) -> str:
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class ExtractedVideo:
    """The crops of a video.

    Attributes:
        status: `Status.OK`, or the reason why there are no crops.
        message: The status in words, with details.
        people: Number of people that were tracked.
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
    """Make a face set of labelled videos, or continue one.

    Videos are read directly from zip files, without unpacking all of them. If `metadata.json` names
    the original of a fake, and the original is there and has the same size, the crops of the fake
    are cut at the boxes of its original: pairs are aligned, and faces are detected once. Each core
    processes one video at a time. A run that is killed loses only the videos in progress; the same
    command continues it and ends with the same files, byte for byte.

    Every person in a video gets the label of the video, which is wrong for one of two people if
    only the other is fake. A video that cannot be read or shows no face is logged with the reason.

    Args:
        sources: Folders and zip files, as `read_dataset` takes them, and indexes of face sets whose
            pictures show more than the face.
        out: The index to write, ending in `.csv`; the crops go to `NAME-00000.tar` and so on.
        split: The official split of a data set to take: `train`, `val` or `test`; None for all.
        frames: Number of evenly spaced frames of each video.
        size: Side of the crops in pixels.
        crop_scale: As in `CropRule`.
        crop_shift: As in `CropRule`.
        blend: Also make a matched fake of each person in a REAL video, self-blended alike in all
            frames (`dfdetect.data.self_blend`).
        device: As in `load_detector`.
        cluster: Address of a Ray cluster that does the work, or `local`, as in
            `dfdetect.runtime.ray_cluster`.
        progress: Show a progress bar.

    Returns:
        One row per video: `video`, `label`, `source`, `status` (a value of `Status`), and the
        numbers of `people` and `crops`.

    Raises:
        FileNotFoundError: A source is missing.
        InputError: The videos are not labelled.
        ArgumentError: `out` was made with other settings, or the cluster cannot be reached.
        OSError: The face set cannot be written; what was written before is kept.

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
    """Finds faces and cuts crops. Several threads may use one extractor, each for another group."""

    def __init__(self, settings: CropSettings, device: torch.device, decoders: DecoderPool):
        self.settings = settings
        self.decoders = decoders
        self.face_detectors = MTCNNDetector(device), MTCNNDetector.high_recall(device)

    def __call__(self, group: VideoGroup) -> list[ExtractedVideo]:
        """Extract each wanted video of a group, in order."""
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
        """Track the people of a video; if possible, take the boxes from its original."""
        try:
            if original is None or not self._track_at_original(video, original):
                self._find(video)
        except VideoError as error:
            video.fail(error.status, error.details)
        except OSError as error:
            video.fail(Status.UNREADABLE_FILE, str(error))
        except FaceSetError as error:
            video.fail(Status.UNREADABLE_FILE, str(error))
        except CancelledError:
            raise
        except Exception as error:
            # A run over many files must not lose the others to a fault that nobody foresaw.
            LOGGER.exception("%s: unexpected error", video.video.name)
            video.fail(Status.FAILED, f"{type(error).__name__}: {error}")

    def _find(self, video: "_TrackedVideo") -> None:
        video.tracks = []
        video.fail(Status.NO_FACE)
        for face_detector in self.face_detectors:
            frames = video.frames(num_frames=self.settings.frames)
            video.tracks = track_faces(frames, face_detector.detect, [self.settings.crop_format])
            if video.tracks:
                video.status, video.message = Status.OK, Status.OK.sentence
                return

    def _track_at_original(self, video: "_TrackedVideo", original: "_TrackedVideo") -> bool:
        """Cut crops at the boxes of the original, if it shows people and has the same frame size.

        Returns:
            Whether crops were cut.
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
        stem = Path(video.name).with_suffix("").as_posix().replace("/", "__")
        for position, number in enumerate(followed.numbers):
            name = "-".join(filter(None, (f"{stem}-{track}-{number:06}", method)))
            _, _, _, side = self.settings.crop.rectangle(followed.boxes[position])
            label = "FAKE" if method else video.label
            time = round(followed.times[position], 3)
            values = (
                *(name, label, video.group, video.source, method or video.method),
                *(video.name, track, number, time, round(side)),
            )
            yield dict(zip(CROP_COLUMNS, values, strict=True))


@dataclass
class _TrackedVideo:
    """A video, the people tracked in it, and the shape of its frames."""

    video: Video
    decoders: DecoderPool
    status: Status = Status.NO_FACE
    message: str = Status.NO_FACE.sentence
    tracks: list[FaceTrack] = field(default_factory=list)
    shape: tuple[int, ...] | None = None

    def fail(self, status: Status, details: str = "") -> None:
        """Set the reason why there are no crops."""
        self.status, self.message = status, status.describe(details)

    def frames(self, **wanted: Any) -> Generator[Frame, None, None]:
        """Read the video; the first frame sets `shape`."""
        for frame in self.video.read(self.decoders, **wanted):
            self.shape = frame.image.shape
            yield frame


def _entry(video: Video, extracted: ExtractedVideo) -> dict[str, Any]:
    """Return a video's row of the log."""
    values = (
        *(video.name, video.label, video.source, extracted.status.value),
        *(extracted.people, len(extracted.crops)),
    )
    return dict(zip(VIDEO_COLUMNS, values, strict=True))


def _is_done(video: Video, writer: FaceSetWriter) -> bool:
    """Return whether the face set has a video already.

    Raises:
        InputError: The face set has another video of the same name.
    """
    entry = writer.done.get(video.name)
    if entry and (entry["label"], entry["source"]) != (video.label, video.source):
        raise InputError(
            f"{writer.log}: has another {video.name}, {entry['label']} of {entry['source']!r}, "
            f"not {video.label} of {video.source!r}: write to another index, or give all at once"
        )
    return entry is not None


def _lost(group: VideoGroup, why: str) -> list[ExtractedVideo]:
    message = Status.FAILED.describe(why)
    return [ExtractedVideo(Status.FAILED, message) for _ in group.videos]


def _has_failed(extracted: Sequence[ExtractedVideo]) -> bool:
    return any(video.status == Status.FAILED for video in extracted)


def _generator(name: str, track: int) -> torch.Generator:
    """Return the same generator for the same person of a video, whatever was done before."""
    return torch.Generator().manual_seed(zlib.crc32(f"{name} {track}".encode()))


def _encode(crop: torch.Tensor) -> bytes:
    return encode_jpeg(crop.permute(1, 2, 0).numpy(), JPEG_QUALITY)


def _bytes(count: int) -> str:
    return tqdm.format_sizeof(count, "B", 1024)
