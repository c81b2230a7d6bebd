"""frames -> people: find faces, follow them from frame to frame, cut crops for a model.

Finding costs much, so it is done on downscaled copies of some key frames, and most of those are
shrunk further, as far as the faces that are known by then allow. Boxes on neighbouring key frames
that overlap are one person, as in the IoU tracker of Bochinski et al. (2017); boxes on the frames
between are interpolated. Crops come from the full frames.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, groupby

import cv2
import numpy as np
import torch
from facenet_pytorch import MTCNN
from torch import nn
from torchvision.transforms.v2 import functional

from dfdetect.checkpoints.io import CropRule
from dfdetect.results import Box
from dfdetect.runtime.device import apply_in_parts
from dfdetect.video.reader import Frame

# Images, and the height of the smallest face that is known in them, to boxes of each; as
# `FaceFinder.find`.
Find = Callable[[Sequence[np.ndarray], float | None], list[list[Box]]]

# Frames from one key frame to the next.
KEY_STRIDE = 2
# Key frames from one that is searched for faces of all sizes to the next.
SEARCH_STRIDE = 6
# Frames held at a time, if they do not take more memory than this.
RUN_FRAMES = 16
RUN_BYTES = 256 * 2**20
# Pixels of shrunk frames that the network sees at a time.
BATCH_PIXELS = 8 * 2**20
# Places that may show a face, of which MTCNN's later stages look at so many at a time.
CANDIDATES = 2048
# Key frames in a row on which a person may be missed: those between two searches.
MAX_MISSED_KEYS = SEARCH_STRIDE - 1
# Overlap of a face's boxes on two key frames between which it is not looked at.
STILL_IOU = 0.7
# Overlap of two boxes, each grown to twice its size, that are one person: one who moves by a whole
# face from key frame to key frame still is.
SAME_PERSON_IOU = 0.33
# Images whose brightest pixels are below this level (of 255) are brightened.
DARK = 128


@dataclass(eq=False)
class Person:
    """One face followed through a video.

    Attributes:
        keys: Times in seconds and boxes where the face was found.
        times: Seconds of all sampled frames that show the face.
        numbers: The numbers of these frames in the video, from 0.
        boxes: Its box in each of them: x1, y1, x2, y2 in pixels of the full frame.
        crops: Its crop in each of them: RGB uint8 tensors of shape (3, size, size).
        missed: Key frames in a row on which it was not found, up to the last one looked at.
    """

    keys: list[tuple[float, Box]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    boxes: list[Box] = field(default_factory=list)
    crops: list[torch.Tensor] = field(default_factory=list)
    missed: int = 0

    def box_at(self, time: float) -> Box | None:
        """The box at a time, interpolated between key frames; None before and after them."""
        times, boxes = zip(*self.keys, strict=True)
        return interpolate_box(times, boxes, time)

    def show(self, frame: Frame, box: Box, rule: CropRule, size: int) -> None:
        """Add a frame that shows the face at a box."""
        self.times.append(frame.time)
        self.numbers.append(frame.number)
        self.boxes.append(box)
        self.crops.append(cut_crop(frame.image, rule.square(box), size))


class FaceFinder:
    """MTCNN (Zhang et al. 2016) on downscaled copies of frames.

    Args:
        device: Where the network runs.
        max_side: Frames are shrunk until their longer side has at most this many pixels.
        min_face: Height of the smallest face looked for, in pixels of the shrunk frame.
        thresholds: Confidence that each of the three stages asks for, 0 to 1.

    Example:
        >>> finder = FaceFinder(torch.device("cpu"))
        >>> finder.find([frame.image])
        [[(804.1, 112.3, 986.2, 352.9)]]
    """

    def __init__(
        self,
        device: torch.device,
        max_side: int = 960,
        min_face: int = 24,
        thresholds: tuple[float, float, float] = (0.6, 0.7, 0.9),
    ):
        self.max_side = max_side
        self.min_face = min_face
        self.network = MTCNN(
            keep_all=True, min_face_size=min_face, thresholds=list(thresholds), device=device
        ).to(memory_format=torch.channels_last)
        self.network.rnet = _InParts(self.network.rnet)
        self.network.onet = _InParts(self.network.onet)

    @classmethod
    def careful(cls, device: torch.device) -> "FaceFinder":
        """A finder for dark, small and turned faces: slower, and with more false alarms."""
        return cls(device, max_side=3840, min_face=20, thresholds=(0.5, 0.6, 0.7))

    def find(self, images: Sequence[np.ndarray], smallest: float | None = None) -> list[list[Box]]:
        """Find faces in RGB uint8 images of shape (height, width, 3), batching those of one size.

        Args:
            images: Any number.
            smallest: Height in pixels of the smallest face that is known to be there; then the
                images are shrunk further, until faces of half that height are just found.

        Returns:
            For each image its boxes, in pixels of the image as given.
        """
        found: list[list[Box]] = []
        for _, same_size in groupby(images, key=np.shape):
            found += self._find_in_batch(list(same_size), smallest)
        return found

    def _find_in_batch(self, images: list[np.ndarray], smallest: float | None) -> list[list[Box]]:
        height, width = images[0].shape[:2]
        shrink = min(1.0, self.max_side / max(height, width))
        if smallest is not None:
            shrink = min(shrink, 2 * self.min_face / smallest)
        size = max(1, round(width * shrink)), max(1, round(height * shrink))
        if min(size) < self.min_face:
            return [[] for _ in images]
        if shrink < 1:
            images = [_shrink(image, size) for image in images]
        scale = np.array([width / size[0], height / size[1]] * 2)
        batch = max(1, BATCH_PIXELS // (size[0] * size[1]))
        found: list[list[Box]] = []
        for start in range(0, len(images), batch):
            stack = np.stack([brighten(image) for image in images[start : start + batch]])
            for boxes in apply_in_parts(self._detect, stack):
                boxes = np.zeros((0, 4)) if boxes is None else boxes.astype(float)
                found.append([tuple(box) for box in (boxes * scale).tolist()])
        return found

    @torch.inference_mode()
    def _detect(self, images: np.ndarray) -> np.ndarray:
        return self.network.detect(images)[0]


def follow_faces(
    frames: Iterable[Frame],
    find: Find,
    rule: CropRule,
    size: int,
    key_stride: int = KEY_STRIDE,
    search_stride: int = SEARCH_STRIDE,
) -> list[Person]:
    """Find and follow the people in a video and cut their crops.

    Someone who is found on a single key frame, in a video where others are found on more, is taken
    for a false alarm and left out.

    Args:
        frames: In the order of time; a few are held at once.
        find: Finds faces on key frames, as `FaceFinder.find`.
        rule: Where crops are cut.
        size: Side of the crops in pixels.
        key_stride: Frames from one key frame to the next; twice as many where faces keep still.
        search_stride: Key frames from one that is searched for faces of all sizes to the next; on
            the others, only faces at least half as high as the smallest one known are sure to be
            found, unless there are none.

    Returns:
        The people, in the order of their first appearance.
    """
    people: list[Person] = []
    waiting: list[Frame] = []
    found: list[list[Box] | None] = []
    for run, keys in _runs(frames, key_stride):
        found += _look(keys, found, people, find, search_stride)
        for key, boxes in zip(keys, found[-len(keys) :], strict=True):
            _assign(boxes, key.time, people)
        # Frames since somebody was missed are kept until they are found again or given up.
        missed = [person for person in people if 0 < person.missed <= MAX_MISSED_KEYS]
        settled = min((person.keys[-1][0] for person in missed), default=run[-1].time)
        waiting += run
        _show([frame for frame in waiting if frame.time <= settled], people, rule, size)
        waiting = [frame for frame in waiting if frame.time > settled]
    _show(waiting, people, rule, size)
    most = max((len(person.keys) for person in people), default=0)
    return [person for person in people if len(person.keys) >= min(most, 2)]


def follow_boxes(
    frames: Iterable[Frame], others: Sequence[Person], rule: CropRule, size: int
) -> list[Person]:
    """Cut crops at the boxes of the people of another video of the same scene, as its original.

    Args:
        frames: Of the numbers that show these people.
        others: The people that were followed in the other video.
        rule: Where crops are cut.
        size: Side of the crops in pixels.

    Returns:
        As many people, in the same order; one of whom there are no frames has no crops.
    """
    people = [Person() for _ in others]
    boxes = [dict(zip(other.numbers, other.boxes, strict=True)) for other in others]
    for frame in frames:
        for person, known in zip(people, boxes, strict=True):
            if frame.number in known:
                person.show(frame, known[frame.number], rule, size)
    return people


def cut_crop(image: np.ndarray, square: tuple[float, float, float], size: int) -> torch.Tensor:
    """Cut a square from an image and resize it; what lies outside repeats the image's border.

    Args:
        image: RGB uint8 of shape (height, width, 3).
        square: Left edge, top edge and side in pixels.
        size: Side of the result in pixels.

    Returns:
        RGB uint8 tensor of shape (3, size, size).
    """
    left, top, side = square
    offsets = np.arange(max(1, round(side)))
    rows = np.clip(round(top) + offsets, 0, image.shape[0] - 1)
    columns = np.clip(round(left) + offsets, 0, image.shape[1] - 1)
    return resize_crop(to_tensor(image[rows[:, None], columns]), size)


def to_tensor(image: np.ndarray) -> torch.Tensor:
    """Turn an RGB uint8 image of shape (height, width, 3) into a tensor (3, height, width)."""
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)


def resize_crop(crop: torch.Tensor, size: int) -> torch.Tensor:
    """Resize a uint8 crop (3, height, width) to (3, size, size), bilinear with antialiasing."""
    return functional.resize(crop, [size, size], antialias=True)


def brighten(image: np.ndarray) -> np.ndarray:
    """Lift the shadows of a dark image, for the face finder only; other images stay as they are.

    MTCNN misses most faces in the challenge's very dark clips and finds them after this gamma
    correction, which unlike a stretch does not blow out a face that is lit in a dark room.

    Args:
        image: RGB uint8 of shape (height, width, 3).
    """
    if np.percentile(image[::4, ::4], 99.5) >= DARK:
        return image
    levels = np.arange(256) / 255
    return cv2.LUT(image, np.round(255 * np.sqrt(levels)).astype(np.uint8))


def interpolate_box(times: Sequence[float], boxes: Sequence[Box], time: float) -> Box | None:
    """A face's box at a time between those that are known; None before and after them."""
    if not times[0] <= time <= times[-1]:
        return None
    return tuple(float(np.interp(time, times, edge)) for edge in np.array(boxes).T)


def iou(first: Box, second: Box) -> float:
    """Area of the intersection of two boxes / area of their union, 0 to 1."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return width * height / (sum(areas) - width * height)


class _InParts(nn.Module):
    """A stage of MTCNN that looks at a bounded number of candidates at a time.

    A picture of a stadium has tens of thousands, and would take gigabytes.
    """

    def __init__(self, stage: nn.Module):
        super().__init__()
        self.stage = stage

    def forward(self, candidates: torch.Tensor) -> tuple[torch.Tensor, ...]:
        parts = [self.stage(part) for part in candidates.split(CANDIDATES)]
        return tuple(torch.cat(outputs) for outputs in zip(*parts, strict=True))


def _shrink(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Shrink an image to (width, height) by the mean over areas, by halves first: much faster."""
    while image.shape[1] >= 2 * size[0] and image.shape[0] >= 2 * size[1]:
        half = image.shape[1] // 2, image.shape[0] // 2
        image = cv2.resize(image, half, interpolation=cv2.INTER_AREA)
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def _runs(frames: Iterable[Frame], key_stride: int) -> Iterator[tuple[list[Frame], list[Frame]]]:
    """Runs of frames that fit into memory, each with its key frames.

    A run ends with a key frame, so that boxes can be interpolated between those.
    """
    run: list[Frame] = []
    keys: list[Frame] = []
    for position, frame in enumerate(frames):
        run.append(frame)
        if position % key_stride == 0:
            keys.append(frame)
            if len(run) >= RUN_FRAMES or len(run) * frame.image.nbytes >= RUN_BYTES:
                yield run, keys
                run, keys = [], []
    if run:
        yield run, keys if keys and keys[-1] is run[-1] else [*keys, run[-1]]


def _look(
    keys: list[Frame],
    earlier: list[list[Box] | None],
    people: list[Person],
    find: Find,
    search_stride: int,
) -> list[list[Box] | None]:
    """Boxes on each key frame: of all sizes where it is searched, or where nobody known is.

    Every second one comes first; one between two that show the same faces in nearly the same places
    is not looked at unless it is to be searched, and has None. `earlier` are the boxes on all key
    frames before these.
    """
    first, last = len(earlier), len(earlier) + len(keys) - 1
    boxes = earlier + [None] * len(keys)

    def look(wanted: Iterable[int], smallest: float | None) -> None:
        wanted = list(wanted)
        found = find([keys[number - first].image for number in wanted], smallest)
        for number, one in zip(wanted, found, strict=True):
            boxes[number] = one

    def look_closer(wanted: Iterable[int]) -> None:
        wanted = [number for number in wanted if boxes[number] is None]
        if heights:
            look(wanted, min(heights))
        look((number for number in wanted if not boxes[number]), None)

    numbers = range(first, last + 1)
    look((number for number in numbers if number % search_stride == 0), None)
    known = [person.keys[-1][1] for person in people if person.missed <= MAX_MISSED_KEYS]
    heights = [bottom - top for _, top, _, bottom in chain(known, *filter(None, boxes[first:]))]
    look_closer(number for number in numbers if number % 2 == 0 or number == last)
    look_closer(
        number
        for number in numbers
        if boxes[number] is None and not _all_stay(boxes[number - 1], boxes[number + 1])
    )
    return boxes[first:]


def _all_stay(before: list[Box], after: list[Box]) -> bool:
    """Whether two key frames show the same faces, at least one, in nearly the same places."""
    return 0 < len(before) == len(after) and all(
        any(iou(one, other) >= STILL_IOU for other in after) for one in before
    )


def _assign(boxes: list[Box] | None, time: float, people: list[Person]) -> None:
    """Give each box to the person whose last box it overlaps most, else to a new person.

    A key frame that was not looked at, None, shows those whom the one before showed.
    """
    live = [person for person in people if person.missed <= MAX_MISSED_KEYS]
    if boxes is None:
        for person in live:
            person.missed += person.missed > 0
        return
    overlaps = [
        (iou(_grown(person.keys[-1][1]), _grown(box)), row, column)
        for row, person in enumerate(live)
        for column, box in enumerate(boxes)
    ]
    owners: dict[int, Person] = {}
    for overlap, row, column in sorted(overlaps, reverse=True):
        free = column not in owners and live[row] not in owners.values()
        if overlap >= SAME_PERSON_IOU and free:
            owners[column] = live[row]
    for person in live:
        person.missed += 1
    for column, box in enumerate(boxes):
        if column not in owners:
            owners[column] = Person()
            people.append(owners[column])
        owners[column].keys.append((time, box))
        owners[column].missed = 0


def _grown(box: Box) -> Box:
    """The box of twice the width and height about the same centre."""
    left, top, right, bottom = box
    half_width, half_height = (right - left) / 2, (bottom - top) / 2
    return left - half_width, top - half_height, right + half_width, bottom + half_height


def _show(frames: list[Frame], people: list[Person], rule: CropRule, size: int) -> None:
    """Add everyone's box and crop on the frames between the key frames that show them."""
    for frame in frames:
        for person in people:
            box = person.box_at(frame.time)
            if box is not None:
                person.show(frame, box, rule, size)
