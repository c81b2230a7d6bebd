"""Detect faces in frames."""

from collections.abc import Sequence
from itertools import groupby
from typing import Protocol, TypeAlias, runtime_checkable

import cv2
import numpy as np
import torch

from dfdetect.faces.mtcnn import Cascade, pyramid, shrink
from dfdetect.results import Box

# Left, top, right and bottom of a part of an image, in whole pixels.
Square: TypeAlias = tuple[int, int, int, int]
# Maximum number of pixels in a batch of shrunk frames.
BATCH_PIXELS = 8 * 2**20
# An image is dark, and is brightened, if at most the share BRIGHT_SHARE of its values reaches the
# level DARK. Levels are 0 to 255.
BRIGHT_SHARE = 0.005
DARK = 128


class FaceDetector(Protocol):
    """The interface of face detectors. `Detector` can use any object with the method `detect`."""

    def detect(
        self, images: Sequence[np.ndarray], smallest: float | None = None
    ) -> list[list[Box]]:
        """Return the boxes of the faces in images.

        Args:
            images: RGB uint8 arrays of shape (height, width, 3), which may differ in size.
            smallest: Height in pixels of the smallest face that the caller expects in the images.
                The detector may miss faces of less than half that height. None means that the
                detector looks for faces of all sizes.

        Returns:
            One list per image with the boxes of its faces: x1, y1, x2, y2 in pixels of the image.
        """
        ...


@runtime_checkable
class NearbyFaceDetector(FaceDetector, Protocol):
    """The interface of face detectors that can also look for faces near given boxes.

    With such a face detector, `Detector` searches fewer whole frames.
    """

    def detect_nearby(
        self, images: Sequence[np.ndarray], boxes: Sequence[Sequence[Box]]
    ) -> list[list[Box | None]]:
        """Return the boxes of faces near given boxes, such as boxes on an earlier frame.

        Args:
            images: RGB uint8 arrays of shape (height, width, 3), which may differ in size.
            boxes: For each image, the boxes near which faces are expected: x1, y1, x2, y2 in pixels
                of the image.

        Returns:
            One list per image, with one entry per given box: the box of the face that was found
            near the given box, or None if no face was found there.
        """
        ...


class MTCNNDetector:
    """The face detector MTCNN (Zhang et al. 2016), run on downscaled copies of frames.

    Args:
        device: The device on which the networks run.
        max_side: Frames are shrunk until their longer side has at most this many pixels.
        min_face: Height of the smallest face that the detector finds, in pixels of the shrunk
            frame.
        thresholds: For each of MTCNN's three networks, the confidence (0 to 1) above which the
            network keeps a box.
        engine: Name of the library that runs the networks on a CPU. The function
            `dfdetect.runtime.engines.choose_engine` returns such a name.

    Example:
        >>> face_detector = MTCNNDetector(torch.device("cpu"))
        >>> face_detector.detect([frame.image])
        [[(804.1, 112.3, 986.2, 352.9)]]
    """

    def __init__(
        self,
        device: torch.device,
        max_side: int = 960,
        min_face: int = 24,
        thresholds: tuple[float, float, float] = (0.6, 0.7, 0.9),
        engine: str = "torch",
    ):
        self.max_side = max_side
        self.min_face = min_face
        self.cascade = Cascade(device, thresholds, engine)

    @classmethod
    def high_recall(cls, device: torch.device, engine: str = "torch") -> "MTCNNDetector":
        """Return a slower face detector that misses fewer faces, but gives more false alarms.

        It finds more of the faces that are dark, small or turned far to the side.
        """
        return cls(device, max_side=3840, min_face=20, thresholds=(0.5, 0.6, 0.7), engine=engine)

    def detect(
        self, images: Sequence[np.ndarray], smallest: float | None = None
    ) -> list[list[Box]]:
        """Return the boxes of the faces in images.

        Args:
            images: RGB uint8 arrays of shape (height, width, 3), which may differ in size.
            smallest: Height in pixels of the smallest face that the caller expects in the images.
                The detector may miss faces of less than half that height. None means that the
                detector looks for faces of all sizes.

        Returns:
            One list per image with the boxes of its faces: x1, y1, x2, y2 in pixels of the given
            image.
        """
        found: list[list[Box]] = []
        for _, same_size in groupby(images, key=np.shape):
            found += self._detect_in_batch(list(same_size), smallest)
        return found

    def detect_nearby(
        self, images: Sequence[np.ndarray], boxes: Sequence[Sequence[Box]]
    ) -> list[list[Box | None]]:
        """Return the boxes of faces near given boxes, such as boxes on an earlier frame.

        A face is found if it has moved by at most about a quarter of its width. The arguments and
        the result are those of `NearbyFaceDetector.detect_nearby`.

        Example:
            >>> face_detector.detect_nearby([frame.image], [[(780, 120, 960, 360)]])
            [[(804.3, 111.8, 986.4, 353.0)]]
        """
        squares = [
            [_square_around(box, image) for box in own]
            for image, own in zip(images, boxes, strict=True)
        ]
        faces = [
            brighten(image[top:bottom, left:right])
            for image, own in zip(images, squares, strict=True)
            for left, top, right, bottom in own
        ]
        answers = iter(self.cascade.check(faces).tolist())
        return [[self._corrected(square, *next(answers)) for square in own] for own in squares]

    def _corrected(self, square: Square, confidence: float, *corrections: float) -> Box | None:
        """Return the box of the face in a square, or None if the square shows no face.

        `confidence` and `corrections` are the answer of MTCNN's third network for the square: one
        row of the result of `Cascade.check`.
        """
        if confidence <= self.cascade.thresholds[2]:
            return None
        left, top, right, bottom = square
        sides = (right - left, bottom - top) * 2
        x1, y1, x2, y2 = (
            edge + correction * side
            for edge, correction, side in zip(square, corrections, sides, strict=True)
        )
        return x1, y1, x2, y2

    def _detect_in_batch(self, images: list[np.ndarray], smallest: float | None) -> list[list[Box]]:
        height, width = images[0].shape[:2]
        scale = min(1.0, self.max_side / max(height, width))
        size = max(1, round(width * scale)), max(1, round(height * scale))
        scales = pyramid(size[1], size[0], self.min_face, scale * (smallest or 0) / 2)
        enlarge = np.array([width / size[0], height / size[1]] * 2)
        batch = max(1, BATCH_PIXELS // (size[0] * size[1]))
        found: list[list[Box]] = []
        for start in range(0, len(images), batch):
            part = images[start : start + batch]
            copies = [brighten(shrink(image, size)) for image in part]
            for boxes in self.cascade.find(copies, scales):
                found.append([tuple(box) for box in (boxes * enlarge).tolist()])
        return found


def brighten(image: np.ndarray) -> np.ndarray:
    """Return a dark image brightened for the face detector, and any other image unchanged.

    MTCNN misses most faces in very dark videos, but finds them after this gamma correction.

    Args:
        image: RGB uint8 of shape (height, width, 3).
    """
    if np.mean(image[::4, ::4] >= DARK) > BRIGHT_SHARE:
        return image
    # Linear scaling would overexpose a bright face in a dark room.
    levels = np.arange(256) / 255
    return cv2.LUT(image, np.round(255 * np.sqrt(levels)).astype(np.uint8))


def _square_around(box: Box, image: np.ndarray) -> Square:
    """Return the square around a box, for MTCNN's third network.

    The result is left, top, right and bottom in whole pixels. If the square reaches beyond the
    image, it is cut off at the image's border, but contains at least one pixel.
    """
    height, width = image.shape[:2]
    x1, y1, x2, y2 = box
    half = max(x2 - x1, y2 - y1) / 2
    left, right = (round((x1 + x2) / 2 + shift) for shift in (-half, half))
    top, bottom = (round((y1 + y2) / 2 + shift) for shift in (-half, half))
    left, top = min(max(left, 0), width - 1), min(max(top, 0), height - 1)
    return left, top, min(max(right, left + 1), width), min(max(bottom, top + 1), height)
