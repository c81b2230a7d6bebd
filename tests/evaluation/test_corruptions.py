import numpy as np
import pytest

from dfdetect.evaluation.corruptions import blur, darken, shrink


@pytest.fixture
def crop():
    return np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)


def test_shrink_leaves_as_many_pixels_as_it_says(crop):
    once = shrink(crop, 16)
    assert once.shape == crop.shape
    assert once.std() < 0.5 * crop.std()
    assert shrink(crop, 64) is crop


def test_darken_and_blur(crop):
    assert darken(crop, 0.25).mean() == pytest.approx(crop.mean() / 4, abs=0.5)
    blurred = blur(crop, 0.05)
    assert blurred.std() < 0.2 * crop.std()
    assert blurred.mean() == pytest.approx(crop.mean(), abs=2)
