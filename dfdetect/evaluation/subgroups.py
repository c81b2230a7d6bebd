"""Parts of a face set that are harder than others: small, dark, blurred and turned faces."""

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
    """Measure what makes a face hard to judge.

    Args:
        faces: The face set; its crops were cut by the default rule.
        rows: The crops to look at.
        progress: Show a progress bar.

    Returns:
        Arrays of shape (rows,) by name: `brightness`, `sharpness` and `turn`, as in
        `FaceAttributes`, and `height`, that of the face's box in its video, in pixels, which is NaN
        where the index has no `native_px`.
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
    """Measure a crop of any size, RGB uint8 of shape (side, side, 3), cut by the default rule."""
    resized = resize_crop(to_tensor(crop), ATTRIBUTE_FORMAT.size)
    return measure_face(resized.permute(1, 2, 0).numpy())


def find_subgroups(attributes: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Find the crops for which a result would have a warning.

    Args:
        attributes: As `measure_attributes` returns them.

    Returns:
        Boolean masks over the crops: `small`, `dark`, `blurred` and `turned`, as in
        `dfdetect.scoring.reliability`, and `other` for those in none of them.
    """
    masks = {
        "small": attributes["height"] <= SMALL,
        "dark": attributes["brightness"] < DARK,
        "blurred": attributes["sharpness"] < BLURRED,
        "turned": attributes["turn"] > TURNED,
    }
    return masks | {"other": ~np.any(list(masks.values()), axis=0)}
