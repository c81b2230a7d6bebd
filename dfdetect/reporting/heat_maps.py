"""Heat maps -> pictures that people can read."""

import cv2
import numpy as np

from dfdetect.results import HeatMap

# What is laid over the grey face, RGB, and how much of the face the strongest evidence hides.
COLOUR = (255, 40, 0)
STRENGTH = 0.7


def paint_heat_map(heat_map: HeatMap) -> np.ndarray:
    """Draw a heat map over the face that it explains.

    The face is grey, so that its own colours cannot be taken for heat, and the redder a place, the
    stronger the evidence for FAKE is there.

    Returns:
        RGB uint8, as large as the crop.

    Example:
        >>> paint_heat_map(result.tracks[0].heat_maps[0]).shape
        (160, 160, 3)
    """
    height, width = heat_map.crop.shape[:2]
    # Smooth between the centres of the cells, which are much larger than pixels.
    values = cv2.resize(heat_map.values, (width, height), interpolation=cv2.INTER_LINEAR)
    share = STRENGTH * values[..., None].clip(0, 1)
    grey = cv2.cvtColor(heat_map.crop, cv2.COLOR_RGB2GRAY)[..., None]
    return np.rint((1 - share) * grey + share * np.array(COLOUR)).astype(np.uint8)
