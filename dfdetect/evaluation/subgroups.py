"""Subgroups of a face set that are harder than the rest: dark, small and turned faces."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from facenet_pytorch import MTCNN
from tqdm import tqdm

from dfdetect.data.faceset import FaceSet

# A crop whose mean level (of 255) is below this is dark: 5 % of the challenge's crops are.
DARK = 35
# A crop whose side in the video was below this number of pixels is small.
SMALL = 112
# A face is in profile if the tip of the nose is further from the midpoint between the eyes than
# this share of the distance between the eyes: it is turned by about 40 degrees.
TURNED = 0.35
# MTCNN needs some background around the face.
MARGIN = 64
MIN_FACE = 60
THRESHOLDS = (0.5, 0.6, 0.6)


@dataclass(frozen=True)
class FaceAttributes:
    """How bright a crop is, and how far its face is turned.

    Attributes:
        brightness: Mean level, 0 to 255.
        turn: Horizontal distance of the nose from the midpoint between the eyes, divided by the
            distance between the eyes; NaN if MTCNN finds no face.
    """

    brightness: float
    turn: float


class FaceAttributeEstimator:
    """Measures how bright crops are and how far their faces are turned.

    Example:
        >>> FaceAttributeEstimator().estimate(crop)
        FaceAttributes(brightness=98.2, turn=0.07)
    """

    def __init__(self) -> None:
        self.network = MTCNN(min_face_size=MIN_FACE, thresholds=list(THRESHOLDS), device="cpu")

    def estimate(self, crop: np.ndarray) -> FaceAttributes:
        """Measure one crop, RGB uint8 of shape (height, width, 3)."""
        framed = cv2.copyMakeBorder(crop, MARGIN, MARGIN, MARGIN, MARGIN, cv2.BORDER_REPLICATE)
        with torch.inference_mode():
            _, _, landmarks = self.network.detect(framed, landmarks=True)
        turn = float("nan")
        if landmarks is not None:
            left, right, nose = landmarks[0][:3]
            turn = abs(nose[0] - (left[0] + right[0]) / 2) / np.linalg.norm(right - left)
        return FaceAttributes(float(crop.mean()), float(turn))


def find_subgroups(
    faces: FaceSet, rows: Sequence[int], *, progress: bool = False
) -> dict[str, np.ndarray]:
    """Return a mask of the crops in each subgroup of a face set.

    Args:
        faces: The face set.
        rows: The rows of the crops to look at.
        progress: Show a progress bar.

    Returns:
        Boolean masks over `rows`, by name: `dark`; `profile` for faces that are turned or that
        MTCNN does not find; `small`, if the index has the column `native_px`; and `other` for crops
        that are in none of these.
    """
    estimator = FaceAttributeEstimator()
    bar = tqdm(rows, "subgroups", unit="crop", disable=not progress)
    attributes = [estimator.estimate(faces.image(row)) for row in bar]
    masks = {
        "dark": np.array([one.brightness < DARK for one in attributes]),
        "profile": np.array([not one.turn < TURNED for one in attributes]),
    }
    if "native_px" in faces.table:
        masks["small"] = faces.table["native_px"].to_numpy(float)[list(rows)] < SMALL
    masks["other"] = ~np.any(list(masks.values()), axis=0)
    return masks
