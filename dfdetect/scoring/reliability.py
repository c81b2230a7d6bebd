"""Warnings that a score is less reliable than usual, because the face is hard to judge.

A face is hard to judge if a property, such as its brightness, is beyond a limit. The limits come
from two measurements of the default detector:

- Its balanced accuracy is lower on faces beyond a limit than on other faces. (No faces below the
  limit of small faces could be measured, and for dark faces this difference may be chance.)
- Its balanced accuracy falls if good crops are damaged until they are beyond the limit. The whole
  95 % confidence interval of the difference is below zero.

Strongly compressed videos also have a warning, because the detector misses many fakes among them.
So have damaged videos, because nobody knows what the damaged part shows.

The command `dfdetect compare-conditions` repeats these measurements. On videos, it measures the
effect of compression. On face sets, it measures the effects of all other properties.
`docs/experiments.md` lists all results.
"""

from collections.abc import Sequence

import numpy as np

from dfdetect.faces.attributes import FaceAttributes

# Maximum height of a small face's bounding box, in pixels of the frame.
SMALL = 70.0
# A face is dark if its brightness is below DARK. A face is blurred if its sharpness is below
# BLURRED. A face is seen from the side if its turn is above TURNED. `FaceAttributes` describes
# brightness, sharpness and turn.
DARK = 30.0
BLURRED = 0.05
TURNED = 0.5
# A video is strongly compressed if its number of bits per pixel is below this limit. The number is
# 0.035 to 0.050 for videos of the Deepfake Detection Challenge.
COMPRESSED = 0.015
# A video is damaged if less than this share of it can be decoded without errors.
DECODED = 0.5


def find_warnings(
    heights: Sequence[float],
    faces: Sequence[FaceAttributes],
    frames: int,
    bits_per_pixel: float = np.nan,
    share: float = np.nan,
) -> tuple[str, ...]:
    """Return sentences that say why the score of a face is less reliable than usual.

    Args:
        heights: Heights of the bounding boxes of the face in pixels, at least one. If their median
            is at most 70 pixels, a sentence says that the face is small.
        faces: Attributes of some crops of the face, at least one. The medians of the attributes are
            compared with the limits.
        frames: Number of frames that show the face. If it is 1, a sentence says that only one frame
            was scored.
        bits_per_pixel: Size of the compressed video stream in bits, divided by the number of pixels
            in all frames of the video. NaN means unknown.
        share: Share of the video that was decoded without errors. If it is below a half, a sentence
            says so. NaN means unknown.

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
        (
            share < DECODED,
            f"{describe_damage(share).capitalize()}: the rest of the file is damaged or missing.",
        ),
    )
    return tuple(sentence for holds, sentence in conditions if holds)


def describe_damage(share: float) -> str:
    """Return a phrase that says how little of a video was decoded, or an empty text.

    Args:
        share: Share of the video that was decoded without errors. The text is empty if the share is
            at least a half, or NaN (unknown).

    Example:
        >>> describe_damage(0.06)
        'less than 7 % of the video could be decoded without errors'
    """
    if not share < DECODED:
        return ""
    return f"less than {int(100 * share) + 1} % of the video could be decoded without errors"
