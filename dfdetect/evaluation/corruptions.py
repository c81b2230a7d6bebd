"""Ways to spoil crops, as compression and dark rooms do."""

from collections.abc import Callable

import cv2
import numpy as np


def _as_jpeg(image: np.ndarray) -> np.ndarray:
    _, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 50])
    return np.ascontiguousarray(cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1])


def _at_half_size(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    small = cv2.resize(image, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)


def _darker(image: np.ndarray) -> np.ndarray:
    return np.round(0.6 * image).astype(np.uint8)


DEGRADATIONS: dict[str | None, Callable[[np.ndarray], np.ndarray]] = {
    None: lambda image: image,
    "jpeg": _as_jpeg,
    "half": _at_half_size,
    "dark": _darker,
}
