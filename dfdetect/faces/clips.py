"""Group the crops of a track into inputs of a model: single crops, or clips of several crops.

A track is one face that is followed through a video.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn.functional import pad

# If a track has a single crop, its clip holds shifted copies of the crop. This is the maximum
# shift, divided by the crop's width. The boxes of a face detector jitter about as much.
JITTER = 0.03
JITTER_SEED = 0


def windows(count: int, length: int) -> list[list[int]]:
    """Return the clips of a track: for each clip, the positions of its crops in the track.

    If `count` is not a multiple of `length`, the last two clips share some crops. If `count` is
    less than `length`, some crops are repeated.

    Args:
        count: Number of crops in the track.
        length: Number of crops in each clip.

    Example:
        >>> windows(5, 2)
        [[0, 1], [2, 3], [3, 4]]
        >>> windows(2, 4)
        [[0, 0, 1, 1]]
    """
    if count < length:
        return [[position * count // length for position in range(length)]] if count else []
    starts = [*range(0, count - length + 1, length)]
    if starts[-1] + length < count:
        starts.append(count - length)
    return [list(range(start, start + length)) for start in starts]


def by_crop(values: np.ndarray, count: int, length: int) -> np.ndarray:
    """Return a value for each crop of a track, given a value for each clip of the track.

    A crop in two clips gets the mean of their values. If the track has only one crop, this crop
    gets the mean of all values.

    Args:
        values: The value of each clip that `windows` returns, float of shape (clips,).
        count: Number of crops in the track.
        length: Number of crops in each clip.

    Returns:
        float64 of shape (count,).

    Example:
        >>> by_crop(np.array([1.0, 2.0, 4.0]), 5, 2)
        array([1., 1., 2., 3., 4.])
    """
    if count == 1:
        return values.mean(keepdims=True)
    total, times = np.zeros(count), np.zeros(count)
    for part, value in zip(windows(count, length), values, strict=True):
        for position in set(part):
            total[position] += value
            times[position] += 1
    return total / times


def make_clip(crops: Sequence[torch.Tensor], length: int) -> torch.Tensor:
    """Return crops as one input of a model: a single crop, or a clip of several crops.

    If the model takes clips but there is only one crop, the clip consists of copies of this crop,
    each shifted by a few pixels.

    Args:
        crops: A sequence of `length` uint8 tensors of shape (3, height, width), or a sequence of
            only one such tensor.
        length: Number of crops in a clip, or 1 for models that take single crops.

    Returns:
        uint8 of shape (3, height, width) if `length` is 1, else (length, 3, height, width).
    """
    if length == 1:
        return crops[0]
    return torch.stack(list(crops)) if len(crops) > 1 else still_clip(crops[0], length)


def still_clip(
    crop: torch.Tensor, length: int, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Make a clip of copies of one crop, each shifted by a few pixels.

    The shifts imitate the jitter of a face detector's boxes from frame to frame.

    Args:
        crop: uint8 of shape (3, height, width).
        length: Number of copies.
        generator: Random generator for the shifts. If None, the shifts are the same in each call.

    Returns:
        uint8 of shape (length, 3, height, width). Where a shift leaves the edge of a copy empty,
        the copy repeats the crop's outermost pixels.
    """
    if generator is None:
        generator = torch.Generator().manual_seed(JITTER_SEED)
    height, width = crop.shape[-2:]
    reach = max(1, round(JITTER * width))
    padded = pad(crop[None].float(), (reach,) * 4, mode="replicate")[0].to(crop.dtype)
    moves = torch.randint(0, 2 * reach + 1, (length, 2), generator=generator).tolist()
    return torch.stack([padded[:, y : y + height, x : x + width] for y, x in moves])
