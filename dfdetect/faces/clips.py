"""A person's crops -> what a model takes: single crops, or clips of several in a row."""

from collections.abc import Sequence

import torch
from torch.nn.functional import pad

# How far the copies of a still crop are moved at most, as a share of its side: about as much as the
# boxes of a face detector jitter.
JITTER = 0.03
JITTER_SEED = 0


def windows(count: int, length: int) -> list[list[int]]:
    """Cut `count` crops, in the order of time, into clips of `length` neighbours.

    The last clip overlaps the one before it where the number does not divide; where there are too
    few crops, some are shown twice.

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


def make_clip(crops: Sequence[torch.Tensor], length: int) -> torch.Tensor:
    """Stack the crops of one clip; a single crop becomes a clip of slightly moved copies.

    Args:
        crops: `length` uint8 tensors of shape (3, size, size), or one.
        length: Crops in a clip; 1 for image models.

    Returns:
        uint8 of shape (3, size, size) where `length` is 1, else (length, 3, size, size).
    """
    if length == 1:
        return crops[0]
    return torch.stack(list(crops)) if len(crops) > 1 else still_clip(crops[0], length)


def still_clip(
    crop: torch.Tensor, length: int, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Make a clip of one crop, each copy moved a little, as boxes jitter from frame to frame.

    Args:
        crop: uint8 of shape (3, size, size).
        length: Number of copies.
        generator: Of the movements; None for the same ones each time.

    Returns:
        uint8 of shape (length, 3, size, size); what a moved copy lacks repeats its border.
    """
    if generator is None:
        generator = torch.Generator().manual_seed(JITTER_SEED)
    size = crop.shape[-1]
    reach = max(1, round(JITTER * size))
    padded = pad(crop[None].float(), (reach,) * 4, mode="replicate")[0].to(crop.dtype)
    moves = torch.randint(0, 2 * reach + 1, (length, 2), generator=generator).tolist()
    return torch.stack([padded[:, y : y + size, x : x + size] for y, x in moves])
