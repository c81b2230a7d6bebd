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
def test_create_model_gives_one_logit_and_a_head(name):
    model = create_model(name, drop_rate=0.2).eval()
    assert model(torch.randn(2, 3, 96, 96)).shape == (2, 1)
    assert head_parameters(model)[0].shape[0] == 1


def test_fix_paddings_pads_for_the_designed_size():
    model = create_model("efficientnet_b0_fixed")
    sides = [getattr(home, name).sides for home, name in model.strided()]
    assert sides == [(0, 1, 0, 1), (0, 1, 0, 1), (1, 2, 1, 2), (0, 1, 0, 1), (1, 2, 1, 2)]
    # The input of the fourth convolution of B7 has 75 pixels, so one pixel is padded on each side.
    larger = create_model("efficientnet_b7_fixed")
    assert [getattr(home, name).sides for home, name in larger.strided()][3] == (1, 1, 1, 1)
    older = create_model("efficientnet_b7_fixed06")
    assert [getattr(home, name).sides for home, name in older.strided()][3] == (0, 1, 0, 1)


def test_noise_filters_give_zero_for_flat_images():
    assert noise_filters().sum(dim=(2, 3)).abs().max() < 1e-6


def test_phase_image_ignores_the_scale_of_pixel_values():
    torch.manual_seed(0)
    images = torch.randn(1, 3, 32, 32)
    assert torch.allclose(phase_image(images), phase_image(3 * images), atol=1e-5)
