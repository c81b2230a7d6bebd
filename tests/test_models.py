import pytest
import torch

from dfdetect import create_model, list_models


@pytest.mark.parametrize(
    ("name", "parameters"),
    # The papers' counts with 1000 classes, less the 999 classes that are not there.
    [
        ("tf_efficientnet_lite0", 4_652_008 - 999 * 1281),
        ("efficientnet_b0", 5_288_548 - 999 * 1281),
        ("resnet50", 25_557_032 - 999 * 2049),
    ],
)
def test_parameter_counts(name, parameters):
    model = create_model(name)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "resnet18", "vgg11"])
def test_first_logits_are_small(name):
    torch.manual_seed(0)
    model = create_model(name).eval()
    logits = model(torch.randn(2, 3, 64, 64))
    assert logits.shape == (2, 1)
    assert logits.abs().max() < 2


def test_more_than_one_head():
    assert create_model("deit_tiny_distilled_patch16_224").eval()(
        torch.zeros(1, 3, 224, 224)
    ).shape == (1, 1)


def test_unknown_names_are_refused_with_similar_ones():
    with pytest.raises(ValueError, match="tf_efficientnet_lite0"):
        create_model("tf_efficientnet_light0")


@pytest.mark.parametrize("name", ["hf-hub:someone/model", "resnet50.a1_in1k"])
def test_names_that_mean_a_download_are_refused(name):
    with pytest.raises(ValueError, match="unknown architecture"):
        create_model(name)


def test_unknown_arguments_are_refused():
    with pytest.raises(TypeError):
        create_model("resnet18", pretrained=True)


def test_list_is_filtered_by_pattern():
    names = list_models("tf_efficientnet_lite*")
    assert names == sorted(names)
    assert "tf_efficientnet_lite0" in names
    assert all(name.startswith("tf_efficientnet_lite") for name in names)
    assert len(list_models()) > 500
