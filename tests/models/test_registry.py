import pytest
import timm
import torch
from torch import nn

from dfdetect import create_model, list_models
from dfdetect.models.registry import head_parameters, list_recipes, model_info, register_model
from dfdetect.models.xception import Module, Xception


@pytest.mark.parametrize(
    ("name", "parameters"),
    # The papers' counts for 1000 classes, minus the weights of 999 classes.
    [
        ("tf_efficientnet_lite0", 4_652_008 - 999 * 1281),
        ("efficientnet_b0", 5_288_548 - 999 * 1281),
        ("resnet50", 25_557_032 - 999 * 2049),
        ("vgg16", 138_357_544 - 999 * 4097),
        ("xception", 22_855_952 - 999 * 2049),
        # LeNet-5 as in PyTorch's tutorial, minus the weights of nine of its ten classes.
        ("simple_cnn_2", 62_006 - 9 * 85),
        ("simple_cnn_1", 353_809),
        ("cnn_lstm", 229_905),
        ("logistic_regression", 3 * 16 * 16 + 1),
    ],
)
def test_create_model_has_the_number_of_weights_in_the_paper(name, parameters):
    with torch.device("meta"):  # takes no memory for the weights
        model = create_model(name)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


def test_xception_has_the_modules_in_the_paper():
    """The paper has 36 convolutions in 14 modules, and residual connections around 12 of them."""
    model = Xception(outputs=1000)
    kernels = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    shortcuts = [module.residual for module in model.modules() if isinstance(module, Module)]
    assert len(shortcuts) == 12
    strided = sum(isinstance(shortcut, nn.Sequential) for shortcut in shortcuts)
    depthwise = sum(kernel.groups > 1 for kernel in kernels)
    assert strided == 4
    assert len(kernels) - strided - depthwise == 36
    features = model.entry(model.stem(torch.zeros(1, 3, 299, 299)))
    assert features.shape == (1, 728, 19, 19)
    assert model.eval()(torch.zeros(1, 3, 299, 299)).shape == (1, 1000)


def test_xception_gives_the_same_logits_as_timms_xception():
    torch.manual_seed(0)
    model = create_model("xception").eval()
    original = timm.create_model("legacy_xception", num_classes=1).eval()
    tensors = zip(original.state_dict(), model.state_dict().values(), strict=True)
    original.load_state_dict(dict(tensors))
    images = torch.randn(1, 3, 96, 96)
    assert torch.allclose(model(images), original(images))


def test_cnn_lstm_depends_on_the_order_of_frames():
    torch.manual_seed(0)
    model = create_model("cnn_lstm").eval()
    clip = torch.randn(1, 8, 3, 64, 64)
    assert model(clip).shape == (1, 1)
    assert not torch.allclose(model(clip), model(clip.flip(1)), atol=1e-6)


def test_linear_model_features_measure_sharpness():
    model = create_model("logistic_regression")
    flat, sharp = torch.zeros(1, 3, 64, 64), torch.zeros(1, 3, 64, 64)
    sharp[..., ::2] = 1
    assert model.forward_features(flat).abs().max() == 0
    assert model.forward_features(sharp).min() > 0.2
    assert model.forward_features(sharp[..., :32, :32]).shape == (1, 3, 16, 16)


@pytest.mark.parametrize("name", ["xception", "simple_cnn_1", "resnet50", "cnn_lstm"])
def test_head_parameters_are_those_of_the_last_layer(name):
    weight, bias = head_parameters(create_model(name))
    assert (weight.shape[0], bias.shape) == (1, (1,))


def test_model_info_has_the_normalisation_of_timms_weights():
    assert model_info("resnet50").mean == pytest.approx((0.485, 0.456, 0.406))
    assert model_info("xception").mean == model_info("xception").std == (0.5,) * 3


@pytest.mark.parametrize(
    "name", ["tf_efficientnet_lite0", "resnet18", pytest.param("vgg11", marks=pytest.mark.slow)]
)
def test_create_model_gives_small_first_logits(name, narrow_vgg):
    torch.manual_seed(0)
    model = create_model(name).eval()
    logits = model(torch.randn(2, 3, 64, 64))
    assert logits.shape == (2, 1)
    assert logits.abs().max() < 2


@pytest.mark.slow
@torch.inference_mode()
def test_vgg_gives_the_same_logits_as_timms_vgg(narrow_vgg):
    torch.manual_seed(0)
    model = create_model("vgg11").eval()
    with torch.device("meta"):
        original = timm.create_model("vgg11", num_classes=1).eval()
    original.load_state_dict(model.state_dict(), assign=True)
    for size in (32, 224):
        images = torch.randn(2, 3, size, size)
        expected = original(images)
        assert expected.std() > 1e-4
        for memory_format in (torch.contiguous_format, torch.channels_last):
            found = model.to(memory_format=memory_format)(images)
            assert torch.allclose(found, expected, atol=1e-5), (size, memory_format)


def test_create_model_with_two_heads_gives_one_logit():
    assert create_model("deit_tiny_distilled_patch16_224").eval()(
        torch.zeros(1, 3, 224, 224)
    ).shape == (1, 1)


def test_create_model_refuses_an_unknown_name_and_lists_similar_ones():
    with pytest.raises(ValueError, match="tf_efficientnet_lite0"):
        create_model("tf_efficientnet_light0")


@pytest.mark.parametrize("name", ["hf-hub:someone/model", "resnet50.a1_in1k"])
def test_create_model_refuses_names_that_need_a_download(name):
    with pytest.raises(ValueError, match="unknown architecture"):
        create_model(name)


def test_create_model_refuses_unknown_arguments():
    with pytest.raises(TypeError):
        create_model("resnet18", pretrained=True)


def test_register_model_refuses_a_name_that_is_taken():
    assert "cnn_lstm" in list_models()
    with pytest.raises(ValueError, match="'cnn_lstm' is registered already"):
        register_model("cnn_lstm")(Xception)
    assert model_info("cnn_lstm").input == "clip"


def test_model_info_says_what_a_model_takes_and_how_it_is_fitted():
    clips = [name for name in list_recipes() if model_info(name).input == "clip"]
    linear = [name for name in list_recipes() if model_info(name).closed_form]
    assert clips == ["cnn_lstm"]
    assert linear == ["linear_svm", "logistic_regression"]


def test_model_info_refuses_unknown_names():
    with pytest.raises(
        ValueError, match=r"unknown architecture 'resnet_50'; similar names: .*resnet50"
    ):
        model_info("resnet_50")
    with pytest.raises(ValueError, match=r"unknown architecture '\$\$'; see `dfdetect models`"):
        model_info("$$")


def test_list_models_by_pattern():
    names = list_models("tf_efficientnet_lite*")
    assert names == sorted(names)
    assert "tf_efficientnet_lite0" in names
    assert all(name.startswith("tf_efficientnet_lite") for name in names)
    assert len(list_models()) > 500
    assert {"xception", "cnn_lstm", "linear_svm", "resnet50", "vgg16"} <= set(list_models())
