"""Boxes of faces, and the part of a frame around a box that a model needs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from dfdetect.errors import ArgumentError
from dfdetect.results import Box

# A crop rule of more heights of the face than this is a mistake.
FARTHEST = 10
# What the part of a crop that lies outside the frame shows.
BORDERS = ("repeat", "zeros", "cut")
# How a crop that has another shape than the input is brought to it.
FITS = ("stretch", "pad")
# How a crop is resized, and by which function.
INTERPOLATIONS = ("bilinear", "bicubic", "linear", "area_or_cubic")
ASPECTS = (0.25, 4.0)
Points = tuple[tuple[float, float], ...]
LANDMARKS = 5


@dataclass(frozen=True)
class CropRule:
    """The part of a frame around a face that a model needs, relative to MTCNN's box of the face.

    Args:
        scale: Height of the crop / height of the box.
        shift: How far the crop's centre lies below the box's centre / height of the box.
        width: Width of the crop / width of the box; None for a square.
        longer: Whether `scale` and `shift` are relative to the longer side of the box instead of
            its height; for squares.
        border: What lies outside the frame: `repeat` repeats the frame's border, `zeros` is black,
            `cut` leaves it out, so that the crop has another shape.
        template: For a crop that is turned and scaled until the eyes, the nose and the corners of
            the mouth lie here, as nearly as they can: five points (x, y) in shares of the crop's
            width and height, first those on the left. The other fields but `border` are not used.

    The defaults give the tight framing of dlib's frontal detector, in which the challenge's face
    crops were cut.
    """

    scale: float = 0.80
    shift: float = 0.08
    width: float | None = None
    longer: bool = False
    border: str = "repeat"
    template: Points | None = None

    def __post_init__(self) -> None:
        """Refuse rules that are a mistake."""
        if not (0 < self.scale < FARTHEST and abs(self.shift) < FARTHEST):
            raise ArgumentError(
                f"crop.scale must be above 0, and scale and shift below {FARTHEST}, not {self}"
            )
        if self.width is not None and (self.longer or not 0 < self.width < FARTHEST):
            raise ArgumentError(
                f"crop.width must be above 0 and below {FARTHEST}, and missing if `longer` is "
                f"given, not {self.width}"
            )
        if self.border not in BORDERS or type(self.longer) is not bool:
            raise ArgumentError(
                f"crop.border must be one of {BORDERS} and crop.longer true or false, not {self}"
            )
        if self.template is not None:
            template = tuple((float(x), float(y)) for x, y in self.template)
            if len(template) != LANDMARKS or not np.isfinite(template).all():
                raise ArgumentError(f"crop.template must be five points (x, y), not {template}")
            object.__setattr__(self, "template", template)  # JSON has lists

    def rectangle(self, box: Box) -> tuple[float, float, float, float]:
        """Return left, top, width and height of the crop for a box (x1, y1, x2, y2), in pixels.

        Example:
            >>> CropRule(scale=1.5, shift=0.0, width=1.2).rectangle((100, 100, 200, 220))
            (90.0, 70.0, 120.0, 180.0)
        """
        x1, y1, x2, y2 = box
        unit = max(x2 - x1, y2 - y1) if self.longer else y2 - y1
        height = self.scale * unit
        width = height if self.width is None else self.width * (x2 - x1)
        centre_x, centre_y = (x1 + x2) / 2, (y1 + y2) / 2 + self.shift * unit
        return centre_x - width / 2, centre_y - height / 2, width, height

    def describe(self) -> str:
        """Return the rule in a few words.

        Example:
            >>> CropRule(scale=1.5, width=1.2).describe()
            'crop 1.2 x 1.5 of the box'
        """
        if self.template is not None:
            return "crop aligned by five points"
        if self.width is not None:
            return f"crop {self.width:.3g} x {self.scale:.3g} of the box"
        side = "longer side" if self.longer else "height"
        return f"square crop {self.scale:.3g} of the box's {side}"


@dataclass(frozen=True)
class ResizeRule:
    """How a crop is brought to the size of a model's input.

    Args:
        aspect: Width / height of the input.
        fit: `stretch` resizes both sides to the input's; `pad` keeps the crop's shape and puts it
            into the middle of black.
        interpolation: `bilinear` and `bicubic` average over the pixels that become one (as Pillow
            does), `linear` does not (as OpenCV does), `area_or_cubic` is OpenCV's mean over areas
            for shrinking and its cubic interpolation for enlarging.
    """

    aspect: float = 1.0
    fit: str = "stretch"
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        """Refuse rules that no function follows."""
        if not ASPECTS[0] <= self.aspect <= ASPECTS[1]:
            raise ArgumentError(f"resize.aspect must be 0.25 to 4, not {self.aspect!r}")
        if self.fit not in FITS or self.interpolation not in INTERPOLATIONS:
            raise ArgumentError(
                f"resize.fit must be one of {FITS} and resize.interpolation one of "
                f"{INTERPOLATIONS}, not {self.fit!r} and {self.interpolation!r}"
            )

    def width(self, height: int) -> int:
        """Return the width in pixels of an input of this height."""
        return round(height * self.aspect)


class CropFormat(NamedTuple):
    """The format of the crops that a model takes.

    Attributes:
        rule: Which part of a frame around a face is cut out.
        size: Height in pixels that the part is resized to.
        resize: How it is resized, and its width.
    """

    rule: CropRule
    size: int
    resize: ResizeRule = ResizeRule()


def interpolate_box(times: Sequence[float], boxes: Sequence[Box], time: float) -> Box | None:
    """Interpolate a face's box at a time; return None before the first and after the last box."""
    if not times[0] <= time <= times[-1]:
        return None
    x1, y1, x2, y2 = (float(np.interp(time, times, edge)) for edge in np.array(boxes).T)
    return x1, y1, x2, y2


def iou(first: Box, second: Box) -> float:
    """Return the area of the intersection of two boxes / the area of their union, 0 to 1."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return width * height / (sum(areas) - width * height)
