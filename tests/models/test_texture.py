import pytest
import torch

from dfdetect.models.activation_maps import activation_maps
from dfdetect.models.fuse import fuse_batch_norms
from dfdetect.models.registry import create_model
from dfdetect.models.texture import mean_and_std


@pytest.fixture
def model():
    """A model whose layers have random weights."""
    torch.manual_seed(0)
    model = create_model("tf_efficientnet_lite2_texture").eval()
    for layer in (model.deep, model.texture, model.relevance):
        torch.nn.init.normal_(layer.weight, std=0.1)
        torch.nn.init.zeros_(layer.bias)
    return model


@torch.inference_mode()
def test_texture_model_without_fitted_layers_answers_like_its_network():
    model = create_model("tf_efficientnet_lite2_texture").eval()
    images = torch.randn(2, 3, 64, 64)
    assert torch.allclose(model(images), model.network(images), atol=1e-6)


@torch.inference_mode()
def test_texture_model_mixes_two_logits_by_the_relevance(model):
    images = torch.randn(2, 3, 64, 64)
    found = []
    for number in (1, 2, 4):
        features = model.network.bn1(model.network.conv_stem(images))
        for stage in model.network.blocks[: number + 1]:
            features = stage(features)
        found += [features.mean(dim=(2, 3)), features.std(dim=(2, 3), unbiased=False)]
    statistics = torch.cat(found, 1)
    relevance = model.relevance(statistics).sigmoid()
    deep = model.network.forward_features(images).mean(dim=(2, 3))
    challenge, wild = model.network(images), model.deep(deep) + model.texture(statistics)
    assert (challenge - wild).abs().min() > 0.01
    expected = (1 - relevance) * challenge + relevance * wild
    assert torch.allclose(model(images), expected, atol=1e-5)


@torch.inference_mode()
def test_texture_model_has_one_relevance_and_one_steadiness_for_a_track(model):
    images = torch.randn(5, 3, 64, 64)
    values = model.forward_values(images)
    assert torch.allclose(values[:, :1], model(images), atol=1e-5)
    model.steadiness.weight.fill_(0.5)
    model.steadiness.highest.fill_(100)
    deep, statistics = model.pool(model.forward_features(images))
    relevance = model.relevance(statistics).mean().sigmoid()
    assert relevance == model.track_relevance(statistics)
    assert 0.01 < relevance < 0.99
    steadiness = model.steadiness(statistics)
    assert steadiness.abs() > 0.01
    wild = model.deep(deep) + model.texture(statistics) + steadiness
    expected = (1 - relevance) * model.network(images) + relevance * wild
    assert torch.allclose(model.track_logits(values), expected[:, 0], atol=1e-5)


@torch.inference_mode()
def test_texture_model_scores_a_track_of_one_crop_like_a_single_crop(model):
    image = torch.randn(1, 3, 64, 64)
    alone = model.track_logits(model.forward_values(image))
    assert torch.allclose(alone, model(image)[:, 0], atol=1e-5)


def test_texture_model_has_maps_that_add_up_to_the_logit(model):
    images = torch.randn(2, 3, 96, 96)
    maps = activation_maps(model, images)
    with torch.inference_mode():
        assert torch.allclose(maps.sum(dim=(1, 2, 3)), model(images)[:, 0], atol=1e-4)


@torch.inference_mode()
def test_texture_model_can_be_fused(model):
    fused = fuse_batch_norms(model, (1, 3, 64, 64))
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in fused.modules())
    images = torch.randn(2, 3, 64, 64)
    assert torch.allclose(fused(images), model(images), atol=1e-4)


def test_mean_and_std_have_finite_gradients_where_features_are_constant():
    features = torch.ones(1, 2, 4, 4, requires_grad=True)
    mean, std = mean_and_std(features)
    (mean.sum() + std.sum()).backward()
    assert mean.tolist() == [[1.0, 1.0]]
    assert std.max() < 1e-6
    assert features.grad.isfinite().all()
