"""How fast videos are scored here, beside two references on the same videos in the same run."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import cv2
import numpy as np
import torch
from tqdm import tqdm

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


def bench(
    paths: str | Path | Iterable[str | Path],
    *,
    weights: str | Path | None = None,
    frames: int = DEFAULT_FRAMES,
    device: str = "auto",
    progress: bool = False,
) -> dict[str, Any]:
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

    Returns:
        `videos`; `seconds_per_video` and `videos_per_second`; `stages`, the seconds that a video
        spends in each, several videos being worked on at a time; `read_seconds_per_video` and
        `reference_seconds_per_video`, with `ratio_to_read` and `ratio_to_reference`;
        `face_agreement`, the share of the reference's faces that are covered with an IoU of at
        least 0.5; `probability_difference_mean` and `_max` to the reference; `peak_memory_mb` of
        the process above what it had with torch loaded, and `process_mb`, all that it had, None
        where the system cannot tell; and `projected_seconds_400` and `projected_seconds_4000`.

    Raises:
        FileNotFoundError: A path or the weights do not exist.
        InputError: There are no videos, or none of them can be scored.

    Example:
        >>> result = bench("videos")
        >>> print(report(result))
    """
    videos = list(find_videos([paths] if isinstance(paths, str | Path) else paths).values())
    idle = _peak_memory()
    detector = load_detector(weights, device, frames)
    # The first run chooses and compiles kernels.
    if not any(detector.predict(video).tracks for video in videos):
        raise InputError(f"{videos[0].parent}: no video here can be scored")
    scores, seconds = _time_pipeline(detector, videos, progress)
    whole = _peak_memory()
    peak = None if idle is None else whole - idle
    read = _time_each(videos, _read_all, "read", progress)[1]
    winner = _Reference(detector)
    winner.predict(videos[0])
    followed, reference = _time_each(videos, winner.predict, "reference", progress)
    stages = {stage: np.mean([score.timings.get(stage, 0) for score in scores]) for stage in STAGES}
    scores = scores[: len(videos)]
    differences = _probability_differences(scores, followed)
    return {
        "videos": len(videos),
        "seconds_per_video": seconds,
        "videos_per_second": 1 / seconds,
        "stages": {stage: float(value) for stage, value in stages.items()},
        "read_seconds_per_video": read,
        "reference_seconds_per_video": reference,
        "ratio_to_read": seconds / read,
        "ratio_to_reference": seconds / reference,
        "face_agreement": face_agreement(scores, followed),
        "probability_difference_mean": float(np.mean(differences)) if differences else None,
        "probability_difference_max": max(differences, default=None),
        "peak_memory_mb": peak,
        "process_mb": whole,
        **{f"projected_seconds_{count}": count * seconds for count in PROJECTED},
    }


def report(result: dict[str, Any], as_json: bool = False) -> str:
    """The result of `bench` as JSON or as lines to read."""
    if as_json:
        return json.dumps(result, indent=2)
    stages = ", ".join(f"{name} {value:.2f}" for name, value in result["stages"].items())
    projections = ", ".join(
        f"{result[f'projected_seconds_{count}'] / 60:.1f} min for {count}" for count in PROJECTED
    )
    lines = [
        f"{_count(result['videos'], 'video')}, {result['seconds_per_video']:.2f} s each "
        f"({result['videos_per_second']:.2f} a second): {projections}",
        f"seconds a video by stage, several videos at a time: {stages}",
        f"OpenCV, reading every frame: {result['read_seconds_per_video']:.2f} s; "
        f"dfdetect takes {result['ratio_to_read']:.2f} times as long",
        f"the way of the challenge's winner: {result['reference_seconds_per_video']:.2f} s; "
        f"dfdetect takes {result['ratio_to_reference']:.2f} times as long",
        f"faces found that way that dfdetect covers: {_share(result['face_agreement'])}",
    ]
    if (mean := result["probability_difference_mean"]) is not None:
        most = result["probability_difference_max"]
        lines.append(f"difference of P(FAKE): {mean:.3f} in the mean, {most:.3f} at most")
    if result["peak_memory_mb"] is not None:
        lines.append(f"peak memory above torch: {result['peak_memory_mb']:.0f} MB")
    return "\n".join(lines)


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
        self.half = False
        self.face_detectors: dict[int, MTCNNDetector] = {}

    def predict(self, source: Path) -> VideoResult:
        """Score a video whose frames OpenCV reads."""
        try:
            return super().predict(_pass_through(source, self.frames))
        except (ArgumentError, VideoError):  # it gives no frames
            return VideoResult.without_score(source, source.name, Status.NO_FRAME)

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
        tracks = track_faces(frames, detect, self.spec.crop, self.spec.input_size, 1, 1)
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
    boxes = []
    for track in tracks:
        step = max(np.diff(track.times), default=0.0)
        if track.times[0] - step <= time <= track.times[-1] + step:
            moment = min(max(time, track.times[0]), track.times[-1])
            boxes.append(interpolate_box(track.times, track.boxes, moment))
    return boxes


def _probability_differences(
    scores: list[VideoResult], reference: list[VideoResult]
) -> list[float]:
    """Of the videos that both could score."""
    pairs = [
        (score.probability, expected.probability)
        for score, expected in zip(scores, reference, strict=True)
    ]
    return [abs(one - other) for one, other in pairs if None not in (one, other)]


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
