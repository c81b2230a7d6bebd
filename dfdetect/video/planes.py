"""Draw on pictures in YUV 4:2:0, the format that encoders take.

Converting each frame to RGB and back would take longer than drawing on it.
"""

from copy import copy
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    import av

FORMAT = "yuv420p"
# Counter-clockwise quarter turns, as OpenCV calls them.
TURNS = {1: cv2.ROTATE_90_COUNTERCLOCKWISE, 2: cv2.ROTATE_180, 3: cv2.ROTATE_90_CLOCKWISE}
# Side of the square of pixels that share a value, for brightness and the two colour planes.
STEPS = (1, 2, 2)


class Planes:
    """A picture in YUV 4:2:0.

    Args:
        frame: A PyAV frame in the format yuv420p with even sides; drawing changes it.

    Attributes:
        frame: The PyAV frame.
        planes: Brightness of shape (height, width), and two colour planes with half the sides;
            uint8.

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
        """Return a picture with undefined content; both sides must be even."""
        import av

        return cls(av.VideoFrame(width, height, FORMAT))

    @classmethod
    def of_rgb(cls, image: np.ndarray) -> "Planes":
        """Convert an RGB uint8 image of shape (height, width, 3) with even sides."""
        import av

        return cls(av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=FORMAT))

    @staticmethod
    def colour(rgb: tuple[int, int, int]) -> tuple[int, int, int]:
        """Convert an RGB colour to the values of the three planes."""
        first, second, third = Planes.of_rgb(np.full((2, 2, 3), rgb, np.uint8)).planes
        return int(first[0, 0]), int(second[0, 0]), int(third[0, 0])

    def place(self, frame: "av.VideoFrame", width: int, height: int) -> None:
        """Put a decoded frame, upright and resized, into the top left corner.

        If a side is odd, its last row or column is repeated once.

        Args:
            frame: A frame of any format and size.
            width: Width of the upright frame in this picture.
            height: Height of the upright frame in this picture.
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
        """Draw another picture at a place rounded to even; parts that do not fit are cut off."""
        for target, source, step in zip(self.planes, other.planes, STEPS, strict=True):
            part = target[2 * (top // 2) // step :, 2 * (left // 2) // step :]
            rows, columns = (min(pair) for pair in zip(part.shape, source.shape, strict=True))
            part[:rows, :columns] = source[:rows, :columns]

    def fill(self, box: tuple[int, int, int, int], colour: tuple[int, int, int]) -> None:
        """Fill a rectangle (left, top, right, bottom), rounded to even, with values of planes."""
        left, top, right, bottom = (2 * (max(edge, 0) // 2) for edge in box)
        for plane, value, step in zip(self.planes, colour, STEPS, strict=True):
            plane[top // step : bottom // step, left // step : right // step] = value

    def outline(
        self, box: tuple[int, int, int, int], colour: tuple[int, int, int], thickness: int
    ) -> None:
        """Draw the edges of a rectangle inside of it, with an even thickness in pixels."""
        left, top, right, bottom = (2 * (edge // 2) for edge in box)
        self.fill((left, top, right, top + thickness), colour)
        self.fill((left, bottom - thickness, right, bottom), colour)
        self.fill((left, top, left + thickness, bottom), colour)
        self.fill((right - thickness, top, right, bottom), colour)

    def left_part(self, width: int) -> "Planes":
        """Return the part up to a column, rounded to even; it shares memory with this picture."""
        part = copy(self)
        part.planes = [
            plane[:, : 2 * (width // 2) // step]
            for plane, step in zip(self.planes, STEPS, strict=True)
        ]
        return part
