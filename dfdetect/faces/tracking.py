"""frames -> people: find faces, follow them from frame to frame, cut crops for a model.

Finding costs much, so it is done on downscaled copies of some key frames, and most of those are
shrunk further, as far as the faces that are known by then allow. Boxes on neighbouring key frames
that overlap are one person, as in the IoU tracker of Bochinski et al. (2017); boxes on the frames
between are interpolated. Crops come from the full frames.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
import torch

from dfdetect.faces.crops import cut_crop
from dfdetect.faces.geometry import CropRule, interpolate_box, iou
from dfdetect.results import Box
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
# Key frames in a row on which a person may be missed: those between two searches.
MAX_MISSED_KEYS = SEARCH_STRIDE - 1
# Overlap of a face's boxes on two key frames between which it is not looked at.
STILL_IOU = 0.7
# Overlap of two boxes, each grown to twice its size, that are one person: one who moves by a whole
# face from key frame to key frame still is.
SAME_PERSON_IOU = 0.33


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
