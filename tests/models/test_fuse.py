import pytest
import torch
from timm.layers import Conv2dSame
from torch import nn

from dfdetect import create_model, load_detector
from dfdetect.models.fuse import EvenlyPaddedConv2d, fuse_batch_norms, pad_evenly


class Twice(nn.Module):
    """A network that uses the output of its convolution twice: with and without the batch norm."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, images):
        features = self.convolution(images)
        return (self.norm(features) + features).mean((1, 2, 3))[:, None]


def norms(model):
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


def stir(model):
    """Give the batch norms random statistics and weights, as after training."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.running_var, module.weight, module.bias):
                tensor.data = 0.5 + torch.rand(tensor.shape, generator=generator)
    return model.eval()


@pytest.mark.parametrize(
    ("name", "left"), [("resnet18", 0), ("tf_efficientnet_lite0", 0), ("vgg11_bn", 0)]
)
@torch.inference_mode()
@pytest.mark.slow
def test_fuse_batch_norms_keeps_the_logits(name, left, narrow_vgg):
    model = stir(create_model(name))
    before = norms(model)
    fused = fuse_batch_norms(model, (1, 3, 64, 64))
    assert (norms(model), norms(fused)) == (before, left)
    images = torch.rand(3, 3, 64, 64)
    torch.testing.assert_close(fused(images), model(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("model", [Twice(), create_model("simple_cnn_2")])
def test_fuse_batch_norms_returns_a_model_that_cannot_be_fused(model):
    model = stir(model)
    assert fuse_batch_norms(model, (1, 3, 64, 64)) is model


def test_load_detector_fuses_batch_norms():
    assert norms(load_detector(device="cpu").model) == 0


@pytest.mark.parametrize("size", [(16, 24), (15, 21), (16, 21), (1, 2)])
@pytest.mark.parametrize("kernel", [3, 5, (3, 5)])
@torch.inference_mode()
def test_evenly_padded_convolution_gives_the_outputs_of_timms(kernel, size):
    torch.manual_seed(0)
    convolution = Conv2dSame(4, 8, kernel, stride=2, groups=2)
    images = torch.randn(3, 4, *size)
    expected = convolution(images)
    torch.testing.assert_close(EvenlyPaddedConv2d(convolution)(images), expected)


def same_paddings(model):
    return sum(isinstance(module, Conv2dSame) for module in model.modules())


@torch.inference_mode()
def test_pad_evenly_keeps_the_logits():
    model = stir(create_model("tf_efficientnet_lite0"))
    even = pad_evenly(model)
    assert (same_paddings(model), same_paddings(even)) == (5, 0)
    for size in (64, 75):
        images = torch.rand(2, 3, size, size)
        torch.testing.assert_close(even(images), model(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 1, "stride": 2},
        {"kernel_size": 3, "stride": 1},
        {"kernel_size": 4, "stride": 2},
        {"kernel_size": 3, "stride": 2, "dilation": 2},
    ],
)
def test_pad_evenly_keeps_convolutions_that_it_cannot_replace(options):
    model = nn.Sequential(Conv2dSame(3, 4, **options))
    assert pad_evenly(model) is model


def test_load_detector_pads_evenly():
    assert same_paddings(load_detector(device="cpu").model) == 0
