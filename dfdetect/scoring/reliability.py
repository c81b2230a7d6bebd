"""Warnings that a score is less reliable than usual, because the face is hard to judge.

A face is hard to judge if a property, such as its brightness, is beyond a limit. Two measurements
of the default detector justify the limits. The first measurement showed that the balanced accuracy
on faces beyond a limit is lower than on other faces. For the second measurement, good crops were
damaged until they were beyond a limit. The balanced accuracy was lower on the damaged crops than
before the damage: the 95 % interval of the difference was below zero.

Strongly compressed videos also have a warning, because the detector misses many fakes among them.
Their balanced accuracy shows this less clearly: the detector also calls fewer REAL videos FAKE.

The command `dfdetect compare-conditions` repeats these measurements. Given videos, it measures the
effect of compression; given face sets, it measures the effects of all other properties.
`docs/experiments.md` has all results, also for properties that make no difference.
"""

from collections.abc import Sequence

import numpy as np

from dfdetect.faces.attributes import FaceAttributes

# Maximum height of a small face's bounding box, in pixels of the frame.
SMALL = 70.0
# Faces are dark below this brightness, blurred below this sharpness, and seen from the side above
# this turn; `FaceAttributes` describes these three values.
DARK = 30.0
BLURRED = 0.05
TURNED = 0.5
# A video is strongly compressed if its mean bits per pixel are below this limit. Videos of the
# Deepfake Detection Challenge have 0.035 to 0.050.
COMPRESSED = 0.015


def find_warnings(
    heights: Sequence[float],
    faces: Sequence[FaceAttributes],
    frames: int,
    bits_per_pixel: float = np.nan,
) -> tuple[str, ...]:
    """Return sentences that say why the score of a face is less reliable than usual.

    Args:
        heights: Heights of the bounding boxes of the face in pixels, at least one. If their median
            is at most 70 pixels, a sentence says that the face is small.
        faces: Attributes of some crops of the face, at least one. The median of each attribute is
            compared with the limit of this attribute.
        frames: Number of frames that show the face. If it is 1, a sentence says that only one frame
            was scored.
        bits_per_pixel: Bits per pixel of the compressed video, as in `dfdetect.video.reader.Frame`.
            NaN means unknown.

    Returns:
        One sentence for each reason. If there is no reason, the tuple is empty.

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
            bits_per_pixel < COMPRESSED,
            "The video is strongly compressed: the detector misses many fakes in such videos.",
        ),
        (
            frames == 1,
            "Only one frame was scored: the answer is less certain than that of a video.",
        ),
    )
    return tuple(sentence for holds, sentence in conditions if holds)
