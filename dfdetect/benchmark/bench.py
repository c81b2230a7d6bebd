"""Time the scoring of videos, and two references on the same videos in the same run."""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import cv2
import numpy as np
import torch
from tqdm import tqdm

from dfdetect.checkpoints.weights import Weights
from dfdetect.defaults import DEFAULT_FRAMES
from dfdetect.detector import Detector, load_detector
from dfdetect.errors import ArgumentError, InputError
from dfdetect.faces.detection import MTCNNDetector
from dfdetect.faces.geometry import interpolate_box, iou
from dfdetect.faces.tracking import FaceTrack, track_faces
from dfdetect.results import Box, Status, TrackResult, VideoResult
from dfdetect.runtime.device import available_cores
from dfdetect.video.discovery import find_videos
from dfdetect.video.reader import Frame, VideoError, pick_evenly

# Videos a core that the pipeline is timed on, at least, the same ones again where there are fewer:
# at the end of a run, cores idle while the last video is finished.
LEAST_VIDEOS = 10
STAGES = ("decode", "detect", "crop", "classify", "wait")
SAME_FACE_IOU = 0.5
PROJECTED = (400, 4000)


@dataclass(frozen=True, kw_only=True)
class BenchResult:
    """How fast videos were scored here, and what two references made of the same videos.

    `str` gives a report to read, `to_dict` what JSON holds.

    Attributes:
        videos: Number of videos.
        seconds_per_video: What a video takes when several are worked on at a time.
        stages: Seconds that a video spends in each stage meanwhile, by name.
        read_seconds_per_video: What OpenCV takes to read every frame and do nothing with it.
        reference_seconds_per_video: What the challenge winner's way takes.
        face_agreement: Share of the reference's faces that are covered with an IoU of at least
            0.5; None if it found none.
        probability_difference_mean: Mean difference of P(FAKE) to the reference's, over the videos
            that both could score; None if there are none.
        probability_difference_max: The largest difference, or None.
        peak_memory_mb: Most memory that the process had above what it had with torch loaded; None
            where the system cannot tell.
        process_mb: Most memory that the process had, or None.
    """

    videos: int
    seconds_per_video: float
    stages: Mapping[str, float]
    read_seconds_per_video: float
    reference_seconds_per_video: float
    face_agreement: float | None
    probability_difference_mean: float | None
    probability_difference_max: float | None
    peak_memory_mb: float | None
    process_mb: float | None

    @property
    def videos_per_second(self) -> float:
        """How many videos are scored in a second."""
        return 1 / self.seconds_per_video

    @property
    def ratio_to_read(self) -> float:
        """How many times as long as reading every frame."""
        return self.seconds_per_video / self.read_seconds_per_video

    @property
    def ratio_to_reference(self) -> float:
        """How many times as long as the reference."""
        return self.seconds_per_video / self.reference_seconds_per_video

    def projected_seconds(self, videos: int) -> float:
        """What so many videos would take on this machine."""
        return videos * self.seconds_per_video

    def to_dict(self) -> dict[str, Any]:
        """All figures by name, with `projected_seconds_400` and `projected_seconds_4000`."""
        return {
            **asdict(self),
            "videos_per_second": self.videos_per_second,
            "ratio_to_read": self.ratio_to_read,
            "ratio_to_reference": self.ratio_to_reference,
            **{f"projected_seconds_{count}": self.projected_seconds(count) for count in PROJECTED},
        }

    def __str__(self) -> str:
        stages = ", ".join(f"{name} {value:.2f}" for name, value in self.stages.items())
        projections = ", ".join(
            f"{self.projected_seconds(count) / 60:.1f} min for {count}" for count in PROJECTED
        )
        lines = [
            f"{_count(self.videos, 'video')}, {self.seconds_per_video:.2f} s each "
            f"({self.videos_per_second:.2f} a second): {projections}",
            f"seconds a video by stage, several videos at a time: {stages}",
            f"OpenCV, reading every frame: {self.read_seconds_per_video:.2f} s; "
            f"dfdetect takes {self.ratio_to_read:.2f} times as long",
            f"the way of the challenge's winner: {self.reference_seconds_per_video:.2f} s; "
            f"dfdetect takes {self.ratio_to_reference:.2f} times as long",
            f"faces found that way that dfdetect covers: {_share(self.face_agreement)}",
        ]
        if self.probability_difference_mean is not None:
            lines.append(
                f"difference of P(FAKE): {self.probability_difference_mean:.3f} in the mean, "
                f"{self.probability_difference_max:.3f} at most"
            )
        if self.peak_memory_mb is not None:
            lines.append(f"peak memory above torch: {self.peak_memory_mb:.0f} MB")
        return "\n".join(lines)


def bench(
    paths: str | Path | Iterable[str | Path],
    *,
    weights: Weights = None,
    frames: int = DEFAULT_FRAMES,
    device: str = "auto",
    progress: bool = False,
) -> BenchResult:
    """Time the scoring of videos, and compare it with two references.

    `read` is OpenCV reading every frame and doing nothing with it. `reference` goes the way of the
    winner of the Deepfake Detection Challenge (Seferbekov 2020): OpenCV passes through the file,
    MTCNN looks at each sampled frame at half size, one video after another; but with MTCNN's
    default thresholds, and this classifier, in float32.

    Nothing else should run on the machine, nor in the process before, or `peak_memory_mb` is too
    low.

    Args:
        paths: Videos and folders of them, as in `predict`.
        weights: As in `load_detector`.
        frames: Number of frames sampled from each video.
        device: As in `load_detector`.
        progress: Show progress bars.

    Raises:
        FileNotFoundError: A path or the weights do not exist.
        InputError: There are no videos, or none of them can be scored.

    Example:
        >>> print(bench("videos"))
    """
    videos = list(find_videos([paths] if isinstance(paths, str | Path) else paths).values())
    idle = _peak_memory()
    detector = load_detector(weights, device, frames)
    # The first run chooses and compiles kernels.
    if not any(detector.predict(video).tracks for video in videos):
        raise InputError(f"{videos[0].parent}: no video here can be scored")
    scores, seconds = _time_pipeline(detector, videos, progress)
    whole = _peak_memory()
    peak = None if idle is None or whole is None else whole - idle
    read = _time_each(videos, _read_all, "read", progress)[1]
    winner = _Reference(detector)
    winner.predict_file(videos[0])
    followed, reference = _time_each(videos, winner.predict_file, "reference", progress)
    stages = {stage: np.mean([score.timings.get(stage, 0) for score in scores]) for stage in STAGES}
    scores = scores[: len(videos)]
    differences = _probability_differences(scores, followed)
    return BenchResult(
        videos=len(videos),
        seconds_per_video=seconds,
        stages={stage: float(value) for stage, value in stages.items()},
        read_seconds_per_video=read,
        reference_seconds_per_video=reference,
        face_agreement=face_agreement(scores, followed),
        probability_difference_mean=float(np.mean(differences)) if differences else None,
        probability_difference_max=max(differences, default=None),
        peak_memory_mb=peak,
        process_mb=whole,
    )


def face_agreement(scores: list[VideoResult], reference: list[VideoResult]) -> float | None:
    """Share of the reference's faces that others cover, interpolated; None where it has none."""
    covered = [
        any(iou(box, other) >= SAME_FACE_IOU for other in _boxes_at(score.tracks, time))
        for score, expected in zip(scores, reference, strict=True)
        for track in expected.tracks
        for time, box in zip(track.times, track.boxes, strict=True)
    ]
    return float(np.mean(covered)) if covered else None


class _Reference(Detector):
    """The winner's way of finding and scoring faces, with the same model and aggregation."""

    def __init__(self, detector: Detector):
        super().__init__(detector.model, detector.spec, detector.device, detector.frames)
        for classifier in self.classifiers:
            classifier.half = False
        self.face_detectors: dict[int, MTCNNDetector] = {}

    def predict_file(self, path: Path) -> VideoResult:
        """Score a video whose frames OpenCV reads."""
        try:
            return self.predict(_pass_through(path, self.frames))
        except (ArgumentError, VideoError):  # it gives no frames
            return VideoResult.without_score(path, path.name, Status.NO_FRAME)

    def _find_tracks(
        self, read: Callable[[], Iterator[Frame]], *_: object
    ) -> tuple[list[FaceTrack], int]:
        frames = list(read())
        side = max(frames[0].image.shape) // 2
        if side not in self.face_detectors:
            thresholds = (0.6, 0.7, 0.7)
            face_detector = MTCNNDetector(self.device, side, min_face=20, thresholds=thresholds)
            face_detector.network.to(memory_format=torch.contiguous_format)  # as it is by itself
            self.face_detectors[side] = face_detector
        detect = self.face_detectors[side].detect
        tracks = track_faces(frames, detect, self._crop_formats, 1, 1)
        return tracks, len(frames)


def _time_pipeline(
    detector: Detector, videos: list[Path], progress: bool
) -> tuple[list[VideoResult], float]:
    """Scores of the videos, round by round, and seconds a video."""
    rounds = -(-LEAST_VIDEOS * available_cores() // len(videos))
    many = videos * rounds
    start = perf_counter()
    scores = list(
        tqdm(
            detector.predict_videos(many),
            total=len(many),
            desc=f"dfdetect, {_count(rounds, 'round')}",
            unit="video",
            disable=not progress,
        )
    )
    return scores, (perf_counter() - start) / len(many)


def _time_each(
    videos: list[Path], function: Any, title: str, progress: bool
) -> tuple[list[Any], float]:
    """Results for the videos, one after another, and seconds a video."""
    start = perf_counter()
    results = [
        function(video) for video in tqdm(videos, desc=title, unit="video", disable=not progress)
    ]
    return results, (perf_counter() - start) / len(videos)


def _read_all(path: Path) -> None:
    capture = cv2.VideoCapture(str(path))
    while capture.read()[0]:
        pass
    capture.release()


def _pass_through(path: Path, count: int) -> Iterator[Frame]:
    capture = cv2.VideoCapture(str(path))
    total = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    if total <= 0:
        raise VideoError(path, Status.NO_FRAME)
    wanted = set(pick_evenly(np.arange(total), count).tolist())
    for number in range(total):
        if not capture.grab():
            break
        if number in wanted:
            time = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            good, image = capture.retrieve()
            if good:
                yield Frame(time, cv2.cvtColor(image, cv2.COLOR_BGR2RGB), number)
    capture.release()


def _boxes_at(tracks: list[TrackResult], time: float) -> list[Box]:
    """Everyone's box at a time, up to one sampled frame before the first and after the last."""
    boxes: list[Box] = []
    for track in tracks:
        step = max(np.diff(track.times), default=0.0)
        if track.times[0] - step <= time <= track.times[-1] + step:
            moment = min(max(time, track.times[0]), track.times[-1])
            if (box := interpolate_box(track.times, track.boxes, moment)) is not None:
                boxes.append(box)
    return boxes


def _probability_differences(
    scores: list[VideoResult], reference: list[VideoResult]
) -> list[float]:
    """Compare the probabilities of the videos that both have scored."""
    pairs = [
        (score.probability, expected.probability)
        for score, expected in zip(scores, reference, strict=True)
    ]
    return [abs(one - other) for one, other in pairs if one is not None and other is not None]


def _peak_memory() -> float | None:
    """Most MB that the process has held so far."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _share(value: float | None) -> str:
    return "none found" if value is None else f"{value:.1%}"
