import pytest
import torch

from dfdetect import create_model
from dfdetect.errors import ArgumentError
from dfdetect.models.efficientnet import noise_filters
from dfdetect.models.fuse import fuse_batch_norms
from dfdetect.models.registry import head_parameters
from dfdetect.models.two_stream_xception import Exchange, NoiseFilters
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
    with torch.device("meta"):
        larger, older = map(create_model, ("efficientnet_b7_fixed", "efficientnet_b7_fixed06"))
    assert [getattr(home, name).sides for home, name in larger.strided()][3] == (1, 1, 1, 1)
    assert [getattr(home, name).sides for home, name in older.strided()][3] == (0, 1, 0, 1)


def test_noise_filters_give_zero_for_flat_images():
    assert noise_filters().sum(dim=(2, 3)).abs().max() < 1e-6


def test_phase_image_ignores_the_scale_of_pixel_values():
    torch.manual_seed(0)
    images = torch.randn(1, 3, 32, 32)
    assert torch.allclose(phase_image(images), phase_image(3 * images), atol=1e-5)


def test_swish_rounds_like_efficientnet_pytorch():
    model = create_model("efficientnet_b0_fixed")
    values = torch.linspace(-4, 4, 1001)
    assert torch.equal(model.network.bn1.act(values), values * values.sigmoid())
    assert not any(isinstance(module, torch.nn.SiLU) for module in model.modules())


@pytest.mark.slow
def test_two_stream_xception_gives_every_parameter_a_gradient(short_xception):
    model = create_model("xception_srm", drop_rate=0.2)
    model(torch.randn(2, 3, 256, 256)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert head_parameters(model)[0].shape == (1, 2048)


def test_two_stream_xception_refuses_other_image_sizes():
    with pytest.raises(ArgumentError, match="256 x 256 pixels"):
        Exchange(16)(torch.zeros(1, 16, 14, 14), torch.zeros(1, 16, 14, 14))


def test_exchange_starts_without_an_effect():
    image, noise = torch.randn(2, 1, 16, 16, 16)
    exchange = Exchange(16)
    assert all(map(torch.equal, exchange(image, noise), (image, noise)))
    torch.nn.init.ones_(exchange.image_gain)
    changed, same = exchange(image, noise)
    assert not torch.equal(changed, image)
    assert torch.equal(same, noise)


def test_noise_filters_give_each_channel_all_filters():
    images = torch.randn(1, 2, 12, 12) / 9
    one, other = (NoiseFilters(1)(images[:, [channel]]) for channel in (0, 1))
    assert torch.equal(NoiseFilters(2)(images), torch.cat([one, other], dim=1))


@pytest.mark.slow
def test_fuse_batch_norms_of_two_stream_xception(short_xception):
    model = create_model("xception_srm").eval()
    assert fuse_batch_norms(model, (1, 3, 256, 256)) is not model
