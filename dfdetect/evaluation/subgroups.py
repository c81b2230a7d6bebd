"""Parts of a face set that are harder than others: dark, small and turned faces."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from facenet_pytorch import MTCNN
from tqdm import tqdm

from dfdetect.data.faceset import FaceSet

# Mean level (of 255) below which a crop is dark: one in twenty of the challenge's.
DARK = 35
# Side of the crop in its video, in pixels, below which it is small.
SMALL = 112
# How far the nose lies beside the middle of the eyes, in distances of the eyes, from which a face
# is in profile: turned by some 40 degrees.
TURNED = 0.35
# MTCNN wants to see more than the face.
MARGIN = 64
MIN_FACE = 60
THRESHOLDS = (0.5, 0.6, 0.6)


@dataclass(frozen=True)
class FaceAttributes:
    """What can be seen of a crop.

    Attributes:
        brightness: Mean level, 0 to 255.
        turn: Distance of the nose from the middle of the eyes, in distances of the eyes; NaN where
            MTCNN finds no face.
    """

    brightness: float
    turn: float


class FaceAttributeEstimator:
    """Tells how dark and how turned faces are.

    Example:
        >>> FaceAttributeEstimator().estimate(crop)
        FaceAttributes(brightness=98.2, turn=0.07)
    """

    def __init__(self) -> None:
        self.network = MTCNN(min_face_size=MIN_FACE, thresholds=list(THRESHOLDS), device="cpu")

    def estimate(self, crop: np.ndarray) -> FaceAttributes:
        """Look at one crop, RGB uint8 of shape (height, width, 3)."""
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
        rows: The crops to look at.
        progress: Show a progress bar.

    Returns:
        Boolean masks over `rows`, by name: `dark`; `profile`, where the face is turned or
        MTCNN does not find it; `small`, where the index has `native_px`; and `other`, what is in
        none of them.
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
