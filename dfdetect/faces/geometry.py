"""Boxes of faces, and the squares that are cut around them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from dfdetect.results import Box

# Heights of the face beyond which a crop rule is a mistake.
FARTHEST = 10


@dataclass(frozen=True)
class CropRule:
    """Which square around a face the model wants, relative to MTCNN's box of it.

    Args:
        scale: Side of the square / height of the box.
        shift: How far the square's centre lies below the box's centre / height of the box.

    The defaults give the tight framing of dlib's frontal detector, in which the challenge's face
    crops were cut.
    """

    scale: float = 0.80
    shift: float = 0.08

    def square(self, box: tuple[float, float, float, float]) -> tuple[float, float, float]:
        """Left edge, top edge and side in pixels of the square for a box (x1, y1, x2, y2)."""
        x1, y1, x2, y2 = box
        height = y2 - y1
        side = self.scale * height
        centre_x, centre_y = (x1 + x2) / 2, (y1 + y2) / 2 + self.shift * height
        return centre_x - side / 2, centre_y - side / 2, side


class CropFormat(NamedTuple):
    """Which crops a model takes.

    Attributes:
        rule: Which square around a face is cut out.
        size: Side in pixels that the square is resized to.
    """

    rule: CropRule
    size: int


def interpolate_box(times: Sequence[float], boxes: Sequence[Box], time: float) -> Box | None:
    """A face's box at a time between those that are known; None before and after them."""
    if not times[0] <= time <= times[-1]:
        return None
    x1, y1, x2, y2 = (float(np.interp(time, times, edge)) for edge in np.array(boxes).T)
    return x1, y1, x2, y2


def iou(first: Box, second: Box) -> float:
    """Area of the intersection of two boxes / area of their union, 0 to 1."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return width * height / (sum(areas) - width * height)
