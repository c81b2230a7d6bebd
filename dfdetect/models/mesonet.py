"""Meso4 and MesoInception4 (Afchar et al., WIFS 2018).

The paper is "MesoNet: a Compact Facial Video Forgery Detection Network". The networks have four
convolutional layers and two linear layers. A ReLU, batch normalisation and max pooling follow each
convolutional layer. The table gives the height and width (side) of the feature maps for the paper's
input of 256 by 256 pixels.

| layer | Meso4 | MesoInception4 | side after pooling |
| --- | --- | --- | --- |
| 1 | conv 3 x 3, 8 channels | inception, 11 channels | 128 |
| 2 | conv 5 x 5, 8 channels | inception, 12 channels | 64 |
| 3 | conv 5 x 5, 16 channels | the same | 32 |
| 4 | conv 5 x 5, 16 channels | the same | 8 |
| | dropout, linear to 16, leaky ReLU, dropout, linear to 1 | the same | |

An inception layer concatenates the outputs of four branches. The first branch is a 1 x 1
convolution. Each of the other three branches is a 1 x 1 convolution followed by a 3 x 3
convolution. The dilations of the 3 x 3 convolutions are 1, 2 and 3.

Meso4 has 27,977 weights and MesoInception4 has 28,615.
"""

from collections.abc import Sequence

import torch
from torch import nn

from dfdetect.models.registry import register_model

SIDE_AFTER_LAYERS = 8
HIDDEN = 16
# Epsilon of the batch norms: the default value in Keras, which the authors used.
EPSILON = 1e-3
# Number of output channels of each branch, in the first and the second inception layer.
INCEPTION_1 = (1, 4, 4, 2)
INCEPTION_2 = (2, 4, 4, 2)


class _MesoNet(nn.Module):
    """The base class of Meso4 and MesoInception4, which differ only in their first two layers.

    A subclass passes these two layers as `layers`, and the number of output channels of the second
    layer as `channels`. This class adds all other layers.
    """

    def __init__(self, layers: Sequence[nn.Module], channels: int, drop_rate: float):
        super().__init__()
        self.layers = nn.Sequential(
            *layers,
            *_conv(channels, 16, 5),
            *_end_of_layer(16, 2),
            *_conv(16, 16, 5),
            *_end_of_layer(16, 4),
            # Inputs of 256 pixels give features of this side. Features of another side are resized.
            nn.AdaptiveAvgPool2d(SIDE_AFTER_LAYERS),
            nn.Flatten(),
        )
        self.hidden = nn.Sequential(
            nn.Dropout(drop_rate),
            nn.Linear(16 * SIDE_AFTER_LAYERS**2, HIDDEN),
            nn.LeakyReLU(0.1),
            nn.Dropout(drop_rate),
        )
        self.head = nn.Linear(HIDDEN, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits (batch, 1) of images (batch, 3, size, size), with a size of 32 or more."""
        return self.head(self.hidden(self.layers(images)))

    def get_classifier(self) -> nn.Module:
        """Return the last layer, like the method of the same name in timm's models."""
        return self.head


@register_model("meso4")
class Meso4(_MesoNet):
    """Meso4: four convolutional layers and two linear layers.

    Args:
        drop_rate: Dropout before both linear layers, 0 to 1; the paper used 0.5.

    Example:
        >>> Meso4()(torch.zeros(2, 3, 256, 256)).shape
        torch.Size([2, 1])
    """

    def __init__(self, drop_rate: float = 0.0):
        layers = [*_conv(3, 8, 3), *_end_of_layer(8, 2), *_conv(8, 8, 5), *_end_of_layer(8, 2)]
        super().__init__(layers, 8, drop_rate)


@register_model("meso_inception4")
class MesoInception4(_MesoNet):
    """MesoInception4: Meso4 with inception layers in place of its first two layers.

    Args:
        drop_rate: Dropout before both linear layers, 0 to 1; the paper used 0.5.

    Example:
        >>> MesoInception4()(torch.zeros(2, 3, 256, 256)).shape
        torch.Size([2, 1])
    """

    rectified = True

    def __init__(self, drop_rate: float = 0.0):
        first, second = sum(INCEPTION_1), sum(INCEPTION_2)
        layers = [
            _Inception(3, INCEPTION_1, self.rectified),
            *_end_of_layer(first, 2),
            _Inception(first, INCEPTION_2, self.rectified),
            *_end_of_layer(second, 2),
        ]
        super().__init__(layers, second, drop_rate)


@register_model("meso_inception4_linear")
class MesoInception4Linear(MesoInception4):
    """MesoInception4 without ReLUs in its inception layers, as DeepfakeBench implements it.

    Example:
        >>> MesoInception4Linear()(torch.zeros(2, 3, 256, 256)).shape
        torch.Size([2, 1])
    """

    rectified = False


class _Inception(nn.Module):
    """A layer of four branches, whose outputs are concatenated.

    Args:
        before: Number of channels of the input.
        widths: Number of output channels of each branch.
        rectified: Whether a ReLU follows each convolution.
    """

    def __init__(self, before: int, widths: Sequence[int], rectified: bool):
        super().__init__()
        first, *others = widths
        branches = [nn.Sequential(*_conv(before, first, 1, rectified=rectified))]
        for dilation, width in enumerate(others, start=1):
            narrow = _conv(before, width, 1, rectified=rectified)
            wide = _conv(width, width, 3, dilation, rectified=rectified)
            branches.append(nn.Sequential(*narrow, *wide))
        self.branches = nn.ModuleList(branches)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return the concatenated outputs (batch, channels, side, side) of the four branches."""
        return torch.cat([branch(features) for branch in self.branches], dim=1)


def _conv(
    before: int, after: int, side: int, dilation: int = 1, rectified: bool = True
) -> list[nn.Module]:
    """Return a convolution that keeps height and width, followed by a ReLU if `rectified`."""
    padding = dilation * (side // 2)
    convolution = nn.Conv2d(before, after, side, padding=padding, dilation=dilation)
    return [convolution, nn.ReLU()] if rectified else [convolution]


def _end_of_layer(channels: int, pooling: int) -> list[nn.Module]:
    return [nn.BatchNorm2d(channels, eps=EPSILON), nn.MaxPool2d(pooling)]
