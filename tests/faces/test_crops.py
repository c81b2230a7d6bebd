import warnings

import cv2
import numpy as np
import pytest
import torch

from dfdetect.faces.crops import compress_jpeg, cut_crop, cut_crops, resize_crop, to_tensor
from dfdetect.faces.geometry import CropFormat, CropRule, ResizeRule


def test_cut_crop_shows_the_square():
    image = np.zeros((100, 100, 3), np.uint8)
    image[40:60, 30:50] = (10, 200, 30)
    crop = cut_crop(image, (30, 40, 20), 8)
    assert crop.shape == (3, 8, 8)
    assert crop.dtype == torch.uint8
    assert crop[:, 4, 4].tolist() == [10, 200, 30]
    assert (crop[1] == 200).all()


def test_cut_crop_repeats_the_border_outside_the_image():
    image = np.zeros((50, 50, 3), np.uint8)
    image[:, 0] = 250
    crop = cut_crop(image, (-20, 10, 20), 10)
    assert (crop == 250).all()


def cut(rule, resize=ResizeRule(), size=20):  # noqa: B008
    """Return the crop of a face at the right border of a white image of 50 x 100 pixels."""
    image = np.full((50, 100, 3), 255, np.uint8)
    wanted = CropFormat(rule, size, resize)
    return cut_crops(image, (80, 20, 100, 30), [wanted])[wanted]


def test_cut_crops_with_different_margins_in_width_and_height():
    image = np.zeros((50, 100, 3), np.uint8)
    image[16:30, 35:65] = 255
    wanted = CropFormat(CropRule(scale=1.4, shift=-0.2, width=1.5), 14, ResizeRule(30 / 14))
    assert cut_crops(image, (40, 20, 60, 30), [wanted])[wanted].shape == (3, 14, 30)
    assert (cut_crops(image, (40, 20, 60, 30), [wanted])[wanted] == 255).all()


@pytest.mark.parametrize(("border", "black"), [("repeat", 0), ("zeros", 100), ("cut", 0)])
def test_cut_crops_beyond_the_border(border, black):
    crop = cut(CropRule(scale=2.0, shift=0.0, width=2.0, border=border))
    assert crop.shape == (3, 20, 20)
    assert int((crop[0] < 128).sum()) == pytest.approx(black, abs=10)


def test_rectangle_relative_to_the_longer_side():
    assert CropRule(1.3, 0.0, longer=True).rectangle((0, 0, 20, 10)) == (-3, -8, 26, 26)


def test_resize_crop_fills_the_longer_side_when_it_pads():
    # 380 / 312 * 312 is a little less than 380 in floating-point numbers.
    crop = torch.full((3, 312, 200), 255, dtype=torch.uint8)
    padded = resize_crop(crop, 380, ResizeRule(fit="pad"))
    assert padded[:, [0, -1], 190].min() == 255


def test_resize_crop_pads_with_black():
    crop = cut(CropRule(scale=1.0, shift=0.0, width=1.0), ResizeRule(fit="pad"))
    assert crop.shape == (3, 20, 20)
    assert (crop[:, 5:15] == 255).all()
    assert (crop[:, :5] == 0).all()
    assert (crop[:, 15:] == 0).all()


@pytest.mark.parametrize("name", ["bilinear", "bicubic", "linear", "area_or_cubic"])
@pytest.mark.parametrize("side", [10, 40])
def test_resize_crop_by_each_interpolation(name, side):
    ramp = torch.linspace(0, 255, side).round().to(torch.uint8).expand(3, side, side)
    resized = resize_crop(ramp, 20, ResizeRule(interpolation=name))
    expected = torch.linspace(0, 255, 20)
    assert torch.allclose(resized[0, 10].float(), expected, atol=10)


def test_resize_crop_compresses_as_jpeg_first():
    image = np.random.default_rng(0).integers(0, 256, (50, 40, 3), np.uint8)
    stored = compress_jpeg(cv2.resize(image, (64, 64), interpolation=cv2.INTER_LINEAR), 60)
    expected = resize_crop(to_tensor(stored), 32, ResizeRule(interpolation="linear"))
    rule = ResizeRule(interpolation="linear", jpeg=(64, 60))
    assert torch.equal(resize_crop(to_tensor(image), 32, rule), expected)


def test_resize_crop_hardly_changes_a_crop_that_was_stored_as_the_same_jpeg():
    image = cv2.GaussianBlur(
        np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8), (5, 5), 2
    )
    stored = to_tensor(compress_jpeg(image, 75))
    again = resize_crop(stored, 64, ResizeRule(jpeg=(64, 75)))
    assert (again.float() - stored.float()).abs().mean() < 1
    assert (to_tensor(image).float() - stored.float()).abs().mean() > 2


@pytest.mark.parametrize(
    "fields",
    [
        {"fit": "bend"},
        {"interpolation": "x"},
        {"aspect": 9.0},
        {"jpeg": (224, 101)},
        {"jpeg": (0, 75)},
        {"jpeg": (224.0, 75)},
        {"jpeg": (224, True)},
        {"jpeg": (224, 75, 1)},
        {"jpeg": 224},
        {"jpeg": (224, 75), "fit": "pad"},
        {"jpeg": (224, 75), "aspect": 2.0},
    ],
)
def test_resize_rule_refuses_unknown_values(fields):
    with pytest.raises(ValueError, match=r"resize\."):
        ResizeRule(**fields)


def test_to_tensor_takes_arrays_that_cannot_be_written_to():
    image = np.full((2, 4, 3), 7, np.uint8)
    image.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tensor = to_tensor(image)
    assert tensor.shape == (3, 2, 4)
    assert (tensor == 7).all()


def test_cut_crop_does_not_change_with_the_image():
    image = np.full((8, 4, 3), 50, np.uint8)
    crop = cut_crop(image, (0, 2, 4), 4)
    image[:] = 200
    assert crop.eq(50).all()
