"""Track faces from frame to frame, and cut a crop for each model on each frame.

Detection is slow. It is therefore done only on some frames, the detection frames, and on downscaled
copies of these. Most detection frames are shrunk further, as far as the size of the known faces
allows. Overlapping boxes on neighbouring detection frames form one track, as in the IoU tracker of
Bochinski et al. (2017); boxes on the frames between are interpolated. Crops are cut from the full
frames.
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
# Largest number of frames in memory at a time, and the most bytes that they may take.
RUN_FRAMES = 16
RUN_BYTES = 256 * 2**20
# Consecutive detection frames on which a face may be missed: those between two searches.
MAX_MISSED = SEARCH_STRIDE - 1
# If the boxes of a face on two detection frames overlap more, the frame between them is skipped.
STILL_IOU = 0.7
# Two boxes are one track if they overlap more, each grown to twice its size: a face may move by its
# own width from one detection frame to the next.
SAME_TRACK_IOU = 0.33


@dataclass(eq=False)
class FaceTrack:
    """One face followed through a video.

    Attributes:
        detections: Times in seconds at which the face was detected, with its boxes.
        times: Times in seconds of all sampled frames that show the face.
        numbers: The numbers of these frames in the video, from 0.
        boxes: The box of the face in each of these frames: x1, y1, x2, y2 in pixels of the full
            frame.
        crops: The crops of the face in all these frames, for each requested format: RGB uint8
            tensors of shape (3, size, size).
        missed: Number of latest detection frames, in a row, on which the face was not found.
    """

    detections: list[tuple[float, Box]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    boxes: list[Box] = field(default_factory=list)
    crops: dict[CropFormat, list[torch.Tensor]] = field(default_factory=dict)
    missed: int = 0

    def box_at(self, time: float) -> Box | None:
        """Return the box at a time, interpolated between detections; None outside of them."""
        times, boxes = zip(*self.detections, strict=True)
        return interpolate_box(times, boxes, time)

    def add_frame(self, frame: Frame, box: Box, formats: Sequence[CropFormat]) -> None:
        """Add a frame that shows the face at a box."""
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
    """Find and follow the faces in a video and cut their crops.

    A face that is found on a single detection frame is left out as a false alarm if the video has
    other faces that are found on more.

    Args:
        frames: Frames in the order of time; a few are held in memory at once.
        detect: Detects faces on detection frames, as `FaceDetector.detect`.
        formats: The formats of the crops to cut.
        detection_stride: Number of frames from one detection frame to the next; it is doubled where
            faces keep still.
        search_stride: Number of detection frames from one search for faces of all sizes to the
            next. On the other detection frames, faces are sure to be found only if they are at
            least half as high as the smallest known face, or if no face is known.

    Returns:
        The tracks, in the order of their first appearance.
    """
    tracks: list[FaceTrack] = []
    waiting: list[Frame] = []
    found: list[list[Box] | None] = []
    for run, detection_frames in _runs(frames, detection_stride):
        found += _detect_boxes(detection_frames, found, tracks, detect, search_stride)
        for frame, boxes in zip(detection_frames, found[-len(detection_frames) :], strict=True):
            _assign(boxes, frame.time, tracks)
        # Frames since a face was missed are kept until it is found again or given up.
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
    """Cut crops at the boxes of another video's tracks; both videos show the same scene.

    Args:
        frames: The frames whose numbers occur in these tracks.
        others: The tracks of the other video.
        formats: The formats of the crops to cut.

    Returns:
        As many tracks, in the same order. A track without any of the frames has no crops.
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
    """Yield runs of frames that fit into memory, each with its detection frames.

    A run ends with a detection frame, so that boxes can be interpolated between detection frames.
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
    """Return the boxes found on each detection frame.

    Every `search_stride`-th detection frame is searched for faces of all sizes; the others for
    faces of about the known sizes, and again for all sizes if nothing was found. Even frames come
    first. An odd frame whose neighbours show the same faces in nearly the same places is skipped
    and gets None. `earlier` are the boxes on all detection frames before these.
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
    """Return whether two detection frames show the same faces (one or more) in the same places."""
    return 0 < len(before) == len(after) and all(
        any(iou(one, other) >= STILL_IOU for other in after) for one in before
    )


def _assign(boxes: list[Box] | None, time: float, tracks: list[FaceTrack]) -> None:
    """Add each box to the track whose last box it overlaps most, or to a new track.

    `boxes` is None for a detection frame that was skipped: it shows the same faces as the one
    before.
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
    """Return a box of twice the width and height with the same centre."""
    left, top, right, bottom = box
    half_width, half_height = (right - left) / 2, (bottom - top) / 2
    return left - half_width, top - half_height, right + half_width, bottom + half_height


def _add_frames(
    frames: list[Frame], tracks: list[FaceTrack], formats: Sequence[CropFormat]
) -> None:
    """Add the box and crop of each face on the frames between its detection frames."""
    for frame in frames:
        for track in tracks:
            box = track.box_at(frame.time)
            if box is not None:
                track.add_frame(frame, box, formats)
