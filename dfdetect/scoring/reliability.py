"""Measured limits beyond which a detector is less reliable than usual, with a sentence for each.

The limits hold for the default detector. Beyond each of them, its balanced accuracy is lower than
elsewhere; for damaged crops the 95 % interval of the difference lies below 0.
`dfdetect compare-conditions` measures them again, and the page Experiments has all figures,
including those of properties that make no difference.
"""

from collections.abc import Sequence

import numpy as np

from dfdetect.faces.attributes import FaceAttributes

# Height of the face's box, in pixels of the frame.
SMALL = 70.0
# See `FaceAttributes` for these three.
DARK = 30.0
BLURRED = 0.05
TURNED = 0.5


def find_warnings(
    heights: Sequence[float], faces: Sequence[FaceAttributes], frames: int
) -> tuple[str, ...]:
    """Say why the score of a face is less reliable than usual; medians over its frames count.

    Args:
        heights: Of the face's boxes, in pixels, at least one.
        faces: How well the face can be seen in some of its frames, at least one.
        frames: Number of frames that show the face.

    Returns:
        Sentences; none for a face like those on which the detector was measured.

    Example:
        >>> find_warnings([200.0], [FaceAttributes(brightness=90, sharpness=0.1, turn=0.6)], 32)
        ('The face is seen from the side: the detector misses many fakes of such faces.',)
    """
    height = float(np.median(heights))
    brightness, sharpness, turn = (
        float(np.median([getattr(one, name) for one in faces]))
        for name in ("brightness", "sharpness", "turn")
    )
    conditions = (
        (
            height <= SMALL,
            f"The face is only {height:.0f} pixels high: the detector is wrong more often on faces "
            "that small.",
        ),
        (
            brightness < DARK,
            "The face is very dark: the detector misses many fakes of such faces.",
        ),
        (
            sharpness < BLURRED,
            "The face is blurred: the detector calls many REAL faces FAKE that are blurred.",
        ),
        (
            turn > TURNED,
            "The face is seen from the side: the detector misses many fakes of such faces.",
        ),
        (
            frames == 1,
            "Only one frame was scored: the answer is less certain than that of a video.",
        ),
    )
    return tuple(sentence for holds, sentence in conditions if holds)
