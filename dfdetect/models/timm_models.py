"""The image models of the timm library, under timm's names, with one output.

The study (docs/study.md) trains these models of timm:

| name | paper | number of weights, 1 output | number of weights, 1000 outputs |
| --- | --- | --- | --- |
| `resnet50` | He et al., "Deep Residual Learning", CVPR 2016 | 23.5 M | 25.6 M |
| `vgg16` | Simonyan & Zisserman, "Very Deep ... Networks", ICLR 2015 | 134.3 M | 138.4 M |
| `tf_efficientnet_lite0` | Tan & Le, "EfficientNet", ICML 2019 | 3.4 M | 4.7 M |

The `lite` variants of EfficientNet are faster on CPUs than the others, because they have neither
squeeze-and-excitation nor swish.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import timm
import torch
from timm.data import resolve_data_config
from torch import nn
from torch.nn.functional import linear

# Standard deviation of the random weights of a new head.
HEAD_STD = 0.01
# Fields of `TrainConfig` with values other than the defaults. The values were chosen for a machine
# with two CPU cores, by the scores on held-out actors; those of tf_efficientnet_lite2 also by the
# scores on held-out sources, and its input size in long runs on a GPU. The precision `mixed` makes
# large networks twice as fast on a GPU or on a CPU with AMX.
RECIPES: dict[str, dict[str, Any]] = {
    "resnet50": {"input_size": 96, "epochs": 7, "learning_rate": 1e-3, "precision": "mixed"},
    "vgg16": {
        "input_size": 48,
        "epochs": 1,
        "learning_rate": 3e-4,
        "lr_scaling": "by_inputs",
        "precision": "mixed",
    },
    "tf_efficientnet_lite0": {"drop_path_rate": 0.1},
    # Long training with strong augmentation and large crops, so that the model also works on videos
    # from other sources.
    "tf_efficientnet_lite2": {
        "input_size": 224,
        "epochs": 5,
        "patience": 5,
        "start_size": 128,
        "learning_rate": 3e-4,
        "weight_decay": 0.05,
        "drop_rate": 0.3,
        "drop_path_rate": 0.15,
        "augmentation": "strong",
        "self_blend_share": 0.12,
        "reconstruction_share": 0.2,
        "pair_share": 0.5,
        "min_pair_difference": 4.0,
        "ema_decay": 0.999,
    },
}


@cache  # timm takes a tenth of a second to sort its names
def names(pattern: str = "*") -> tuple[str, ...]:
    """Return the sorted names of timm's image models that match a shell-style pattern."""
    return tuple(timm.list_models(pattern))


def builder(name: str) -> Callable[..., nn.Module]:
    """Return a function that builds timm's model `name`.

    The returned function takes `drop_rate` and `drop_path_rate`, as `create` does.
    """
    return partial(create, name)


def create(name: str, drop_rate: float = 0.0, drop_path_rate: float = 0.0) -> nn.Module:
    """Return timm's model `name` with one output and random weights.

    Args:
        name: One of `names()`, without a tag of pretrained weights, such as `.in1k`.
        drop_rate: Dropout before the last layer, 0 to 1. It has an effect only in training.
        drop_path_rate: Rate of stochastic depth (Huang et al. 2016), 0 to 1. It has an effect only
            in training. Only architectures with residual blocks have it.

    Raises:
        TypeError: `drop_path_rate` is above 0, but the architecture has no residual blocks.
    """
    build = partial(timm.create_model, name, pretrained=False, num_classes=1, drop_rate=drop_rate)
    if name.startswith("vgg"):
        build = partial(build, conv_layer=_Conv)
    try:
        model = build(drop_path_rate=drop_path_rate)
    except TypeError:
        if drop_path_rate:
            raise
        model = build()  # the architecture has no residual blocks, and takes no such argument
    # For an EfficientNet with one output, timm draws the weights of the head from U(-1, 1), which
    # gives logits of +-30.
    for parameter in head_parameters(model):
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=HEAD_STD)
        else:
            nn.init.zeros_(parameter)
    return model


def head_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Return the weights and biases of a model's head (its last layer).

    If the model has several heads, the weights and biases of all heads are returned.
    """
    get_classifier: Any = model.get_classifier
    head = get_classifier()
    heads = head if isinstance(head, tuple) else (head,)
    return [parameter for one in heads for parameter in one.parameters()]


def normalisation(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean and std with which timm normalises the input of its model `name`.

    Mean and std have one value for each RGB channel, for pixel values of 0 to 1.
    """
    pretrained = timm.get_pretrained_cfg(name)
    config = resolve_data_config(pretrained_cfg=pretrained.to_dict() if pretrained else {})
    return tuple(config["mean"]), tuple(config["std"])


class _Conv(nn.Conv2d):
    """A convolution that is computed as a linear layer if its kernel covers the whole input.

    timm's VGG has convolutions in place of fully connected layers. On a CPU, the first of these
    convolutions takes half of the network's time. As a linear layer it is faster.
    """

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if images.shape[-2:] != self.kernel_size or any(self.padding):
            return super().forward(images)
        weight = self.weight
        if weight.is_contiguous(memory_format=torch.channels_last):
            weight, images = weight.permute(0, 2, 3, 1), images.permute(0, 2, 3, 1)
        output = linear(images.flatten(1), weight.flatten(1), self.bias)
        return output[:, :, None, None]
