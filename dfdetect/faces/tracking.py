"""Track faces from frame to frame, and cut a crop of each face from each frame.

Searching a whole frame for faces is slow, so only some frames are searched. On the other frames,
the face detector's method `detect_nearby` looks for the known faces where they are expected.
Without this method, the boxes on the other frames are interpolated.

Boxes that overlap on neighbouring frames belong to one track, as in the IoU tracker of Bochinski et
al. (2017).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import TypeAlias

import numpy as np
import torch

from dfdetect.faces.crops import cut_crops
from dfdetect.faces.geometry import CropFormat, interpolate_box, iou
from dfdetect.results import Box
from dfdetect.video.reader import Frame

# Signature of `FaceDetector.detect`: takes images, and the height of the smallest known face or
# None; returns one list of boxes per image.
Detect = Callable[[Sequence[np.ndarray], float | None], list[list[Box]]]
# Signature of `NearbyFaceDetector.detect_nearby`: takes images and the expected boxes of each
# image; returns a box or None for each expected box.
DetectNearby = Callable[[Sequence[np.ndarray], Sequence[Sequence[Box]]], list[list[Box | None]]]
# The boxes found on a frame, or None for a skipped frame.
Boxes: TypeAlias = list[Box] | None

# Number of frames from one search for faces of all sizes to the next.
SEARCH_STRIDE = 16
# A run of frames (see `_runs`) ends when it has about this many frames, or when its images take
# about this many bytes.
RUN_FRAMES = 16
RUN_BYTES = 256 * 2**20
# Maximum size in bytes of the frames that wait for a missed face. A face of a 4K video may be
# missed on `MAX_MISSED` frames; with larger frames, its track ends earlier.
WAITING_BYTES = 2 * RUN_BYTES
# Maximum number of consecutive frames on which a face may be missed before its track ends. This is
# the number of frames between two searches for faces of all sizes.
MAX_MISSED = SEARCH_STRIDE - 1
# A face stays in place if the IoU of its boxes on two frames is at least this. If all faces stay in
# place, a frame between the two frames need not be searched.
STILL_IOU = 0.7
# Two boxes on one frame with at least this IoU show the same face.
SAME_FACE_IOU = 0.5
# A box continues a track if its IoU with the track's last box is at least this. Both boxes are
# first enlarged to twice their width and height, so that a face may move by its own width.
SAME_TRACK_IOU = 0.33


@dataclass(eq=False)
class FaceTrack:
    """One face that is followed through a video.

    Attributes:
        detections: The time in seconds and the box of each detection of the face.
        times: Times in seconds of all sampled frames from the first detection to the last.
        numbers: The numbers of these frames in the video, counted from 0.
        boxes: The box of the face in each of these frames: x1, y1, x2, y2 in pixels of the full
            frame. On a frame without a detection, the box is interpolated.
        crops: For each requested format, the crops of the face in all these frames: RGB uint8
            tensors of shape (3, height, width).
        missed: Number of sampled frames on which the face was missed since its last detection. It
            is above `MAX_MISSED` once the track has ended.
    """

    detections: list[tuple[float, Box]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    boxes: list[Box] = field(default_factory=list)
    crops: dict[CropFormat, list[torch.Tensor]] = field(default_factory=dict)
    missed: int = 0

    def box_at(self, time: float) -> Box | None:
        """Return the face's box at `time`, interpolated between detections.

        Return None if `time` is before the first or after the last detection.
        """
        times, boxes = zip(*self.detections, strict=True)
        return interpolate_box(times, boxes, time)

    def add_frame(self, frame: Frame, box: Box, formats: Sequence[CropFormat]) -> None:
        """Add a frame in which the face has the box `box`, and cut the crops of the face."""
        self.times.append(frame.time)
        self.numbers.append(frame.number)
        self.boxes.append(box)
        for one, crop in cut_crops(frame.image, box, formats).items():
            self.crops.setdefault(one, []).append(crop)


def track_faces(
    frames: Iterable[Frame],
    detect: Detect,
    formats: Sequence[CropFormat],
    detect_nearby: DetectNearby | None = None,
    search_stride: int = SEARCH_STRIDE,
) -> list[FaceTrack]:
    """Return the tracks of all faces in the frames of a video, with the crops of the faces.

    Faces that were detected on only one frame are left out as false alarms. But if every face was
    detected on only one frame, all faces are kept.

    Args:
        frames: Frames in order of time. Only a few frames at a time are kept in memory.
        detect: The method `detect` of a face detector.
        formats: The formats of the crops to cut.
        detect_nearby: The method `detect_nearby` of a face detector. With None, more whole frames
            are searched, and the boxes on the other frames are interpolated.
        search_stride: Every `search_stride`-th frame is searched for faces of all sizes. Searches
            of other frames may miss a face that is less than half as high as the smallest known
            face.

    Returns:
        The tracks, in the order in which their faces first appear.
    """
    tracks: list[FaceTrack] = []
    waiting: list[Frame] = []
    found: list[Boxes] = []
    for run in _runs(frames):
        found += _detect_boxes(run, found, tracks, detect, detect_nearby, search_stride)
        for frame, boxes in zip(run, found[-len(run) :], strict=True):
            _assign(boxes, frame.time, tracks)
        waiting += run
        settled = _settle(tracks, waiting)
        _add_frames([frame for frame in waiting if frame.time <= settled], tracks, formats)
        waiting = [frame for frame in waiting if frame.time > settled]
    _add_frames(waiting, tracks, formats)
    most = max((len(track.detections) for track in tracks), default=0)
    return [track for track in tracks if len(track.detections) >= min(most, 2)]


def _settle(tracks: Sequence[FaceTrack], waiting: Sequence[Frame]) -> float:
    """Return the time up to which the boxes of all faces are known.

    If a face was missed, the frames since its last detection are kept in memory until the face is
    found again or its track ends. If these frames take too much memory, the track that has been
    missed for longest ends now.

    Args:
        tracks: All tracks.
        waiting: The frames in memory, at least one, in order of time.
    """
    while True:
        missed = [track for track in tracks if 0 < track.missed <= MAX_MISSED]
        if not missed:
            return waiting[-1].time
        oldest = min(missed, key=lambda track: track.detections[-1][0])
        settled = oldest.detections[-1][0]
        if sum(frame.image.nbytes for frame in waiting if frame.time > settled) <= WAITING_BYTES:
            return settled
        oldest.missed = MAX_MISSED + 1


def crop_at_tracks(
    frames: Iterable[Frame], others: Sequence[FaceTrack], formats: Sequence[CropFormat]
) -> list[FaceTrack]:
    """Cut crops from the frames of a video at the boxes of another video's tracks.

    Both videos show the same scene, for example an original and a fake made from it.

    Args:
        frames: Frames of the video. Only frames whose numbers occur in the tracks `others` are
            used.
        others: The tracks of the other video.
        formats: The formats of the crops to cut.

    Returns:
        One new track per track in `others`, in the same order. A new track is empty if `frames` has
        none of the frame numbers of the other track.
    """
    tracks = [FaceTrack() for _ in others]
    boxes = [dict(zip(other.numbers, other.boxes, strict=True)) for other in others]
    for frame in frames:
        for track, known in zip(tracks, boxes, strict=True):
            if frame.number in known:
                track.add_frame(frame, known[frame.number], formats)
    return tracks


def _runs(frames: Iterable[Frame]) -> Iterator[list[Frame]]:
    """Yield the frames in runs. A run is a list of successive frames that fit into memory."""
    run: list[Frame] = []
    for number, frame in enumerate(frames):
        run.append(frame)
        full = len(run) >= RUN_FRAMES or len(run) * frame.image.nbytes >= RUN_BYTES
        # The last frame of a run is always searched. A full run therefore ends with an even number,
        # because frames with odd numbers should be skipped.
        if full and number % 2 == 0:
            yield run
            run = []
    if run:
        yield run


def _detect_boxes(
    run: list[Frame],
    earlier: list[Boxes],
    tracks: list[FaceTrack],
    detect: Detect,
    detect_nearby: DetectNearby | None,
    search_stride: int,
) -> list[Boxes]:
    """Return the boxes of the faces on each frame of a run, or None for a skipped frame.

    The sampled frames of the video are numbered from 0. First, every `search_stride`-th frame is
    searched for faces of all sizes. Later searches look for faces that are at least half as high as
    the smallest known face (see `_RunSearch`).

    The next steps with `detect_nearby`:

    - Every eighth frame and the last frame of the run are searched.
    - `detect_nearby` looks at the middle frame of each gap between these frames, until no gaps are
      left. If it misses an expected face (see `_RunSearch.expected`), the frame is searched.
    - If no face is expected, even-numbered frames are searched, and odd-numbered frames are
      skipped.

    The next steps without `detect_nearby`:

    - Every fourth frame and the last frame of the run are searched.
    - The frame halfway between two of these frames is searched, unless both show the same faces in
      nearly the same places.
    - All other frames are skipped.

    Args:
        run: The frames of one run. `_runs` explains what a run is.
        earlier: The boxes found on each earlier frame of the video.
        tracks: The tracks found in all earlier runs.
        detect: The method `detect` of a face detector.
        detect_nearby: The method `detect_nearby` of the face detector, or None.
        search_stride: Distance between frames that are searched for faces of all sizes.
    """
    boxes = [*earlier, *[None] * len(run)]
    search = _RunSearch(run, len(earlier), boxes, detect, detect_nearby)
    search.search([number for number in search.left(1) if number % search_stride == 0], None)
    known = [track.detections[-1][1] for track in tracks if track.missed <= MAX_MISSED]
    search.set_smallest([*known, *chain(*filter(None, search.boxes[search.first :]))])
    if detect_nearby is None:
        search.search_known_sizes(search.left(4))
        search.search_known_sizes([number for number in search.left(2) if not search.stays(number)])
    else:
        search.search_known_sizes(search.left(8))
        for stride in (4, 2):
            search.look_nearby(search.left(stride))
            search.search_known_sizes(search.left(stride))
        search.look_nearby(search.left(1))
        search.search(
            [number for number in search.left(1) if search.expected(number)], search.smallest
        )
    return search.boxes[search.first :]


@dataclass
class _RunSearch:
    """The search for faces in a run of frames. `_runs` explains what a run is.

    The known faces are the faces of tracks that have not ended, and the faces that were found when
    frames of the run were searched for faces of all sizes.

    Attributes:
        run: The frames of the run.
        first: The number of the first frame of the run. The sampled frames of the video are
            numbered from 0.
        boxes: For each sampled frame up to the end of the run, the boxes of the faces that were
            found on the frame, or None if the frame was not searched (yet).
        detect: The method `detect` of a face detector.
        detect_nearby: The method `detect_nearby` of the face detector, or None.
        smallest: Height in pixels of the smallest known face, or None if no face is known.
    """

    run: list[Frame]
    first: int
    boxes: list[Boxes]
    detect: Detect
    detect_nearby: DetectNearby | None
    smallest: float | None = None

    def set_smallest(self, known: Iterable[Box]) -> None:
        """Set `smallest` to the smallest height in `known`, the boxes of all known faces."""
        self.smallest = min((bottom - top for _, top, _, bottom in known), default=None)

    def left(self, stride: int) -> list[int]:
        """Return the numbers of the frames of the run that are not searched yet.

        Only multiples of `stride` and the number of the last frame are returned.
        """
        last = len(self.boxes) - 1
        return [
            number
            for number in range(self.first, last + 1)
            if self.boxes[number] is None and (number % stride == 0 or number == last)
        ]

    def search(self, numbers: Sequence[int], smallest: float | None) -> None:
        """Search the frames with the given numbers, and store the boxes of the faces in `boxes`.

        If `smallest`, a height in pixels, is given, the search may miss faces of less than half
        this height. If the search misses an expected face (see `expected`), `detect_nearby` looks
        for the face at the expected place, unless `detect_nearby` is None.
        """
        found = self.detect([self._image(number) for number in numbers], smallest)
        for number, boxes in zip(numbers, found, strict=True):
            self.boxes[number] = boxes
            expected = self.expected(number)
            matched = _match(expected, boxes)
            missed = [box for row, box in enumerate(expected) if row not in matched]
            if missed and self.detect_nearby is not None:
                (added,) = self.detect_nearby([self._image(number)], [missed])
                self.boxes[number] = _distinct([*boxes, *added])

    def search_known_sizes(self, numbers: Sequence[int]) -> None:
        """Search frames for faces that are at least half as high as the smallest known face.

        A frame on which no face is found is searched again, for faces of all sizes.
        """
        if self.smallest is not None:
            self.search(numbers, self.smallest)
        self.search([number for number in numbers if not self.boxes[number]], None)

    def look_nearby(self, numbers: Sequence[int]) -> None:
        """Look for known faces only where they are expected, on the frames with the given numbers.

        The boxes of a frame are stored in `boxes` only if all expected faces were found.
        """
        assert self.detect_nearby is not None
        places = {number: self.expected(number) for number in numbers}
        places = {number: boxes for number, boxes in places.items() if boxes}
        images = [self._image(number) for number in places]
        found = self.detect_nearby(images, [*places.values()])
        for number, boxes in zip(places, found, strict=True):
            if None not in boxes:
                self.boxes[number] = _distinct(boxes)

    def _image(self, number: int) -> np.ndarray:
        return self.run[number - self.first].image

    def expected(self, number: int) -> list[Box]:
        """Return the expected boxes of the faces on the frame with the number `number`.

        The frame has two neighbours (see `_neighbours`). If both neighbours show the same face, the
        expected box lies between the face's two boxes. If only one neighbour shows the face, the
        expected box is the face's box on this neighbour.
        """
        (earlier, before), (later, after) = self._neighbours(number)
        pairs = _match(before, after)
        share = (number - earlier) / max(later - earlier, 1)
        boxes = [
            _between(box, after[pairs[row]], share) if row in pairs else box
            for row, box in enumerate(before)
        ]
        return boxes + [box for row, box in enumerate(after) if row not in pairs.values()]

    def stays(self, number: int) -> bool:
        """Return whether both neighbours of a frame show faces, and all faces stay in place.

        The neighbours are the frames that `_neighbours` returns. A face stays in place if its boxes
        on both neighbours are nearly the same. The result is False if a face is on only one
        neighbour.
        """
        (_, before), (_, after) = self._neighbours(number)
        return 0 < len(before) == len(after) and all(
            any(iou(one, other) >= STILL_IOU for other in after) for one in before
        )

    def _neighbours(self, number: int) -> tuple[tuple[int, list[Box]], tuple[int, list[Box]]]:
        """Return the numbers and boxes of the two neighbours of the frame with the number `number`.

        The neighbours are the nearest frames, before and after this frame, whose entry in `boxes`
        is not None. If there is no neighbour on one side, the result for this side is `number` and
        an empty list.
        """

        def nearest(numbers: Iterable[int]) -> tuple[int, list[Box]]:
            for one in numbers:
                if (boxes := self.boxes[one]) is not None:
                    return one, boxes
            return number, []

        return nearest(range(number - 1, -1, -1)), nearest(range(number + 1, len(self.boxes)))


def _assign(boxes: Boxes, time: float, tracks: list[FaceTrack]) -> None:
    """Add each new box of a frame to the track whose last box overlaps the new box most.

    Each track gets at most one box. An overlap counts only if it is large enough (see
    `SAME_TRACK_IOU`). A new box that is added to no track starts a new track.

    If `boxes` is None, the frame was skipped, and no box is added. The skipped frame counts as
    missed only in tracks whose face was already missed on the frame before.
    """
    live = [track for track in tracks if track.missed <= MAX_MISSED]
    if boxes is None:
        for track in live:
            track.missed += track.missed > 0
        return
    pairs = _match([track.detections[-1][1] for track in live], boxes)
    owners = {column: live[row] for row, column in pairs.items()}
    for track in live:
        track.missed += 1
    for column, box in enumerate(boxes):
        if column not in owners:
            owners[column] = FaceTrack()
            tracks.append(owners[column])
        owners[column].detections.append((time, box))
        owners[column].missed = 0


def _match(first: Sequence[Box], second: Sequence[Box]) -> dict[int, int]:
    """Return which boxes of two frames show the same face.

    The result is a dictionary from positions in `first` to positions in `second`. The boxes that
    overlap most are matched first.
    """
    overlaps = [
        (iou(_grown(one), _grown(other)), row, column)
        for row, one in enumerate(first)
        for column, other in enumerate(second)
    ]
    pairs: dict[int, int] = {}
    for overlap, row, column in sorted(overlaps, reverse=True):
        if overlap >= SAME_TRACK_IOU and row not in pairs and column not in pairs.values():
            pairs[row] = column
    return pairs


def _between(first: Box, second: Box, share: float) -> Box:
    """Return a box between two boxes: `first` if `share` is 0, and `second` if `share` is 1."""
    x1, y1, x2, y2 = (one + share * (other - one) for one, other in zip(first, second, strict=True))
    return x1, y1, x2, y2


def _distinct(boxes: Iterable[Box | None]) -> list[Box]:
    """Return the boxes of different faces: one box for each face. None is left out."""
    kept: list[Box] = []
    for box in boxes:
        if box is not None and all(iou(box, other) < SAME_FACE_IOU for other in kept):
            kept.append(box)
    return kept


def _grown(box: Box) -> Box:
    """Return a box with the same centre, but of twice the width and twice the height."""
    left, top, right, bottom = box
    half_width, half_height = (right - left) / 2, (bottom - top) / 2
    return left - half_width, top - half_height, right + half_width, bottom + half_height


def _add_frames(
    frames: list[Frame], tracks: list[FaceTrack], formats: Sequence[CropFormat]
) -> None:
    """Add each frame to the track of every face that the frame shows.

    The track gets the frame's time and number, the face's box, and the face's crops in all formats.
    """
    for frame in frames:
        for track in tracks:
            box = track.box_at(frame.time)
            if box is not None:
                track.add_frame(frame, box, formats)
