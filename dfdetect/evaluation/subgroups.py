"""Subgroups of a face set that are hard to score: small, dark, blurred and turned faces."""

from collections.abc import Mapping, Sequence

import numpy as np
from tqdm import tqdm

from dfdetect.data.faceset import FaceSet
from dfdetect.faces.attributes import ATTRIBUTE_FORMAT, FaceAttributes, measure_face
from dfdetect.faces.crops import resize_crop, to_tensor
from dfdetect.scoring.reliability import BLURRED, DARK, SMALL, TURNED


def measure_attributes(
    faces: FaceSet, rows: Sequence[int], *, progress: bool = False
) -> dict[str, np.ndarray]:
    """Return the height, brightness, sharpness and turn (to the side) of faces.

    The accuracy of a detector depends on these attributes.

    Args:
        faces: The face set (labelled crops). The crops must have been cut by the default
            `CropRule`.
        rows: Row numbers of the crops to measure.
        progress: Show a progress bar.

    Returns:
        A dictionary from the name of each attribute to its values, float of shape (len(rows),).
        `FaceAttributes` describes `brightness`, `sharpness` and `turn`. `height` is the height of
        the face's bounding box in pixels of the video, or NaN if the index of the face set has no
        column `native_px`.
    """
    bar = tqdm(rows, "attributes", unit="crop", disable=not progress)
    found = [measure_crop(faces.image(row)) for row in bar]
    sides = np.full(len(faces), np.nan)
    if "native_px" in faces.table:
        sides = faces.table["native_px"].to_numpy(float)
    return {
        "height": sides[list(rows)] / ATTRIBUTE_FORMAT.rule.scale,
        **{
            name: np.array([getattr(one, name) for one in found])
            for name in ("brightness", "sharpness", "turn")
        },
    }


def measure_crop(crop: np.ndarray) -> FaceAttributes:
    """Return the attributes of the face in a crop.

    Args:
        crop: RGB uint8 of shape (side, side, 3), of any size, cut by the default `CropRule`.
    """
    resized = resize_crop(to_tensor(crop), ATTRIBUTE_FORMAT.size)
    return measure_face(resized.permute(1, 2, 0).numpy())


def find_subgroups(attributes: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return which faces are small, dark, blurred or turned to the side.

    The limits come from `dfdetect.scoring.reliability`. They also decide whether the result of a
    video has a warning.

    Args:
        attributes: Attributes of the faces, as `measure_attributes` returns them.

    Returns:
        A dictionary from the name of each subgroup to a boolean array of shape (n,), which is True
        for the faces in the subgroup. The names are `small`, `dark`, `blurred`, `turned` and
        `other`. A face is in `other` if it is in none of the first four subgroups.
    """
    masks = {
        "small": attributes["height"] <= SMALL,
        "dark": attributes["brightness"] < DARK,
        "blurred": attributes["sharpness"] < BLURRED,
        "turned": attributes["turn"] > TURNED,
    }
    return masks | {"other": ~np.any(list(masks.values()), axis=0)}
