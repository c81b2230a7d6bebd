"""Xception: Chollet, "Xception: Deep Learning with Depthwise Separable Convolutions", CVPR 2017.

The network has 36 convolutions in 14 modules. Each module except the first and the last has a
linear residual connection around it. In the table, `sep` is a 3 x 3 depthwise separable
convolution. Batch normalisation follows every convolution. The ReLU in parentheses is only in
modules 3 and 4. The column `side` gives the height and width of the feature maps for the paper's
input of 299 x 299 pixels.

| flow | module | layers | channels | side |
| --- | --- | --- | --- | --- |
| entry | 1 | conv 3 x 3 stride 2, ReLU; conv 3 x 3, ReLU | 32, 64 | 147 |
| | 2-4 | (ReLU,) sep; ReLU, sep; max pool 3 x 3 stride 2 | 128; 256; 728 | 74, 37, 19 |
| middle | 5-12 | three times ReLU, sep | 728 | 19 |
| exit | 13 | ReLU, sep; ReLU, sep; max pool 3 x 3 stride 2 | 728, 1024 | 10 |
| | 14 | sep, ReLU; sep, ReLU; mean over the image | 1536, 2048 | 1 |
| head | | dropout, linear | outputs | |

With the 1000 outputs of the paper, the network has 22,855,952 weights ("22.8 million"). With one
output, it has 20,809,001. timm's `legacy_xception` is the same network under other tensor names.
"""

from itertools import pairwise

import torch
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d

from dfdetect.models.registry import register_model

WIDTHS = (128, 256, 728)
MIDDLE_MODULES = 8


@register_model(
    "xception",
    recipe={"input_size": 96, "epochs": 8, "learning_rate": 1e-3, "precision": "mixed"},
)
class Xception(nn.Module):
    """The Xception network, including the last linear layer.

    Args:
        drop_rate: Dropout before the linear layer, 0 to 1; the paper used 0.5 on ImageNet.
        outputs: Number of logits.
        inputs: Number of channels of the images.

    Example:
        >>> Xception()(torch.zeros(2, 3, 96, 96)).shape
        torch.Size([2, 1])
    """

    def __init__(self, drop_rate: float = 0.0, outputs: int = 1, inputs: int = 3):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(inputs, 32, 3, stride=2, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(inplace=True),
            nn.Conv2d(32, 64, 3, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(inplace=True),
        )
        self.entry = nn.Sequential(
            *(
                Module((before, after, after), start=before > 64)
                for before, after in pairwise((64, *WIDTHS))
            )
        )
        width = WIDTHS[-1]
        self.middle = nn.Sequential(*(Module((width,) * 4) for _ in range(MIDDLE_MODULES)))
        self.exit = nn.Sequential(
            Module((width, width, 1024)),
            *_separable(1024, 1536),
            nn.ReLU(inplace=True),
            *_separable(1536, 2048),
            nn.ReLU(inplace=True),
        )
        self.dropout = nn.Dropout(drop_rate)
        self.head = nn.Linear(2048, outputs)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits (batch, outputs) of normalised images (batch, 3, size, size)."""
        return self.forward_head(self.forward_features(images))

    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        """Return features (batch, 2048, side, side) of normalised images."""
        return self.exit(self.middle(self.entry(self.stem(images))))

    def forward_head(self, features: torch.Tensor) -> torch.Tensor:
        """Return logits (batch, outputs) of the features that `forward_features` returns."""
        return self.head(self.dropout(adaptive_avg_pool2d(features, 1).flatten(1)))

    def get_classifier(self) -> nn.Module:
        """Return the last layer, like the method of the same name in timm's models."""
        return self.head


class Module(nn.Module):
    """Separable convolutions with a linear residual connection around them.

    Args:
        channels: The number of channels of the input, then the number of output channels of each
            convolution. If the first number differs from the last, the module halves height and
            width, and the residual connection is a 1 x 1 convolution.
        start: Whether the module starts with a ReLU.
    """

    def __init__(self, channels: tuple[int, ...], start: bool = True):
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in pairwise(channels):
            # The ReLU must not change its input, which the residual connection also reads.
            layers += [nn.ReLU(), *_separable(before, after)]
        self.residual: nn.Module = nn.Identity()
        if channels[0] != channels[-1]:
            layers.append(nn.MaxPool2d(3, stride=2, padding=1))
            self.residual = nn.Sequential(
                nn.Conv2d(channels[0], channels[-1], 1, stride=2, bias=False),
                nn.BatchNorm2d(channels[-1]),
            )
        self.layers = nn.Sequential(*layers[0 if start else 1 :])

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return the sum of the outputs of the convolutions and of the residual connection.

        The output has the shape (batch, channels, side, side).
        """
        return self.layers(features) + self.residual(features)


def _separable(before: int, after: int) -> list[nn.Module]:
    """Return three layers: a depthwise convolution, a 1 x 1 convolution and a batch norm.

    There is no ReLU between the two convolutions.
    """
    return [
        nn.Conv2d(before, before, 3, padding=1, groups=before, bias=False),
        nn.Conv2d(before, after, 1, bias=False),
        nn.BatchNorm2d(after),
    ]
