"""Ways to damage crops: JPEG compression, low resolution, darkness and blur."""

from collections.abc import Callable

import cv2
import numpy as np

from dfdetect.defaults import DEGRADATIONS
from dfdetect.errors import ArgumentError
from dfdetect.faces.crops import compress_jpeg

JPEG_QUALITY = 50
BRIGHTNESS = 0.6


def require_degradation(name: str | None) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function that takes a crop and returns a damaged copy.

    A crop is RGB uint8 of shape (height, width, 3).

    Args:
        name: The damage: `jpeg` (compressed as JPEG of quality 50), `half` (resized to half the
            size and back) or `dark` (40 % darker). If `name` is None, the returned function returns
            the crop unchanged.

    Raises:
        ArgumentError: The name is unknown.

    Example:
        >>> darker = require_degradation("dark")(crop)
    """
    ways = dict(zip(DEGRADATIONS, (_as_jpeg, _at_half_size, _darker), strict=True))
    if name is not None and name not in ways:
        raise ArgumentError(f"degrade must be {', '.join(DEGRADATIONS)}, not {name!r}")
    return _unchanged if name is None else ways[name]


def shrink(image: np.ndarray, side: float) -> np.ndarray:
    """Return a copy of a square crop that has less detail but the same size.

    The crop is resized to `side` x `side` pixels and back. A crop that is not larger than `side` is
    returned unchanged.

    Example:
        >>> shrink(crop, 56).shape == crop.shape
        True
    """
    small = max(1, round(side))
    if small >= len(image):
        return image
    shrunk = cv2.resize(image, (small, small), interpolation=cv2.INTER_AREA)
    return cv2.resize(shrunk, image.shape[1::-1], interpolation=cv2.INTER_LINEAR)


def darken(image: np.ndarray, share: float) -> np.ndarray:
    """Return a copy of an image with all pixel values multiplied by `share`, 0 to 1."""
    return np.round(share * image).astype(np.uint8)


def blur(image: np.ndarray, width: float) -> np.ndarray:
    """Return a copy of an image that is blurred by a Gaussian.

    The standard deviation of the Gaussian is `width` times the height of the image.
    """
    return cv2.GaussianBlur(image, (0, 0), width * len(image))


def _unchanged(image: np.ndarray) -> np.ndarray:
    return image


def _as_jpeg(image: np.ndarray) -> np.ndarray:
    return compress_jpeg(image, JPEG_QUALITY)


def _at_half_size(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    small = cv2.resize(image, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)


def _darker(image: np.ndarray) -> np.ndarray:
    return darken(image, BRIGHTNESS)
