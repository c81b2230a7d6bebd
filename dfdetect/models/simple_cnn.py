"""Two small convolutional networks that end in fully connected layers of 120, 84 and 1 units.

`simple_cnn_1` follows VGG (Simonyan & Zisserman, ICLR 2015), with batch normalisation (Ioffe &
Szegedy, ICML 2015). It has 353,809 weights. The table gives the height and width (side) of the
feature maps for images of 128 by 128 pixels.

| layer | channels | side |
| --- | --- | --- |
| 4 x (conv 3 x 3, batch normalisation, ReLU, max pool 2 x 2) | 16, 32, 64, 128 | 64, 32, 16, 8 |
| mean of each cell in a grid of 4 x 4 cells | 128 | 4 |
| 3 x (dropout, linear), with a ReLU after the first two | 120, 84, 1 | |

`simple_cnn_2` follows LeNet-5 (LeCun et al., Proc. IEEE 1998), but uses ReLU and max pooling. It
has 61,241 weights. With 10 outputs it would have 62,006, as many as the network in PyTorch's
CIFAR-10 tutorial. The table gives the side of the feature maps for images of 64 by 64 pixels.

| layer | channels | side |
| --- | --- | --- |
| conv 5 x 5, ReLU, max pool 2 x 2 | 6 | 30 |
| conv 5 x 5, ReLU, max pool 2 x 2 | 16 | 13 |
| mean of each cell in a grid of 5 x 5 cells | 16 | 5 |
| 3 x (dropout, linear), with a ReLU after the first two | 120, 84, 1 | |
"""

from itertools import pairwise

import torch
from torch import nn

from dfdetect.models.registry import register_model

WIDTHS = (16, 32, 64, 128)
GRID_1, GRID_2 = 4, 5
UNITS = (120, 84)


@register_model(
    "simple_cnn_1",
    recipe={"input_size": 128, "epochs": 20, "patience": 6, "learning_rate": 2e-3},
)
class SimpleCNN1(nn.Module):
    """Four 3 x 3 convolutions and three linear layers, for images of at least 16 x 16 pixels.

    Args:
        drop_rate: Dropout before each linear layer, 0 to 1.
        outputs: Number of logits.

    Example:
        >>> SimpleCNN1()(torch.zeros(2, 3, 128, 128)).shape
        torch.Size([2, 1])
    """

    def __init__(self, drop_rate: float = 0.0, outputs: int = 1):
        super().__init__()
        self.features = conv_blocks()
        self.pool = nn.AdaptiveAvgPool2d(GRID_1)
        self.classifier = _fully_connected(WIDTHS[-1] * GRID_1**2, drop_rate, outputs)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits (batch, outputs) of normalised images (batch, 3, size, size)."""
        return self.forward_head(self.forward_features(images))

    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        """Return features (batch, channels, side, side) of normalised images."""
        return self.features(images)

    def forward_head(self, features: torch.Tensor) -> torch.Tensor:
        """Return logits (batch, outputs) of the features that `forward_features` returns."""
        return self.classifier(self.pool(features))

    def get_classifier(self) -> nn.Module:
        """Return the last layer, like the method of the same name in timm's models."""
        return self.classifier[-1]


@register_model(
    "simple_cnn_2",
    recipe={"input_size": 64, "epochs": 8, "learning_rate": 1e-3, "drop_rate": 0.0},
)
class SimpleCNN2(nn.Module):
    """LeNet-5 with ReLU and max pooling, for colour images of at least 24 x 24 pixels.

    Args:
        drop_rate: Dropout before each linear layer, 0 to 1.
        outputs: Number of logits.

    Example:
        >>> SimpleCNN2()(torch.zeros(2, 3, 64, 64)).shape
        torch.Size([2, 1])
    """

    def __init__(self, drop_rate: float = 0.0, outputs: int = 1):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 6, 5),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
        )
        self.pool = nn.AdaptiveAvgPool2d(GRID_2)
        self.classifier = _fully_connected(16 * GRID_2**2, drop_rate, outputs)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits (batch, outputs) of normalised images (batch, 3, size, size)."""
        return self.forward_head(self.forward_features(images))

    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        """Return features (batch, channels, side, side) of normalised images."""
        return self.features(images)

    def forward_head(self, features: torch.Tensor) -> torch.Tensor:
        """Return logits (batch, outputs) of the features that `forward_features` returns."""
        return self.classifier(self.pool(features))

    def get_classifier(self) -> nn.Module:
        """Return the last layer, like the method of the same name in timm's models."""
        return self.classifier[-1]


def conv_blocks() -> nn.Sequential:
    """Return the convolutions of `simple_cnn_1`, which divide height and width by 16."""
    layers: list[nn.Module] = []
    for before, after in pairwise((3, *WIDTHS)):
        layers += [
            nn.Conv2d(before, after, 3, padding=1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
        ]
    return nn.Sequential(*layers)


def _fully_connected(inputs: int, drop_rate: float, outputs: int) -> nn.Sequential:
    first, second = UNITS
    return nn.Sequential(
        nn.Flatten(),
        nn.Dropout(drop_rate),
        nn.Linear(inputs, first),
        nn.ReLU(inplace=True),
        nn.Dropout(drop_rate),
        nn.Linear(first, second),
        nn.ReLU(inplace=True),
        nn.Dropout(drop_rate),
        nn.Linear(second, outputs),
    )
