"""An EfficientNet that also uses the texture of a face: statistics of the network's early features.

The texture statistics of a crop are the mean and the standard deviation of each early feature over
the image. They say how smooth, sharp and noisy the crop is, but little about the person. They are
also known as style (Gatys et al. 2016, "Image Style Transfer Using Convolutional Neural Networks";
Huang & Belongie 2017).

The model computes two logits:

- The challenge logit is for faces like those of the Deepfake Detection Challenge. It does not use
  the texture, because the challenge's REAL and FAKE faces have the same texture.
- The wild logit is for faces from all other data sets and sites ("in the wild"). It also uses the
  texture. On these faces, the texture separates REAL from FAKE better than the network's last
  features do.

The result is the weighted mean of both logits. The weight of the wild logit, 0 to 1, is called the
relevance. It is computed from the texture statistics.

In tracks, the wild logit also uses how steady the face is: see `dfdetect.models.steadiness`.
"""

from typing import Any

import torch
from torch import nn
from torch.nn.functional import dropout

from dfdetect.models import timm_models
from dfdetect.models.registry import register_model
from dfdetect.models.steadiness import Steadiness

# Numbers (from 0) of the network's stages whose statistics are used. The features of these stages
# have a quarter to a sixteenth of the image's height and width.
STAGES = (1, 2, 4)
# A logit whose sigmoid is 0 in float32.
IRRELEVANT = -100.0


@register_model("tf_efficientnet_lite2_texture")
class TextureEfficientNet(nn.Module):
    """An EfficientNet-Lite2 that computes two logits, and returns their weighted mean.

    The challenge logit is for faces like those of the Deepfake Detection Challenge. The wild logit
    is for all other faces, and also uses their texture:

    - logit = (1 - relevance) * challenge logit + relevance * wild logit
    - wild logit = deep logit + texture logit (+ steadiness logit, in tracks)

    The challenge logit and the deep logit are linear functions of the deep features: the means of
    EfficientNet-Lite2's last features over the crop. The texture logit is a linear function of the
    texture statistics: means and standard deviations of early features over the crop. The relevance
    is the sigmoid of another linear function of the texture statistics. Until
    `dfdetect.training.texture` fits the model, the relevance is 0.

    A track is the sequence of crops of one face in one video. `track_logits` uses one relevance for
    all crops of a track, and adds the steadiness logit.

    Args:
        drop_rate: Dropout rate of the deep features, 0 to 1.
        drop_path_rate: Rate of stochastic depth (Huang et al. 2016), 0 to 1.

    Example:
        >>> TextureEfficientNet()(torch.zeros(2, 3, 64, 64)).shape
        torch.Size([2, 1])
    """

    base = "tf_efficientnet_lite2"
    network: Any

    def __init__(self, drop_rate: float = 0.0, drop_path_rate: float = 0.0):
        super().__init__()
        self.network = timm_models.create(self.base, drop_rate, drop_path_rate)
        channels = {info["module"]: info["num_chs"] for info in self.network.feature_info}
        self.statistics = 2 * sum(channels[f"blocks.{stage}"] for stage in STAGES)
        self.deep = nn.Linear(self.network.num_features, 1)
        self.texture = nn.Linear(self.statistics, 1)
        self.relevance = nn.Linear(self.statistics, 1)
        for layer in (self.deep, self.texture, self.relevance):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        nn.init.constant_(self.relevance.bias, IRRELEVANT)
        self.steadiness = Steadiness()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits (batch, 1) of normalised images (batch, 3, height, width)."""
        return self.forward_head(self.forward_features(images))

    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        """Return the last features and the texture statistics of normalised images, as one tensor.

        Returns:
            Shape (batch, channels, height / 32, width / 32). The channels of EfficientNet-Lite2's
            last features come first. Each further channel is one statistic, with the same value at
            all positions.
        """
        network, found = self.network, []
        features = network.bn1(network.conv_stem(images))
        for number, stage in enumerate(network.blocks):
            features = stage(features)
            if number in STAGES:
                found += mean_and_std(features)
        features = network.bn2(network.conv_head(features))
        statistics = torch.cat(found, 1)[:, :, None, None].to(features.dtype)
        return torch.cat([features, statistics.expand(-1, -1, *features.shape[2:])], 1)

    def forward_head(self, features: torch.Tensor) -> torch.Tensor:
        """Return logits (batch, 1) of features from `forward_features`."""
        deep, statistics = self.pool(features)
        deep = dropout(deep, self.network.drop_rate, self.training)
        return self.crop_values(deep, statistics)[:, :1]

    def forward_values(self, images: torch.Tensor) -> torch.Tensor:
        """Return what `crop_values` returns, for normalised images (batch, 3, height, width)."""
        return self.crop_values(*self.pool(self.forward_features(images)))

    def track_logits(self, values: torch.Tensor) -> torch.Tensor:
        """Return the logits of the images of one track, shape (images,).

        Args:
            values: The output of `forward_values` for these images.
        """
        challenge, wild, statistics = values[:, 1], values[:, 2], values[:, 3:]
        wild = wild + self.steadiness(statistics)
        return challenge + self.track_relevance(statistics) * (wild - challenge)

    def track_relevance(self, statistics: torch.Tensor) -> torch.Tensor:
        """Return the relevance of one track: the weight of its wild logit, a scalar from 0 to 1.

        Args:
            statistics: The texture statistics of the track's crops, shape (crops, statistics).
        """
        return self.relevance(statistics).mean().sigmoid()

    def crop_values(self, deep: torch.Tensor, statistics: torch.Tensor) -> torch.Tensor:
        """Return the logits and the texture statistics of each crop.

        The shape is (batch, 3 + number of statistics). The columns are, in this order:

        - the logit of the crop alone: the weighted mean of the next two columns;
        - the challenge logit;
        - the wild logit without the steadiness logit;
        - the texture statistics.

        The arguments are the two results of `pool`.
        """
        challenge, wild = self.both_logits(deep, statistics)
        relevance = self.relevance(statistics).sigmoid()
        logits = challenge + relevance * (wild - challenge)
        return torch.cat([logits, challenge, wild, statistics], 1)

    def both_logits(
        self, deep: torch.Tensor, statistics: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the challenge logit and the wild logit of each crop.

        Both have the shape (batch, 1). The wild logit lacks the steadiness logit. The arguments are
        the two results of `pool`.
        """
        return self.network.classifier(deep), self.deep(deep) + self.texture(statistics)

    def pool(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the deep features and the texture statistics of each crop.

        The shapes are (batch, channels) and (batch, statistics).

        Args:
            features: The output of `forward_features`.
        """
        pooled = features.mean(dim=(2, 3))
        deep, statistics = pooled.split([self.network.num_features, self.statistics], dim=1)
        return deep, statistics

    def get_classifier(self) -> nn.Module:
        """Return the layer that computes the challenge logit.

        The models of timm have a method of this name, too.
        """
        classifier: nn.Module = self.network.classifier
        return classifier


def mean_and_std(features: torch.Tensor) -> list[torch.Tensor]:
    """Return the mean and the standard deviation of each channel over all positions.

    Both are float32 of shape (batch, channels).

    Example:
        >>> mean_and_std(torch.tensor([0.0, 2.0, 2.0, 0.0]).reshape(1, 1, 2, 2))
        [tensor([[1.]]), tensor([[1.]])]
    """
    features = features.float()
    mean = features.mean(dim=(2, 3), keepdim=True)
    # The gradient of a square root is infinite at 0, so the variance is kept above 0.
    variance = (features - mean).square().mean(dim=(2, 3))
    return [mean.flatten(1), variance.clamp_min(torch.finfo(torch.float32).tiny).sqrt()]
