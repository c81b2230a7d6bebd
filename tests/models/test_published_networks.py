import pytest
import torch

from dfdetect import create_model
from dfdetect.models.efficientnet import noise_filters
from dfdetect.models.registry import head_parameters
from dfdetect.models.xception_variants import phase_image


@pytest.mark.parametrize(
    "name",
    [
        *("efficientnet_b0_fixed", "efficientnet_b0_fixed06", "efficientnet_b2_gwap"),
        *("efficientnet_b2_srm", "xception_phase", "xception_ucf"),
    ],
)
def test_networks_give_one_logit_and_have_a_head(name):
    model = create_model(name, drop_rate=0.2).eval()
    assert model(torch.randn(2, 3, 96, 96)).shape == (2, 1)
    assert head_parameters(model)[0].shape[0] == 1


def test_fixed_paddings_are_those_of_the_designed_size():
    model = create_model("efficientnet_b0_fixed")
    sides = [getattr(home, name).sides for home, name in model.strided()]
    assert sides == [(0, 1, 0, 1), (0, 1, 0, 1), (1, 2, 1, 2), (0, 1, 0, 1), (1, 2, 1, 2)]
    # 75 pixels come to the fourth of B7, which then has a pixel of padding on each side.
    larger = create_model("efficientnet_b7_fixed")
    assert [getattr(home, name).sides for home, name in larger.strided()][3] == (1, 1, 1, 1)
    older = create_model("efficientnet_b7_fixed06")
    assert [getattr(home, name).sides for home, name in older.strided()][3] == (0, 1, 0, 1)


def test_noise_filters_leave_nothing_of_flat_images():
    assert noise_filters().sum(dim=(2, 3)).abs().max() < 1e-6


def test_phase_image_does_not_see_brightness():
    torch.manual_seed(0)
    images = torch.randn(1, 3, 32, 32)
    assert torch.allclose(phase_image(images), phase_image(3 * images), atol=1e-5)
