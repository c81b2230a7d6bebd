import numpy as np
import torch

from dfdetect.faces.crops import cut_crop


def test_crops_show_the_square():
    image = np.zeros((100, 100, 3), np.uint8)
    image[40:60, 30:50] = (10, 200, 30)
    crop = cut_crop(image, (30, 40, 20), 8)
    assert crop.shape == (3, 8, 8)
    assert crop.dtype == torch.uint8
    assert crop[:, 4, 4].tolist() == [10, 200, 30]
    assert (crop[1] == 200).all()


def test_crops_beyond_the_border_repeat_it():
    image = np.zeros((50, 50, 3), np.uint8)
    image[:, 0] = 250
    crop = cut_crop(image, (-20, 10, 20), 10)
    assert (crop == 250).all()
