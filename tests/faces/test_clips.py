import numpy as np
import pytest
import torch

from dfdetect.faces.clips import by_crop, make_clip, still_clip, windows


@pytest.mark.parametrize(
    ("count", "length", "expected"),
    [
        (3, 1, [[0], [1], [2]]),
        (6, 3, [[0, 1, 2], [3, 4, 5]]),
        (5, 3, [[0, 1, 2], [2, 3, 4]]),
        (2, 4, [[0, 0, 1, 1]]),
        (0, 4, []),
    ],
)
def test_windows_of_few_and_many_crops(count, length, expected):
    assert windows(count, length) == expected


@pytest.mark.parametrize("count", range(1, 40))
def test_windows_cover_every_crop_in_order(count):
    parts = windows(count, 8)
    assert {len(part) for part in parts} == {8}
    assert sorted({place for part in parts for place in part}) == list(range(count))
    assert all(part == sorted(part) for part in parts)


def test_make_clip_of_one_crop_is_the_crop_itself():
    crop = torch.randint(0, 255, (3, 16, 16), dtype=torch.uint8)
    assert make_clip([crop], 1) is crop


def test_still_clip_is_the_same_each_time_and_hardly_moves():
    crop = torch.arange(100, dtype=torch.uint8).repeat(3, 100, 1)
    clip = still_clip(crop, 8)
    assert (clip.shape, clip.dtype) == ((8, 3, 100, 100), torch.uint8)
    assert torch.equal(clip, still_clip(crop, 8))
    moves = (clip[:, 0, 50, 50].int() - 50).tolist()
    assert len(set(moves)) > 2
    assert max(map(abs, moves)) <= 3


def test_by_crop_averages_what_is_known_of_a_crop():
    assert by_crop(np.array([1.0, 2.0, 4.0]), 5, 2).tolist() == [1, 1, 2, 3, 4]
    assert by_crop(np.array([1.0, 3.0]), 1, 1).tolist() == [2]
    assert by_crop(np.array([5.0]), 2, 4).tolist() == [5, 5]


def test_still_clip_keeps_the_height_and_the_width():
    assert still_clip(torch.zeros(3, 224, 192, dtype=torch.uint8), 7).shape == (7, 3, 224, 192)
