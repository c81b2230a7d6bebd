"""The image models of the timm library, by timm's names, with one output.

EfficientNet: Tan & Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks",
ICML 2019. The `lite` variants drop squeeze-and-excitation and swish, which suits CPUs.
"""

import difflib
from functools import partial

import timm
from timm.data import resolve_model_data_config
from torch import nn

HEAD_STD = 0.01


def names(pattern: str = "*") -> list[str]:
    """Names of timm's image models that match a shell-style pattern, sorted."""
    return timm.list_models(pattern)


def create(name: str, drop_rate: float = 0.0, drop_path_rate: float = 0.0) -> nn.Module:
    """Build timm's model `name` with one output and random weights.

    Args:
        name: A timm architecture without a tag of pretrained weights, e.g. `resnet50`.
        drop_rate: Dropout before the last layer, 0 to 1; matters in training only.
        drop_path_rate: Stochastic depth (Huang et al. 2016), 0 to 1; matters in training only, and
            does nothing in architectures without residual blocks.

    Raises:
        ValueError: timm has no model of that name.
    """
    # Tags ("name.tag") and "hf-hub:" names would make timm look for weights on the network.
    if name not in timm.list_models():
        similar = ", ".join(difflib.get_close_matches(name, timm.list_models(), n=3)) or "none"
        raise ValueError(f"unknown architecture {name!r}; similar names: {similar}")
    build = partial(timm.create_model, name, pretrained=False, num_classes=1, drop_rate=drop_rate)
    try:
        model = build(drop_path_rate=drop_path_rate)
    except TypeError:  # no residual blocks
        model = build()
    # timm draws an EfficientNet's head from U(-1, 1) when it has one output: logits of +-30.
    for parameter in head_parameters(model):
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=HEAD_STD)
        else:
            nn.init.zeros_(parameter)
    return model


def head_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Weights and biases of a timm model's last layer, or layers where it has several heads."""
    head = model.get_classifier()
    heads = head if isinstance(head, tuple) else (head,)
    return [parameter for one in heads for parameter in one.parameters()]


def normalisation(model: nn.Module) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std that timm's weights were trained with: RGB, for pixels in 0..1."""
    config = resolve_model_data_config(model)
    return tuple(config["mean"]), tuple(config["std"])
