"""WS-DAN: features pooled by several attention maps (Hu et al. 2019).

"See Better Before Looking Closer: Weakly Supervised Data Augmentation Network for Fine-Grained
Visual Classification", arXiv:1901.09891. The network computes eight attention maps. For each map,
it computes the mean of the features, weighted by the map (bilinear attention pooling). It takes the
square root of each mean, and scales the vector of all roots to a Euclidean norm of 100. A linear
layer without a bias follows. The second-placed solution of the Deepfake Detection Challenge used
this network.

| name | network |
| --- | --- |
| `wsdan_xception` | Xception (Chollet, CVPR 2017) |
| `wsdan_efficientnet_b3` | EfficientNet-B3 (Tan & Le, ICML 2019) |
"""

from typing import Any

import torch
from torch import nn
from torch.nn.functional import normalize

from dfdetect.models.efficientnet import Fixed06EfficientNet
from dfdetect.models.registry import register_model
from dfdetect.models.xception import Xception

MAPS = 8
EPSILON = 1e-12
LENGTH = 100.0


class WSDAN(nn.Module):
    """A network, followed by bilinear attention pooling and a linear layer.

    Args:
        network: A network with a method `forward_features` and without its own last layer.
        channels: Number of channels of the network's features.
        drop_rate: Dropout of the pooled features, 0 to 1.
    """

    network: Any

    def __init__(self, network: Any, channels: int, drop_rate: float):
        super().__init__()
        self.network = network
        self.attention = nn.Sequential(
            nn.Conv2d(channels, MAPS, 1, bias=False), nn.BatchNorm2d(MAPS, eps=1e-3), nn.ReLU()
        )
        self.dropout = nn.Dropout(drop_rate)
        self.head = nn.Linear(MAPS * channels, 1, bias=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits (batch, 1) of normalised images (batch, 3, size, size)."""
        return self.forward_head(self.forward_features(images))

    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        """Return features (batch, channels, side, side) of normalised images."""
        return self.network.forward_features(images)

    def forward_head(self, features: torch.Tensor) -> torch.Tensor:
        """Return logits (batch, 1) of the features that `forward_features` returns."""
        places = features.shape[-2] * features.shape[-1]
        pooled = torch.einsum("bmhw,bchw->bmc", self.attention(features), features) / places
        pooled = self.dropout(pooled).flatten(1)
        rooted = pooled.sign() * (pooled.abs() + EPSILON).sqrt()
        return self.head(LENGTH * normalize(rooted, dim=-1))

    def get_classifier(self) -> nn.Module:
        """Return the last layer, like the method of the same name in timm's models."""
        return self.head


@register_model("wsdan_xception")
class XceptionWSDAN(WSDAN):
    """Xception with the head of WS-DAN (Weakly Supervised Data Augmentation Network).

    Example:
        >>> XceptionWSDAN()(torch.zeros(2, 3, 96, 96)).shape
        torch.Size([2, 1])
    """

    def __init__(self, drop_rate: float = 0.0):
        network = Xception()
        del network.head
        super().__init__(network, 2048, drop_rate)


@register_model("wsdan_efficientnet_b3")
class EfficientNetWSDAN(WSDAN):
    """EfficientNet-B3 with the head of WS-DAN (Weakly Supervised Data Augmentation Network).

    Example:
        >>> EfficientNetWSDAN()(torch.zeros(2, 3, 96, 96)).shape
        torch.Size([2, 1])
    """

    def __init__(self, drop_rate: float = 0.0):
        network = Fixed06EfficientNet(3)
        del network.network.classifier
        super().__init__(network, network.network.num_features, drop_rate)
