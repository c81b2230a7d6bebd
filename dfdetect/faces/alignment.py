"""Align faces: turn and scale them until eyes, nose and mouth lie at the points of a template."""

from functools import cache

import cv2
import numpy as np
import torch
from facenet_pytorch.models.mtcnn import ONet

from dfdetect.faces.geometry import CropFormat

# Side in pixels of what the last stage of MTCNN looks at, and how it wants its pixels.
STAGE_PIXELS = 48
GREY, SPREAD = 127.5, 128.0


@torch.inference_mode()
def find_landmarks(face: np.ndarray) -> np.ndarray:
    """Find the eyes, the nose and the corners of the mouth in the square picture of a face.

    The last stage of MTCNN (Zhang et al. 2016) finds them in the square around the face's box.

    Args:
        face: RGB uint8 of shape (side, side, 3).

    Returns:
        float64 of shape (5, 2): x, y in shares of the side, first of the eye on the left of the
        picture, last of the right corner of the mouth.
    """
    small = cv2.resize(face, (STAGE_PIXELS, STAGE_PIXELS), interpolation=cv2.INTER_AREA)
    pixels = torch.from_numpy(small).permute(2, 0, 1)[None].float()
    _, found, _ = _last_stage()((pixels - GREY) / SPREAD)
    return found[0].double().numpy().reshape(2, 5).T


def align(image: np.ndarray, points: np.ndarray, crop: CropFormat) -> np.ndarray:
    """Cut a face so that its landmarks lie at those of a template.

    The face is turned, scaled and moved, but not distorted. The transform is the similarity with
    the least squared distance between landmarks and template (Umeyama 1991).

    Args:
        image: RGB uint8 of shape (height, width, 3).
        points: The landmarks, of shape (5, 2), in pixels.
        crop: The format of the crop, whose rule has the template.

    Returns:
        RGB uint8 of shape (size, width, 3); black where the image ends, unless the rule says that
        its border is repeated.
    """
    height, width = crop.size, crop.resize.width(crop.size)
    template = np.array(crop.rule.template) * (width, height)
    matrix = similarity(points, template)
    border = cv2.BORDER_REPLICATE if crop.rule.border == "repeat" else cv2.BORDER_CONSTANT
    return cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=border)


def similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return the rotation, scaling and translation that best map some points to others.

    The sum of the squared distances is the least possible (Umeyama 1991).

    Args:
        source: Shape (n, 2).
        target: Shape (n, 2).

    Returns:
        The matrix of shape (2, 3) for points (x, y, 1).

    Example:
        >>> similarity(np.array([[0, 0], [1, 0]]), np.array([[1, 1], [1, 3]])).round(6) + 0.0
        array([[ 0., -2.,  1.],
               [ 2.,  0.,  1.]])
    """
    # A turn and a scale are the multiplication by one complex number.
    start, end = (np.asarray(points, dtype=np.float64) @ (1, 1j) for points in (source, target))
    centred = start - start.mean()
    factor = np.vdot(centred, end - end.mean()) / max(np.vdot(centred, centred).real, 1e-12)
    move = end.mean() - factor * start.mean()
    a, b = factor.real, factor.imag
    return np.array([[a, -b, move.real], [b, a, move.imag]])


@cache
def _last_stage() -> ONet:
    return ONet().eval()
