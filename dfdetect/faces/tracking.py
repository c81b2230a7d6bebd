"""Track faces from frame to frame, and cut a crop of each face from each frame.

Detecting faces is slow. The face detector therefore looks only at some frames, which are called
detection frames, and only at downscaled copies of these. Once faces are known, most detection
frames are searched only for faces that are at least half as high as the smallest known face,
because this is faster. Boxes that overlap on neighbouring detection frames belong to one track, as
in the IoU tracker of Bochinski et al. (2017). Boxes on the frames between detection frames are
interpolated. Crops are cut from the frames at full size.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
import torch

from dfdetect.faces.crops import cut_crops
from dfdetect.faces.geometry import CropFormat, interpolate_box, iou
from dfdetect.results import Box
from dfdetect.video.reader import Frame

# Signature of `FaceDetector.detect`: takes images and the height of the smallest known face, or
# None; returns one list of boxes per image.
Detect = Callable[[Sequence[np.ndarray], float | None], list[list[Box]]]

# Number of frames from one detection frame to the next.
DETECTION_STRIDE = 2
# Number of detection frames from one search for faces of all sizes to the next.
SEARCH_STRIDE = 6
# Maximum number of frames in memory at a time, and maximum number of bytes that they take.
RUN_FRAMES = 16
RUN_BYTES = 256 * 2**20
# Maximum number of consecutive detection frames on which a face may be missed before its track
# ends: the detection frames between two searches for faces of all sizes.
MAX_MISSED = SEARCH_STRIDE - 1
# If the boxes of all faces on two detection frames have at least this IoU, the detection frame
# between them is skipped.
STILL_IOU = 0.7
# A box continues a track if its IoU with the track's last box is at least this. Both boxes are
# first enlarged to twice their width and height, so that a face may move by its own width from one
# detection frame to the next.
SAME_TRACK_IOU = 0.33


@dataclass(eq=False)
class FaceTrack:
    """One face that is followed through a video.

    Attributes:
        detections: The time in seconds and the box of each detection of the face.
        times: Times in seconds of all sampled frames that show the face.
        numbers: The numbers of these frames in the video, counted from 0.
        boxes: The box of the face in each of these frames: x1, y1, x2, y2 in pixels of the full
            frame.
        crops: For each requested format, the crops of the face in all these frames: RGB uint8
            tensors of shape (3, height, width).
        missed: Number of detection frames since the face was last detected. A detection frame is a
            frame that the face detector looks at.
    """

    detections: list[tuple[float, Box]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    boxes: list[Box] = field(default_factory=list)
    crops: dict[CropFormat, list[torch.Tensor]] = field(default_factory=dict)
    missed: int = 0

    def box_at(self, time: float) -> Box | None:
        """Return the box at a time, interpolated between detections.

        Return None if the time is before the first or after the last detection.
        """
        times, boxes = zip(*self.detections, strict=True)
        return interpolate_box(times, boxes, time)

    def add_frame(self, frame: Frame, box: Box, formats: Sequence[CropFormat]) -> None:
        """Add a frame in which the face has this box, and cut the face's crops from the frame."""
        self.times.append(frame.time)
        self.numbers.append(frame.number)
        self.boxes.append(box)
        for one, crop in cut_crops(frame.image, box, formats).items():
            self.crops.setdefault(one, []).append(crop)


def track_faces(
    frames: Iterable[Frame],
    detect: Detect,
    formats: Sequence[CropFormat],
    detection_stride: int = DETECTION_STRIDE,
    search_stride: int = SEARCH_STRIDE,
) -> list[FaceTrack]:
    """Track all faces in the frames of a video, and cut a crop of each face from each frame.

    Faces are detected only on some frames, the detection frames. Between them, boxes are
    interpolated. Faces that were detected on only one frame are left out as false alarms. But if
    this holds for all faces, all of them are kept.

    Args:
        frames: Frames in order of time. Only a few frames at a time are kept in memory.
        detect: The method `detect` of a face detector.
        formats: The formats of the crops to cut.
        detection_stride: Number of frames from one detection frame to the next. While faces keep
            still, every second detection frame is skipped.
        search_stride: Every `search_stride`-th detection frame is searched for faces of all sizes.
            On the other detection frames, a face may be missed if it is less than half as high as
            the smallest known face.

    Returns:
        The tracks, in the order in which their faces first appear.
    """
    tracks: list[FaceTrack] = []
    waiting: list[Frame] = []
    found: list[list[Box] | None] = []
    for run, detection_frames in _runs(frames, detection_stride):
        found += _detect_boxes(detection_frames, found, tracks, detect, search_stride)
        for frame, boxes in zip(detection_frames, found[-len(detection_frames) :], strict=True):
            _assign(boxes, frame.time, tracks)
        # If a face was missed, the frames since its last detection are kept in memory until the
        # face is found again or its track ends.
        missed = [track for track in tracks if 0 < track.missed <= MAX_MISSED]
        settled = min((track.detections[-1][0] for track in missed), default=run[-1].time)
        waiting += run
        _add_frames([frame for frame in waiting if frame.time <= settled], tracks, formats)
        waiting = [frame for frame in waiting if frame.time > settled]
    _add_frames(waiting, tracks, formats)
    most = max((len(track.detections) for track in tracks), default=0)
    return [track for track in tracks if len(track.detections) >= min(most, 2)]


def crop_at_tracks(
    frames: Iterable[Frame], others: Sequence[FaceTrack], formats: Sequence[CropFormat]
) -> list[FaceTrack]:
    """Cut crops from the frames of a video at the boxes of another video's tracks.

    Both videos show the same scene, for example an original and a fake made from it.

    Args:
        frames: Frames of the video. Only frames whose numbers occur in `others` are used.
        others: The tracks of the other video.
        formats: The formats of the crops to cut.

    Returns:
        One new track per track of the other video, in the same order. A new track is empty if
        `frames` has none of the frame numbers of the other track.
    """
    tracks = [FaceTrack() for _ in others]
    boxes = [dict(zip(other.numbers, other.boxes, strict=True)) for other in others]
    for frame in frames:
        for track, known in zip(tracks, boxes, strict=True):
            if frame.number in known:
                track.add_frame(frame, known[frame.number], formats)
    return tracks


def _runs(
    frames: Iterable[Frame], detection_stride: int
) -> Iterator[tuple[list[Frame], list[Frame]]]:
    """Yield runs of frames, each with a list of the detection frames in it.

    A run is a list of successive frames that together fit into memory. A detection frame is a frame
    that the face detector looks at. Each run ends with a detection frame, so that boxes can be
    interpolated on all other frames of the run.
    """
    run: list[Frame] = []
    detection_frames: list[Frame] = []
    for position, frame in enumerate(frames):
        run.append(frame)
        if position % detection_stride == 0:
            detection_frames.append(frame)
            if len(run) >= RUN_FRAMES or len(run) * frame.image.nbytes >= RUN_BYTES:
                yield run, detection_frames
                run, detection_frames = [], []
    if run:
        if not detection_frames or detection_frames[-1] is not run[-1]:
            detection_frames.append(run[-1])
        yield run, detection_frames


def _detect_boxes(
    detection_frames: list[Frame],
    earlier: list[list[Box] | None],
    tracks: list[FaceTrack],
    detect: Detect,
    search_stride: int,
) -> list[list[Box] | None]:
    """Return the boxes of the faces on each detection frame, or None for a skipped detection frame.

    The detection frames of the whole video are numbered from 0. Every `search_stride`-th detection
    frame is searched for faces of all sizes. The others are first searched for faces that are at
    least half as high as the smallest known face. If no face is found on such a frame, it is
    searched for faces of all sizes.

    Detection frames with even numbers are searched first. A detection frame with an odd number is
    skipped if its two neighbours show the same faces in nearly the same places.

    Args:
        detection_frames: The detection frames of one run. `_runs` says what a run is.
        earlier: The boxes found on all earlier detection frames of the video.
        tracks: The tracks up to the previous run.
        detect: The method `detect` of a face detector.
        search_stride: Every `search_stride`-th detection frame is searched for faces of all sizes.
    """
    first, last = len(earlier), len(earlier) + len(detection_frames) - 1
    boxes = earlier + [None] * len(detection_frames)

    def look(wanted: Iterable[int], smallest: float | None) -> None:
        wanted = list(wanted)
        found = detect([detection_frames[number - first].image for number in wanted], smallest)
        for number, one in zip(wanted, found, strict=True):
            boxes[number] = one

    def look_closer(wanted: Iterable[int]) -> None:
        wanted = [number for number in wanted if boxes[number] is None]
        if heights:
            look(wanted, min(heights))
        look((number for number in wanted if not boxes[number]), None)

    numbers = range(first, last + 1)
    look((number for number in numbers if number % search_stride == 0), None)
    known = [track.detections[-1][1] for track in tracks if track.missed <= MAX_MISSED]
    heights = [bottom - top for _, top, _, bottom in chain(known, *filter(None, boxes[first:]))]
    look_closer(number for number in numbers if number % 2 == 0 or number == last)
    look_closer(
        number
        for number in numbers
        if boxes[number] is None and not _all_stay(boxes[number - 1] or [], boxes[number + 1] or [])
    )
    return boxes[first:]


def _all_stay(before: list[Box], after: list[Box]) -> bool:
    """Return whether two frames have boxes of the same faces in nearly the same places.

    If neither frame has a box, the result is False.
    """
    return 0 < len(before) == len(after) and all(
        any(iou(one, other) >= STILL_IOU for other in after) for one in before
    )


def _assign(boxes: list[Box] | None, time: float, tracks: list[FaceTrack]) -> None:
    """Add each box of a detection frame to the track whose last box overlaps the new box most.

    A box that does not overlap the last box of any track enough starts a new track. Each track gets
    at most one box.

    If `boxes` is None, the detection frame was skipped. A face found on the previous detection
    frame then counts as found on the skipped frame too.
    """
    live = [track for track in tracks if track.missed <= MAX_MISSED]
    if boxes is None:
        for track in live:
            track.missed += track.missed > 0
        return
    overlaps = [
        (iou(_grown(track.detections[-1][1]), _grown(box)), row, column)
        for row, track in enumerate(live)
        for column, box in enumerate(boxes)
    ]
    owners: dict[int, FaceTrack] = {}
    for overlap, row, column in sorted(overlaps, reverse=True):
        free = column not in owners and live[row] not in owners.values()
        if overlap >= SAME_TRACK_IOU and free:
            owners[column] = live[row]
    for track in live:
        track.missed += 1
    for column, box in enumerate(boxes):
        if column not in owners:
            owners[column] = FaceTrack()
            tracks.append(owners[column])
        owners[column].detections.append((time, box))
        owners[column].missed = 0


def _grown(box: Box) -> Box:
    """Return a box with the same centre, but of twice the width and twice the height."""
    left, top, right, bottom = box
    half_width, half_height = (right - left) / 2, (bottom - top) / 2
    return left - half_width, top - half_height, right + half_width, bottom + half_height


def _add_frames(
    frames: list[Frame], tracks: list[FaceTrack], formats: Sequence[CropFormat]
) -> None:
    """Add each frame to the track of every face that the frame shows.

    The track also gets the face's box in this frame, and the face's crop in each of `formats`.
    """
    for frame in frames:
        for track in tracks:
            box = track.box_at(frame.time)
            if box is not None:
                track.add_frame(frame, box, formats)
