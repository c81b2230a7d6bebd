"""Align faces: turn and scale a face so that its landmarks lie near the points of a template.

The landmarks are the eyes, the nose and the corners of the mouth. The template says where in the
crop each landmark should lie.
"""

from functools import cache

import cv2
import numpy as np
import torch
from facenet_pytorch.models.mtcnn import ONet

from dfdetect.faces.geometry import CropFormat

# The third network of MTCNN takes square images with this side in pixels.
STAGE_PIXELS = 48
# The network's inputs are (pixels - GREY) / SPREAD, which are between -1 and 1.
GREY, SPREAD = 127.5, 128.0


@torch.inference_mode()
def find_landmarks(face: np.ndarray) -> np.ndarray:
    """Return the positions of eyes, nose and corners of the mouth in a square image of a face.

    The third and last network of MTCNN (Zhang et al. 2016) finds these five points.

    Args:
        face: RGB uint8 of shape (side, side, 3): a square around the face, about as large as the
            box that MTCNN finds.

    Returns:
        float64 of shape (5, 2): x and y of each point, divided by `side`. The points are the left
        eye, the right eye, the nose, and the left and the right corner of the mouth. Left and right
        are the sides of the image.
    """
    small = cv2.resize(face, (STAGE_PIXELS, STAGE_PIXELS), interpolation=cv2.INTER_AREA)
    pixels = torch.from_numpy(small).permute(2, 0, 1)[None].float()
    _, found, _ = _last_stage()((pixels - GREY) / SPREAD)
    return found[0].double().numpy().reshape(2, 5).T


def align(image: np.ndarray, points: np.ndarray, crop: CropFormat) -> np.ndarray:
    """Cut a face from an image so that the face's landmarks lie near the points of a template.

    The face is turned, scaled and moved, but not distorted. The sum of the landmarks' squared
    distances from the template is minimal (Umeyama 1991).

    Args:
        image: RGB uint8 of shape (height, width, 3).
        points: The landmarks of the face, of shape (5, 2): x and y in pixels, in the order of
            `find_landmarks`.
        crop: The format of the crop. The crop rule `crop.rule` must have a template.

    Returns:
        The crop: RGB uint8 of shape (height, width, 3). Outside the image, the crop repeats the
        image's border if `crop.rule.border` is `repeat`, and is black otherwise.
    """
    height, width = crop.size, crop.resize.width(crop.size)
    template = np.array(crop.rule.template) * (width, height)
    matrix = similarity(points, template)
    border = cv2.BORDER_REPLICATE if crop.rule.border == "repeat" else cv2.BORDER_CONSTANT
    return cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=border)


def similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return the rotation, scaling and translation that best map source points to target points.

    Best means the smallest sum of squared distances (Umeyama 1991).

    Args:
        source: Points of shape (n, 2).
        target: Points of shape (n, 2), in the same order.

    Returns:
        A matrix of shape (2, 3). Its product with (x, y, 1) is the mapped point.

    Example:
        >>> similarity(np.array([[0, 0], [1, 0]]), np.array([[1, 1], [1, 3]])).round(6) + 0.0
        array([[ 0., -2.,  1.],
               [ 2.,  0.,  1.]])
    """
    # If points are complex numbers, a rotation with scaling is a multiplication by one number.
    start, end = (np.asarray(points, dtype=np.float64) @ (1, 1j) for points in (source, target))
    centred = start - start.mean()
    factor = np.vdot(centred, end - end.mean()) / max(np.vdot(centred, centred).real, 1e-12)
    move = end.mean() - factor * start.mean()
    a, b = factor.real, factor.imag
    return np.array([[a, -b, move.real], [b, a, move.imag]])


@cache
def _last_stage() -> ONet:
    return ONet().eval()
