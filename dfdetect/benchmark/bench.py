"""Measure the time that a detector takes per video, and compare this time with two other times.

One is the time for reading all frames with OpenCV. The other is the time of the reference detector,
which finds faces as the winner of the Deepfake Detection Challenge did.
"""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from dfdetect.benchmark.reference import ReferenceDetector
from dfdetect.checkpoints.weights import Weights
from dfdetect.defaults import DEFAULT_FRAMES, ENGINES
from dfdetect.detector import Detector, load_detector
from dfdetect.errors import InputError
from dfdetect.faces.geometry import interpolate_box, iou
from dfdetect.results import Box, TrackResult, VideoResult, counted
from dfdetect.runtime.device import available_cores, choose_device
from dfdetect.runtime.engines import AUTO, choose_engine, is_installed
from dfdetect.runtime.executor import Executor
from dfdetect.video.discovery import find_videos
from dfdetect.video.isolated import DecoderPool
from dfdetect.video.reader import VideoError, open_with_opencv

# Minimum number of timed videos per core. If there are fewer videos, each of them is scored several
# times. While the last video is scored, most cores are idle. If only a few videos were timed, this
# idle time would distort the time per video.
LEAST_VIDEOS = 10
STAGES = ("decode", "detect", "crop", "classify", "wait")
SAME_FACE_IOU = 0.5
PROJECTED = (400, 4000)


@dataclass(frozen=True, kw_only=True)
class BenchResult:
    """The time per video on this machine, compared with two other times.

    `str` returns a report for people, and `to_dict` returns the values for JSON. All times are in
    seconds. The docstring of the function `bench` describes the reference detector.

    Attributes:
        videos: Number of videos.
        seconds_per_video: Total time divided by the number of videos. Several videos were scored at
            once.
        stages: Mean time that a video spent in each stage, by name of the stage. Because several
            videos were scored at once, the sum of these times can exceed `seconds_per_video`.
        engine: Name of the library that ran the networks for `seconds_per_video`.
        engines: Time per video with each library that was timed, by name of the library.
        decode_seconds_per_video: Time per video for decoding alone. Several videos were decoded at
            once. This time is a lower limit of `seconds_per_video`.
        read_seconds_per_video: Time per video for reading every frame with OpenCV.
        reference_seconds_per_video: Time per video of the reference detector.
        face_agreement: Share of the reference detector's faces that the measured detector finds
            too, 0 to 1. Two boxes show the same face if their intersection over union (IoU) is at
            least 0.5. None if the reference detector found no face.
        probability_difference_mean: Mean absolute difference between the two detectors' P(FAKE).
            Only videos that both detectors scored are compared. None if there are no such videos.
        probability_difference_max: Largest of these absolute differences, or None.
        peak_memory_mb: Growth of the process's peak memory in MB, while the detector was loaded and
            the videos were scored. None if the system does not report it.
        process_mb: The process's peak memory in MB, until the videos were scored. None if the
            system does not report it.
    """

    videos: int
    seconds_per_video: float
    stages: Mapping[str, float]
    engine: str
    engines: Mapping[str, float]
    decode_seconds_per_video: float
    read_seconds_per_video: float
    reference_seconds_per_video: float
    face_agreement: float | None
    probability_difference_mean: float | None
    probability_difference_max: float | None
    peak_memory_mb: float | None
    process_mb: float | None

    @property
    def videos_per_second(self) -> float:
        """Return the number of videos that the measured detector scores per second."""
        return 1 / self.seconds_per_video

    @property
    def ratio_to_read(self) -> float:
        """Return the time per video, divided by the time for reading all its frames with OpenCV."""
        return self.seconds_per_video / self.read_seconds_per_video

    @property
    def ratio_to_reference(self) -> float:
        """Return the time per video, divided by the reference detector's time per video."""
        return self.seconds_per_video / self.reference_seconds_per_video

    def projected_seconds(self, videos: int) -> float:
        """Return how many seconds this machine would take to score `videos` videos."""
        return videos * self.seconds_per_video

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary for JSON: all attributes and properties, and the projected times.

        The projected times are those for the numbers of videos in `PROJECTED`.
        """
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
        engines = ", ".join(f"{name} {value:.2f}" for name, value in self.engines.items())
        lines = [
            f"{counted(self.videos, 'video')}, {self.seconds_per_video:.2f} s each "
            f"({self.videos_per_second:.2f} per second): {projections}",
            f"seconds per video by stage, with several videos at a time: {stages}",
            f"decoding alone: {self.decode_seconds_per_video:.2f} s",
            f"seconds per video by engine ({self.engine} is used): {engines}",
            f"OpenCV, reading every frame: {self.read_seconds_per_video:.2f} s; "
            f"dfdetect takes {self.ratio_to_read:.2f} times as long",
            f"pipeline of the challenge's winner: {self.reference_seconds_per_video:.2f} s; "
            f"dfdetect takes {self.ratio_to_reference:.2f} times as long",
            f"faces of the winner's pipeline that dfdetect finds: {_share(self.face_agreement)}",
        ]
        if self.probability_difference_mean is not None:
            lines.append(
                f"difference of P(FAKE): {self.probability_difference_mean:.3f} on average, "
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
    engine: str = AUTO,
    progress: bool = False,
) -> BenchResult:
    """Measure the time per video on this machine, and compare it with two other times.

    One is the time for reading every frame with OpenCV. The other is the time of a reference
    detector. It works like the pipeline of the winner of the Deepfake Detection Challenge
    (Seferbekov 2020): OpenCV reads one video after another, the sampled frames are shrunk to half
    their width and height, and MTCNN detects the faces. It differs from the winner's code in three
    ways:

    - MTCNN has its default thresholds.
    - Dark frames are brightened.
    - The faces are scored with the model of the measured detector, in float32.

    Run `bench` on an idle machine and in a new process. If the process has used much memory before,
    `peak_memory_mb` is too low.

    Args:
        paths: Videos and folders of videos, as in `predict`.
        weights: Names or files of the weights, as in `load_detector`.
        frames: Number of frames sampled from each video.
        device: `auto`, `cpu`, `cuda` or `cuda:N`, as in `load_detector`.
        engine: The library that runs the networks on a CPU, as in `load_detector`. `auto` means the
            fastest installed library. On a CPU, `auto` also times the other installed libraries;
            the attribute `engines` of the result has their times.
        progress: Whether to show progress bars.

    Raises:
        FileNotFoundError: None of the paths exists, or the weights do not exist.
        InputError: There are no videos, or none of them can be scored.

    Example:
        >>> print(bench("videos"))
    """
    videos = list(find_videos([paths] if isinstance(paths, str | Path) else paths).values())
    idle = _peak_memory()
    detector = _warm_detector(weights, device, frames, engine, videos)
    scores, seconds = _time_pipeline(detector, videos, progress)
    whole = _peak_memory()
    peak = None if idle is None or whole is None else whole - idle
    decode = _time_decoding(detector, videos)
    used = choose_engine(engine, detector.device)
    engines = {used: seconds}
    for other in ENGINES[1:] if engine == AUTO else ():
        if other != used and is_installed(other) and detector.device.type == "cpu":
            twin = _warm_detector(weights, device, frames, other, videos)
            engines[other] = _time_pipeline(twin, videos, progress)[1]
    read = _time_each(videos, _read_all, "read", progress)[1]
    winner = ReferenceDetector(detector)
    winner.predict_file(videos[0])
    followed, reference = _time_each(videos, winner.predict_file, "reference", progress)
    stages = {stage: np.mean([score.timings.get(stage, 0) for score in scores]) for stage in STAGES}
    scores = scores[: len(videos)]
    differences = _probability_differences(scores, followed)
    return BenchResult(
        videos=len(videos),
        seconds_per_video=seconds,
        stages={stage: float(value) for stage, value in stages.items()},
        engine=used,
        engines=engines,
        decode_seconds_per_video=decode,
        read_seconds_per_video=read,
        reference_seconds_per_video=reference,
        face_agreement=face_agreement(scores, followed),
        probability_difference_mean=float(np.mean(differences)) if differences else None,
        probability_difference_max=max(differences, default=None),
        peak_memory_mb=peak,
        process_mb=whole,
    )


def face_agreement(scores: list[VideoResult], reference: list[VideoResult]) -> float | None:
    """Return the share of the reference detector's faces that the measured detector finds too.

    Args:
        scores: Results of the measured detector, one for each video.
        reference: Results of the reference detector of `bench`, for the same videos.

    Returns:
        The share, 0 to 1, or None if the reference detector found no face.
    """
    covered = [
        any(iou(box, other) >= SAME_FACE_IOU for other in _boxes_at(score.tracks, time))
        for score, expected in zip(scores, reference, strict=True)
        for track in expected.tracks
        for time, box in zip(track.times, track.boxes, strict=True)
    ]
    return float(np.mean(covered)) if covered else None


def _warm_detector(
    weights: Weights, device: str, frames: int, engine: str, videos: Sequence[Path]
) -> Detector:
    """Return a detector that has already scored a video.

    The first video takes longer than later videos, because the networks are then compiled.
    """
    chosen = choose_engine(engine, choose_device(device))
    detector = load_detector(weights, device, frames, chosen)
    if not any(detector.predict(video).tracks for video in videos):
        raise InputError(f"{videos[0].parent}: no video here can be scored")
    return detector


def _time_decoding(detector: Detector, videos: Sequence[Path]) -> float:
    """Decode several videos at once, and return the seconds per video."""
    many = _in_rounds(videos)

    def make_worker(_: torch.device, decoders: DecoderPool) -> Callable[[Path], int]:
        def decode(path: Path) -> int:
            with suppress(VideoError):
                return sum(1 for _ in decoders.read_frames(path, detector.frames))
            return 0

        return decode

    start = perf_counter()
    with Executor(detector.device) as executor:
        for _ in executor.map(make_worker, many):
            pass
    return (perf_counter() - start) / len(many)


def _in_rounds(videos: Sequence[Path]) -> list[Path]:
    """Return the list of videos, repeated often enough for a precise timing."""
    return list(videos) * -(-LEAST_VIDEOS * available_cores() // len(videos))


def _time_pipeline(
    detector: Detector, videos: list[Path], progress: bool
) -> tuple[list[VideoResult], float]:
    """Score the videos, and return the results and the seconds per video.

    A few videos are scored several times. The results of all repetitions are then returned.
    """
    many = _in_rounds(videos)
    start = perf_counter()
    scores = list(
        tqdm(
            detector.predict_videos(many),
            total=len(many),
            desc=f"dfdetect, {counted(len(many) // len(videos), 'round')}",
            unit="video",
            disable=not progress,
        )
    )
    return scores, (perf_counter() - start) / len(many)


def _time_each(
    videos: list[Path], function: Any, title: str, progress: bool
) -> tuple[list[Any], float]:
    """Call a function for each video in turn, and return the results and the seconds per video."""
    start = perf_counter()
    results = [
        function(video) for video in tqdm(videos, desc=title, unit="video", disable=not progress)
    ]
    return results, (perf_counter() - start) / len(videos)


def _read_all(path: Path) -> None:
    capture = open_with_opencv(path)
    while capture.read()[0]:
        pass
    capture.release()


def _boxes_at(tracks: list[TrackResult], time: float) -> list[Box]:
    """Return the boxes of the tracks at `time`, interpolated between sampled frames.

    A track's first box is also used for a short time before its first frame, and a track's last box
    for a short time after its last frame. Both times are as long as the largest gap between two
    successive frames of the track.
    """
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
    """Return the absolute differences of P(FAKE) for the videos with a score in both lists."""
    pairs = [
        (score.probability, expected.probability)
        for score, expected in zip(scores, reference, strict=True)
    ]
    return [abs(one - other) for one, other in pairs if one is not None and other is not None]


def _peak_memory() -> float | None:
    """Return the peak memory of this process in MB, or None if the system does not report it."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e6


def _share(value: float | None) -> str:
    return "none found" if value is None else f"{value:.1%}"
