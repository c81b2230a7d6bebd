import pytest
import torch

from dfdetect.models.steadiness import FEWEST_FRAMES, Steadiness, steadiness


def faces(frames, spread, seed=0):
    """Return the statistics of a face, which vary by the given amount."""
    generator = torch.Generator().manual_seed(seed)
    return 1 + spread * torch.randn(frames, 200, generator=generator)


def fitted(weight, bias, lowest, highest):
    layer = Steadiness()
    for name, value in zip(
        ("weight", "bias", "lowest", "highest"), (weight, bias, lowest, highest), strict=True
    ):
        getattr(layer, name).fill_(value)
    return layer


def test_steadiness_is_minus_the_logarithm_of_the_spread():
    for spread in (0.1, 0.5):
        expected = -torch.tensor(spread).log().item()
        assert steadiness(faces(400, spread)).item() == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("frames", [4, 6, 9])
def test_steadiness_of_few_frames_is_not_too_high(frames):
    assert steadiness(faces(frames, 0.5)).item() == pytest.approx(
        steadiness(faces(400, 0.5)).item(), abs=0.08
    )


def test_steadiness_ignores_a_change_of_every_second_frame():
    values = faces(8, 0.5)
    shifted = values.clone()
    shifted[1::2] += torch.linspace(-3, 3, 200)
    assert steadiness(shifted).item() == pytest.approx(steadiness(values).item(), abs=1e-5)


def test_steadiness_layer_is_linear_and_bounded():
    layer = fitted(2.0, -1.0, 0.5, 2.0)
    middle, restless = faces(8, 0.3), faces(8, 3.0)
    assert layer(middle).item() == pytest.approx(2 * steadiness(middle).item() - 1, abs=1e-5)
    assert steadiness(restless) < 0.5
    assert layer(restless).item() == pytest.approx(2 * 0.5 - 1, abs=1e-5)


def test_steadiness_layer_says_nothing_about_still_pictures_and_few_frames():
    layer = fitted(2.0, 5.0, 0.0, 2.0)
    still = faces(1, 1.0).expand(8, -1)
    assert steadiness(still) > 2
    assert layer(still).item() == 0
    few = faces(FEWEST_FRAMES - 1, 0.3)
    assert layer(few).item() == 0
    assert layer(faces(FEWEST_FRAMES, 0.3)).item() > 5
