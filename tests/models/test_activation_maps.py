from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import nn

from dfdetect import create_model
from dfdetect.models.activation_maps import activation_maps, average_maps
from dfdetect.models.fuse import fuse_batch_norms

POOLED = ("tf_efficientnet_lite0", "resnet18", "xception")


def inputs_of(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def trained(name):
    """Return a model in which all layers influence the logit, as in a trained model."""
    torch.manual_seed(0)
    model = create_model(name)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            nn.init.uniform_(parameter, 0.1, 0.5)
    model.train()(inputs_of(4, *((8,) if name == "cnn_lstm" else ()), 3, 96, 96))
    return model.eval()


@pytest.mark.parametrize("name", POOLED)
def test_activation_maps_of_pooled_features_are_class_activation_maps(name):
    model = trained(name)
    images = inputs_of(2, 3, 96, 96)
    maps = activation_maps(model, images)
    with torch.no_grad():
        features = model.forward_features(images)
        weight, bias = model.get_classifier().parameters()
        expected = torch.einsum("nchw,kc->nhw", features, weight) + bias
    assert torch.allclose(maps[:, 0], expected / expected[0].numel(), atol=1e-4)
    assert maps.shape == (2, 1, *features.shape[2:])


@pytest.mark.parametrize(
    ("name", "size"),
    [(name, 96) for name in (*POOLED, "simple_cnn_1", "simple_cnn_2", "logistic_regression")]
    + [pytest.param("vgg16", 48, marks=pytest.mark.slow)],
)
def test_activation_maps_add_up_to_the_logit(name, size, narrow_vgg):
    model = trained(name)
    images = inputs_of(2, 3, size, size)
    maps = activation_maps(model, images)
    assert maps.dtype == torch.float32
    assert maps.shape[-1] >= 3
    assert torch.allclose(maps.sum(dim=(1, 2, 3)), model(images)[:, 0], atol=1e-4)


def test_activation_maps_of_a_clip_add_up_to_its_logit():
    model = trained("cnn_lstm")
    clips = inputs_of(2, 8, 3, 64, 64)
    maps = activation_maps(model, clips)
    assert maps.shape == (2, 8, 4, 4)
    assert torch.allclose(maps.sum(dim=(2, 3)).mean(dim=1), model(clips)[:, 0], atol=1e-4)


def test_activation_maps_of_the_sequence_network_add_up_to_its_logit():
    model = create_model("efficientnet_b7_sequence").eval()
    clips = inputs_of(1, 7, 3, 64, 64)
    with torch.no_grad():
        logit = model(clips)
    maps = activation_maps(model, clips)
    assert maps.shape[:2] == (1, 7)
    assert torch.allclose(maps.sum(dim=(2, 3)).mean(dim=1), logit[:, 0], atol=1e-4)


def test_activation_maps_use_the_weights_of_each_place():
    model = create_model("logistic_regression")
    nn.init.zeros_(model.head.weight)
    model.head.weight.data.view(3, 16, 16)[:, 12, 3] = 1.0
    (row,), (column,) = torch.where(activation_maps(model, inputs_of(1, 3, 64, 64))[0, 0] > 0.1)
    assert (row, column) == (12, 3)


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "xception", "simple_cnn_1"])
def test_activation_maps_of_fused_models_are_the_same(name):
    model = trained(name)
    images = inputs_of(2, 3, 96, 96)
    fused = fuse_batch_norms(model, (1, 3, 96, 96))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())
    expected = activation_maps(model, images)
    largest = float(expected.abs().max())
    assert torch.allclose(activation_maps(fused, images), expected, atol=1e-3 * largest)


def test_activation_maps_in_half_precision_are_nearly_the_same():
    model = trained("tf_efficientnet_lite0")
    images = inputs_of(2, 3, 96, 96)
    with torch.autocast("cpu", torch.bfloat16):
        maps = activation_maps(model, images)
    assert maps.dtype == torch.float32
    expected = activation_maps(model, images)
    assert (maps - expected).abs().max() < 0.1 * expected.abs().max()


@pytest.mark.parametrize(("name", "switched"), [("tf_efficientnet_lite0", 0), ("cnn_lstm", 1)])
def test_activation_maps_switch_cudnn_off_for_recurrent_models_only(name, switched, monkeypatch):
    seen = []

    @contextmanager
    def flags(**given):
        seen.append(given)
        yield

    monkeypatch.setattr(torch.backends.cudnn, "flags", flags)
    clip = (8,) if name == "cnn_lstm" else ()
    activation_maps(trained(name), inputs_of(2, *clip, 3, 96, 96))
    assert seen == [{"enabled": False}] * switched


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_activation_maps_of_transformers_are_none(name):
    assert activation_maps(create_model(name).eval(), torch.zeros(1, 3, 224, 224)) is None


def test_activation_maps_of_a_model_without_features_are_none():
    assert activation_maps(nn.Flatten(), torch.zeros(1, 3, 8, 8)) is None


def test_average_maps_keeps_sums_and_places():
    fine = np.zeros((1, 6, 6), np.float32)
    coarse = np.zeros((1, 3, 3), np.float32)
    fine[0, 5, 5], coarse[0, 0, 0] = 4.0, -8.0
    average = average_maps([fine, coarse], [3, 1])
    assert (average.shape, average.dtype) == ((1, 6, 6), np.float32)
    assert average.sum() == pytest.approx(0.75 * 4 - 0.25 * 8, abs=1e-5)
    assert np.unravel_index(average.argmax(), (6, 6)) == (5, 5)
    assert np.unravel_index(average[0].argmin(), (6, 6)) == (0, 0)
    assert (average_maps([coarse], [1.0]) == coarse).all()
