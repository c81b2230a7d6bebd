"""Boxes of faces, and the rules by which crops are cut around boxes and resized."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from dfdetect.errors import ArgumentError
from dfdetect.results import Box

# Limit of the scale, shift and width in a crop rule. Larger values must be mistakes.
FARTHEST = 10
# The allowed values of `CropRule.border`, `ResizeRule.fit` and `ResizeRule.interpolation`, and the
# limits of `ResizeRule.aspect`.
BORDERS = ("repeat", "zeros", "cut")
FITS = ("stretch", "pad")
INTERPOLATIONS = ("bilinear", "bicubic", "linear", "area_or_cubic")
ASPECTS = (0.25, 4.0)
# The allowed values of `ResizeRule.jpeg`.
JPEG_SIDES, JPEG_QUALITIES = range(16, 1025), range(1, 101)
Points = tuple[tuple[float, float], ...]
LANDMARKS = 5


@dataclass(frozen=True)
class CropRule:
    """The rule by which a crop is cut around a face, starting from the box that MTCNN finds.

    With the default values, a crop shows only the face, like a box of dlib's frontal face detector.

    Args:
        scale: Height of the crop, divided by the height of the box.
        shift: Distance by which the crop's centre lies below the box's centre, divided by the
            height of the box.
        width: Width of the crop, divided by the width of the box. None means a square crop.
        longer: Whether `scale` and `shift` are relative to the longer side of the box instead of
            its height. This may be True only for square crops.
        border: What happens if the crop reaches beyond the frame. With `repeat`, the outer part of
            the crop repeats the frame's border. With `zeros`, the outer part is black. With `cut`,
            the crop ends at the frame's border, and is smaller.
        template: The points of the crop at which five landmarks should lie: left eye, right eye,
            nose, left and right corner of the mouth. A point is (x, y), in shares of the crop's
            width and height. With a template, the face is turned, scaled and moved so that the
            landmarks lie near these points. `scale`, `shift`, `width` and `longer` are then
            ignored, and `cut` has the effect of `zeros`.
    """

    scale: float = 0.80
    shift: float = 0.08
    width: float | None = None
    longer: bool = False
    border: str = "repeat"
    template: Points | None = None

    def __post_init__(self) -> None:
        """Raise ArgumentError if a value is outside its limits."""
        if not (0 < self.scale < FARTHEST and abs(self.shift) < FARTHEST):
            raise ArgumentError(
                f"crop.scale must be above 0 and below {FARTHEST}, and crop.shift between "
                f"-{FARTHEST} and {FARTHEST}, not {self.scale} and {self.shift}"
            )
        if self.width is not None and (self.longer or not 0 < self.width < FARTHEST):
            raise ArgumentError(
                f"crop.width must be above 0 and below {FARTHEST}, and must be left out if "
                f"crop.longer is true, not {self.width}"
            )
        if self.border not in BORDERS or type(self.longer) is not bool:
            raise ArgumentError(
                f"crop.border must be one of {BORDERS} and crop.longer true or false, not {self}"
            )
        if self.template is not None:
            template = tuple((float(x), float(y)) for x, y in self.template)
            if len(template) != LANDMARKS or not np.isfinite(template).all():
                raise ArgumentError(f"crop.template must be five points (x, y), not {template}")
            object.__setattr__(self, "template", template)  # a template from JSON is a list

    def rectangle(self, box: Box) -> tuple[float, float, float, float]:
        """Return the left edge, top edge, width and height of the crop around a box, in pixels.

        The box is (x1, y1, x2, y2) in pixels.

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
        """Return a short description of the rule for people to read.

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
    """The rule by which a crop is resized to the size of a model's input.

    Args:
        aspect: Width of the input, divided by its height.
        fit: `stretch` resizes width and height independently. `pad` keeps the crop's aspect ratio,
            and fills the rest of the input with black.
        interpolation: `bilinear` and `bicubic` are as in Pillow, with antialiasing. `linear` is
            OpenCV's `INTER_LINEAR`, without antialiasing. `area_or_cubic` is OpenCV's `INTER_AREA`
            if the crop is shrunk, and its `INTER_CUBIC` if the crop is enlarged.
        jpeg: Side in pixels and quality (1 to 100), or None. The crop is first resized to a square
            of this side, and compressed as JPEG of this quality, like the crops of a face set. This
            requires that `aspect` is 1 and `fit` is `stretch`.
    """

    aspect: float = 1.0
    fit: str = "stretch"
    interpolation: str = "bilinear"
    jpeg: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        """Raise ArgumentError if a value is unknown or outside its limits."""
        if not ASPECTS[0] <= self.aspect <= ASPECTS[1]:
            raise ArgumentError(f"resize.aspect must be 0.25 to 4, not {self.aspect!r}")
        if self.fit not in FITS or self.interpolation not in INTERPOLATIONS:
            raise ArgumentError(
                f"resize.fit must be one of {FITS} and resize.interpolation one of "
                f"{INTERPOLATIONS}, not {self.fit!r} and {self.interpolation!r}"
            )
        if self.jpeg is None:
            return
        pair = tuple(self.jpeg) if isinstance(self.jpeg, list | tuple) else ()
        if [type(value) for value in pair] != [int, int] or not (
            pair[0] in JPEG_SIDES and pair[1] in JPEG_QUALITIES
        ):
            raise ArgumentError(
                f"resize.jpeg must be a side of {JPEG_SIDES[0]} to {JPEG_SIDES[-1]} pixels and "
                f"a quality of 1 to 100, both whole numbers, not {self.jpeg!r}"
            )
        if self.fit != "stretch" or self.aspect != 1.0:
            raise ArgumentError(
                "resize.jpeg makes crops square: resize.fit must then be 'stretch' and "
                f"resize.aspect 1, not {self.fit!r} and {self.aspect!r}"
            )
        object.__setattr__(self, "jpeg", pair)  # a pair from JSON is a list

    def width(self, height: int) -> int:
        """Return the width in pixels of a model input with the height `height` in pixels."""
        return round(height * self.aspect)


class CropFormat(NamedTuple):
    """The format of the crops that a model takes.

    Attributes:
        rule: The rule that says which part of a frame is cut out around a face.
        size: Height in pixels to which this part is resized.
        resize: The rule by which this part is resized. It also determines the width.
    """

    rule: CropRule
    size: int
    resize: ResizeRule = ResizeRule()


def interpolate_box(times: Sequence[float], boxes: Sequence[Box], time: float) -> Box | None:
    """Return the box of a face at a time, interpolated linearly between known boxes.

    Args:
        times: Times of the known boxes, in increasing order.
        boxes: The box (x1, y1, x2, y2) at each of these times.
        time: The time of the box to return.

    Returns:
        The box, or None if `time` is before the first or after the last of `times`.
    """
    if not times[0] <= time <= times[-1]:
        return None
    x1, y1, x2, y2 = (float(np.interp(time, times, edge)) for edge in np.array(boxes).T)
    return x1, y1, x2, y2


def iou(first: Box, second: Box) -> float:
    """Return the intersection over union of two boxes (x1, y1, x2, y2), 0 to 1."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return width * height / (sum(areas) - width * height)
