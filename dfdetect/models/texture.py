"""An EfficientNet that also uses the texture of a face: statistics of the network's early features.

The texture statistics of a crop are the mean and the standard deviation of each early feature over
the image. They say how smooth, sharp and noisy the crop is, but little about the person. (Such
statistics are known as style: Gatys et al. 2016, "Image Style Transfer Using Convolutional Neural
Networks"; Huang & Belongie 2017.) A detector's deep features memorise the sources that it was
trained on. On faces of other sources (data sets or sites), a linear function of the statistics
separates REAL from FAKE better than the deep features do. The statistics hardly help on faces
of the Deepfake Detection Challenge, whose REAL and FAKE faces have the same texture. The model
therefore computes two logits, one for faces like those of the challenge and one for all other
faces. A second function of the statistics, the relevance, is the weight (0 to 1) of the logit for
all other faces.

The statistics of a whole track also show how steady the face is: see `dfdetect.models.steadiness`.
"""

from typing import Any

import torch
from torch import nn
from torch.nn.functional import dropout

from dfdetect.models import timm_models
from dfdetect.models.registry import register_model
from dfdetect.models.steadiness import Steadiness

# Numbers (from 0) of the stages whose statistics are used. The features of these stages have a
# quarter to a sixteenth of the image's height and width.
STAGES = (1, 2, 4)
# A logit whose sigmoid is 0 in float32.
IRRELEVANT = -100.0


@register_model("tf_efficientnet_lite2_texture")
class TextureEfficientNet(nn.Module):
    """EfficientNet-Lite2 with texture, and with one logit for the challenge and one for all others.

    logit = (1 - relevance) * challenge logit + relevance * (deep logit + texture logit)

    The challenge logit is the logit of EfficientNet-Lite2 alone. The deep logit is another linear
    function of the deep features. The texture logit is a linear function of the texture statistics,
    which are means and standard deviations of early features over the crop. The relevance is the
    sigmoid of another linear function of these statistics. If the crops of a whole track are known,
    `track_logits` adds the relevance times the logit of the steadiness. Until
    `dfdetect.training.texture` fits the model, the relevance is 0.

    Args:
        drop_rate: Dropout before the last layer, 0 to 1.
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
        """Return the deep features of normalised images, and the texture statistics, as one tensor.

        Returns:
            Shape (batch, channels, height / 32, width / 32). The channels of the deep features come
            first. Each further channel is one statistic, with the same value at all positions.
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
        return self.combine(deep, statistics)[0]

    def forward_values(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logit of each normalised image and its statistics: (batch, 1 + statistics)."""
        deep, statistics = self.pool(self.forward_features(images))
        return torch.cat([self.combine(deep, statistics)[0], statistics], 1)

    def track_logits(self, values: torch.Tensor) -> torch.Tensor:
        """Return the logits of the images of one track, shape (images,).

        Args:
            values: What `forward_values` returned for these images.
        """
        logits, statistics = values[:, 0], values[:, 1:]
        relevance = self.relevance(statistics).sigmoid().mean()
        return logits + relevance * self.steadiness(statistics)

    def combine(
        self, deep: torch.Tensor, statistics: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the logits of crops, and the relevance of the texture of each crop.

        Both have the shape (batch, 1). The arguments are what `pool` returns.
        """
        relevance = self.relevance(statistics).sigmoid()
        challenge = self.network.classifier(deep)
        others = self.deep(deep) + self.texture(statistics)
        return challenge + relevance * (others - challenge), relevance

    def pool(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the means of the deep features over the image, and the texture statistics.

        The shapes are (batch, channels) and (batch, statistics).
        """
        pooled = features.mean(dim=(2, 3))
        deep, statistics = pooled.split([self.network.num_features, self.statistics], dim=1)
        return deep, statistics

    def get_classifier(self) -> nn.Module:
        """Return the layer of the challenge logit, like the method of timm's models."""
        classifier: nn.Module = self.network.classifier
        return classifier


def mean_and_std(features: torch.Tensor) -> list[torch.Tensor]:
    """Return the mean and the standard deviation of each feature over the image.

    Both are float32 of shape (batch, channels).

    Example:
        >>> mean_and_std(torch.tensor([0.0, 2.0, 2.0, 0.0]).reshape(1, 1, 2, 2))
        [tensor([[1.]]), tensor([[1.]])]
    """
    features = features.float()
    mean = features.mean(dim=(2, 3), keepdim=True)
    # A square root has no finite gradient at 0.
    variance = (features - mean).square().mean(dim=(2, 3))
    return [mean.flatten(1), variance.clamp_min(torch.finfo(torch.float32).tiny).sqrt()]
