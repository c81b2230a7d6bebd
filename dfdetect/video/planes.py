"""Draw on pictures in YUV 4:2:0, the pixel format that video encoders take.

Converting a frame to RGB and back would take longer than the drawing itself.
"""

from copy import copy
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    import av

FORMAT = "yuv420p"
# OpenCV's name for each number of counter-clockwise quarter turns.
TURNS = {1: cv2.ROTATE_90_COUNTERCLOCKWISE, 2: cv2.ROTATE_180, 3: cv2.ROTATE_90_CLOCKWISE}
# Each value of a plane belongs to a square of pixels. These are the sides of the squares: one pixel
# in the brightness plane, and two pixels in each of the two colour planes.
STEPS = (1, 2, 2)


class Planes:
    """A picture in YUV 4:2:0 that can be drawn on.

    Args:
        frame: A PyAV frame in the format yuv420p with even width and height. Drawing changes this
            frame.

    Attributes:
        frame: The PyAV frame.
        planes: Three uint8 arrays that share memory with `frame`: the brightness plane of shape
            (height, width) and two colour planes of shape (height / 2, width / 2).

    Example:
        >>> picture = Planes.of_rgb(np.zeros((48, 64, 3), np.uint8))
        >>> picture.fill((10, 10, 30, 20), Planes.colour((255, 0, 0)))
        >>> picture.frame.to_ndarray(format="rgb24").shape
        (48, 64, 3)
    """

    def __init__(self, frame: "av.VideoFrame"):
        self.frame = frame
        self.planes = [
            np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)[
                : plane.height, : plane.width
            ]
            for plane in frame.planes
        ]

    @classmethod
    def of_size(cls, width: int, height: int) -> "Planes":
        """Return a picture with undefined content. Width and height, in pixels, must be even."""
        import av

        return cls(av.VideoFrame(width, height, FORMAT))

    @classmethod
    def of_rgb(cls, image: np.ndarray) -> "Planes":
        """Return an RGB uint8 image of shape (height, width, 3) as a picture in YUV 4:2:0.

        The height and the width must be even.
        """
        import av

        return cls(av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=FORMAT))

    @staticmethod
    def colour(rgb: tuple[int, int, int]) -> tuple[int, int, int]:
        """Return the Y, U and V values (0 to 255) of an RGB colour, one value for each plane."""
        first, second, third = Planes.of_rgb(np.full((2, 2, 3), rgb, np.uint8)).planes
        return int(first[0, 0]), int(second[0, 0]), int(third[0, 0])

    def place(self, frame: "av.VideoFrame", width: int, height: int) -> None:
        """Turn a frame upright, resize it, and draw it into the picture's top left corner.

        If `width` is odd, the last column of the resized frame is drawn twice. If `height` is odd,
        the last row is drawn twice.

        Args:
            frame: A PyAV frame of any format and size.
            width: Width of the resized upright frame in pixels.
            height: Height of the resized upright frame in pixels.
        """
        turns = round(frame.rotation / 90) % 4
        for target, source, step in zip(
            self.planes, Planes(frame.reformat(format=FORMAT)).planes, STEPS, strict=True
        ):
            upright = cv2.rotate(source, TURNS[turns]) if turns else source
            size = -(-width // step), -(-height // step)
            if upright.shape[::-1] != size:
                much_smaller = 2 * size[0] < upright.shape[1]
                way = cv2.INTER_AREA if much_smaller else cv2.INTER_LINEAR
                upright = cv2.resize(upright, size, interpolation=way)
            target[: size[1], : size[0]] = upright
        brightness = self.planes[0]
        if width % 2:
            brightness[:height, width] = brightness[:height, width - 1]
        if height % 2:
            brightness[height, : width + 1] = brightness[height - 1, : width + 1]

    def paste(self, other: "Planes", left: int, top: int) -> None:
        """Draw another picture into this picture.

        The parts of the other picture that lie outside this picture are not drawn.

        Args:
            other: The picture to draw.
            left: The column of this picture at which the left edge of `other` is drawn, in pixels.
                An odd number is rounded down to an even number.
            top: The row of this picture at which the top edge of `other` is drawn, in pixels. An
                odd number is rounded down to an even number.
        """
        for target, source, step in zip(self.planes, other.planes, STEPS, strict=True):
            part = target[2 * (top // 2) // step :, 2 * (left // 2) // step :]
            rows, columns = (min(pair) for pair in zip(part.shape, source.shape, strict=True))
            part[:rows, :columns] = source[:rows, :columns]

    def fill(self, box: tuple[int, int, int, int], colour: tuple[int, int, int]) -> None:
        """Fill a rectangle with a colour. Parts of the rectangle outside the picture are ignored.

        Args:
            box: Left, top, right and bottom in pixels. Odd numbers are rounded down to even
                numbers.
            colour: The Y, U and V values of the colour, such as the result of `Planes.colour`.
        """
        left, top, right, bottom = (2 * (max(edge, 0) // 2) for edge in box)
        for plane, value, step in zip(self.planes, colour, STEPS, strict=True):
            plane[top // step : bottom // step, left // step : right // step] = value

    def outline(
        self, box: tuple[int, int, int, int], colour: tuple[int, int, int], thickness: int
    ) -> None:
        """Draw the outline of a rectangle, on the inner side of the rectangle's edges.

        Args:
            box: Left, top, right and bottom in pixels. Odd numbers are rounded down to even
                numbers.
            colour: The Y, U and V values of the colour, such as the result of `Planes.colour`.
            thickness: Thickness of the outline in pixels, an even number.
        """
        left, top, right, bottom = (2 * (edge // 2) for edge in box)
        self.fill((left, top, right, top + thickness), colour)
        self.fill((left, bottom - thickness, right, bottom), colour)
        self.fill((left, top, left + thickness, bottom), colour)
        self.fill((right - thickness, top, right, bottom), colour)

    def left_part(self, width: int) -> "Planes":
        """Return the left part of the picture. Drawing on this part changes the picture.

        Args:
            width: Width of the part in pixels. An odd number is rounded down to an even number.
        """
        part = copy(self)
        part.planes = [
            plane[:, : 2 * (width // 2) // step]
            for plane, step in zip(self.planes, STEPS, strict=True)
        ]
        return part
