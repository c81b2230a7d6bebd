"""The architectures by name: how to build each one, what input it takes, and how to train it.

A model takes float32 crops, normalised with the checkpoint's mean and std. Their colours are RGB,
or BGR if the checkpoint says so. It returns logits of FAKE of shape (batch, 1). The shape of the
input is

- (batch, 3, size, size) for single crops,
- (batch, time, 3, size, size) for clips: successive crops of one face.

Weights are random until a checkpoint is loaded; nothing is downloaded.
`dfdetect.models.activation_maps` needs models that also have timm's methods `forward_features` and
`forward_head`.

To add an architecture, write a file in this folder and decorate its class with `register_model`.
"""

import difflib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from importlib import import_module
from typing import Any, Literal, TypeVar

from torch import nn

from dfdetect.errors import ArgumentError
from dfdetect.models import timm_models
from dfdetect.models.timm_models import head_parameters

__all__ = [
    "ModelInfo",
    "create_model",
    "head_parameters",
    "list_models",
    "list_recipes",
    "model_info",
    "register_model",
]

Network = TypeVar("Network", bound=Callable[..., nn.Module])


@dataclass(frozen=True)
class ModelInfo:
    """The description of an architecture.

    Attributes:
        build: A function that returns the network with random weights. Its arguments are the
            options of the architecture.
        input: `image` if the network takes single crops, `clip` if it takes successive crops of one
            face.
        closed_form: Whether scikit-learn fits the weights (see `dfdetect.training.linear`) instead
            of gradient descent. Such a network must have only one layer with weights.
        recipe: Training settings that suit the network better than the defaults. The keys are
            fields of `TrainConfig`.
        mean: Mean that is subtracted from each RGB channel of the input (pixel values from 0 to 1).
        std: Standard deviation by which each RGB channel is then divided.
    """

    build: Callable[..., nn.Module]
    input: Literal["image", "clip"]
    closed_form: bool
    recipe: Mapping[str, Any]
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)


_REGISTERED: dict[str, ModelInfo] = {}


def register_model(
    name: str,
    *,
    input: Literal["image", "clip"] = "image",
    closed_form: bool = False,
    recipe: Mapping[str, Any] | None = None,
) -> Callable[[Network], Network]:
    """Return a decorator that registers a class under a name; a class can have several names.

    Args:
        name: The name for `create_model` and for the command line.
        input: `image` if the network takes single crops, `clip` if it takes successive crops of one
            face.
        closed_form: Whether scikit-learn fits the weights (see `dfdetect.training.linear`) instead
            of gradient descent. Such a network must have only one layer with weights.
        recipe: Training settings that suit the network better than the defaults. The keys are
            fields of `TrainConfig`.

    Raises:
        ArgumentError: Another network has this name.

    Example:
        >>> @register_model("mean_colour", recipe={"input_size": 32, "epochs": 2})
        ... class MeanColour(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.head = nn.Linear(3, 1)
        ...     def forward(self, images):
        ...         return self.head(images.mean(dim=(2, 3)))
        ...     def get_classifier(self):
        ...         return self.head
    """

    def register(network: Network) -> Network:
        if name in _REGISTERED:
            raise ArgumentError(f"an architecture {name!r} is registered already: use another name")
        _REGISTERED[name] = ModelInfo(network, input, closed_form, recipe or {})
        return network

    return register


def create_model(name: str, **arguments: float) -> nn.Module:
    """Return a new network of the architecture `name`, with random weights.

    Args:
        name: One of `list_models()`.
        arguments: Options of the architecture, such as `drop_rate` and `drop_path_rate`.

    Raises:
        ArgumentError: The name is unknown; the message lists similar names, if any.
        TypeError: The architecture does not have one of the given options.

    Example:
        >>> import torch
        >>> model = create_model("simple_cnn_2")
        >>> model(torch.zeros(2, 3, 64, 64)).shape
        torch.Size([2, 1])
    """
    return model_info(name).build(**arguments)


def model_info(name: str) -> ModelInfo:
    """Return the description of the architecture `name`.

    Raises:
        ArgumentError: The name is unknown; the message lists similar names.

    Example:
        >>> model_info("cnn_lstm").input
        'clip'
    """
    own = _own_models()
    if name in own:
        return own[name]
    # If the name has a tag ("name.tag") or a hub ("hf-hub:..."), timm looks for pretrained weights.
    if name not in timm_models.names():
        similar = ", ".join(difflib.get_close_matches(name, list_models(), n=3))
        hint = f"similar names: {similar}; " if similar else ""
        raise ArgumentError(f"unknown architecture {name!r}; {hint}see `dfdetect models`")
    return ModelInfo(
        timm_models.builder(name),
        "image",
        False,
        timm_models.RECIPES.get(name, {}),
        *timm_models.normalisation(name),
    )


def list_models(pattern: str = "*") -> list[str]:
    """Return the sorted names of all architectures that match a shell-style pattern.

    Example:
        >>> list_models("tf_efficientnet_lite?")[:2]
        ['tf_efficientnet_lite0', 'tf_efficientnet_lite1']
    """
    own = [name for name in _own_models() if fnmatchcase(name, pattern)]
    return sorted({*own, *timm_models.names(pattern)})


def list_recipes() -> list[str]:
    """Return the sorted names of the architectures with a recipe (training settings of their own).

    Example:
        >>> "xception" in list_recipes(), "resnet18" in list_recipes()
        (True, False)
    """
    own = [name for name, info in _own_models().items() if info.recipe]
    return sorted({*own, *timm_models.RECIPES})


@cache
def _own_models() -> dict[str, ModelInfo]:
    """Import all modules of `dfdetect.models`, and return the architectures that they register."""
    package = import_module("dfdetect.models")
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        import_module(module.name)
    return _REGISTERED
