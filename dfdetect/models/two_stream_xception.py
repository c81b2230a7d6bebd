"""A network of two Xceptions: one for the image, and one for its noise (Luo et al., CVPR 2021)."""

import torch
from torch import nn
from torch.nn.functional import conv2d, hardtanh

from dfdetect.errors import ArgumentError
from dfdetect.models.efficientnet import noise_filters
from dfdetect.models.registry import register_model
from dfdetect.models.xception import Xception

INPUT_SIZE = 256
# Side of the features that the streams exchange, for images of INPUT_SIZE.
EXCHANGED_SIDE = 16
CHANNELS = 728
# The features have KEY_RATIO times as many channels as the keys in `Exchange`, and GATE_RATIO times
# as many as the hidden layer of the gate in `Fusion`.
KEY_RATIO, GATE_RATIO = 8, 16
# Noise values are clipped to this absolute value, as in steganalysis (Fridrich & Kodovsky 2012).
CUT_OFF = 3.0
# Scale of the initial weights of `Exchange` and of the gate in `Fusion`.
START_GAIN = 0.02


@register_model("xception_srm", recipe={"input_size": INPUT_SIZE})
class TwoStreamXception(nn.Module):
    """Two streams that exchange features: an Xception for the image, and one for its noise.

    "Generalizing Face Forgery Detection with High-frequency Features", Luo et al., CVPR 2021, as
    DeepfakeBench implements it. Fixed filters (SRM) extract the noise of the image. The streams are
    connected in three ways:

    - The filters also extract noise from the outputs of the image stream's first two layers. This
      noise is added to the outputs of the noise stream's first two layers.
    - An attention map is computed from the noise of the image. It strengthens features of the image
      stream.
    - `Exchange` twice adds features of each stream to the other stream.

    Args:
        drop_rate: Dropout before the linear layer, 0 to 1.

    Example:
        >>> TwoStreamXception()(torch.zeros(2, 3, 256, 256)).shape
        torch.Size([2, 1])
    """

    def __init__(self, drop_rate: float = 0.0):
        super().__init__()
        self.image = Xception(drop_rate)
        self.noise = Xception()
        del self.noise.head
        self.image_noise = NoiseFilters(3, mixed=True)
        self.feature_noise = nn.ModuleList([FeatureNoise(32), FeatureNoise(64)])
        self.places = PlaceAttention()
        self.attended = nn.Sequential(nn.BatchNorm2d(64), nn.ReLU(inplace=True))
        self.exchanges = nn.ModuleList([Exchange(CHANNELS), Exchange(CHANNELS)])
        self.fusion = Fusion(2048)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits (batch, 1) of normalised images (batch, 3, 256, 256)."""
        return self.forward_head(self.forward_features(images))

    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        """Return features (batch, 2048, side, side) of normalised images.

        Raises:
            ArgumentError: The images do not have 256 by 256 pixels.
        """
        image, noise = images, self.image_noise(images)
        places = self.places(noise)
        for part, extract in zip((slice(0, 3), slice(3, None)), self.feature_noise, strict=True):
            image = self.image.stem[part](image)
            noise = (self.noise.stem[part](noise) + extract(image)).relu()
        image = self.attended(image * places + image)
        image, noise = self.image.entry(image), self.noise.entry(noise)
        for part, exchange in zip((slice(0, 4), slice(4, None)), self.exchanges, strict=True):
            image, noise = exchange(image, noise)
            image, noise = self.image.middle[part](image), self.noise.middle[part](noise)
        # The ReLU at the end of Xception is left out.
        return self.fusion(self.image.exit[:-1](image), self.noise.exit[:-1](noise))

    def forward_head(self, features: torch.Tensor) -> torch.Tensor:
        """Return logits (batch, 1) of the features that `forward_features` returns."""
        return self.image.forward_head(features)

    def get_classifier(self) -> nn.Module:
        """Return the last layer, like the method of the same name in timm's models."""
        return self.image.head


class NoiseFilters(nn.Module):
    """Three fixed filters that extract noise; see `dfdetect.models.efficientnet.noise_filters`.

    Args:
        channels: Number of channels of the input.
        mixed: If True, each filter adds up all filtered input channels and has one output channel.
            If False, each filter has one output channel for each input channel.
    """

    def __init__(self, channels: int, mixed: bool = False):
        super().__init__()
        filters = noise_filters()
        filters = filters.expand(-1, channels, -1, -1) if mixed else filters.tile(channels, 1, 1, 1)
        self.filters: torch.Tensor
        self.register_buffer("filters", filters.clone())
        self.groups = 1 if mixed else channels

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return the outputs of the filters for features (batch, channels, side, side).

        There are 3 output channels if `mixed` is True, otherwise 3 * channels. Their values are
        clipped to the range from -3 to 3.
        """
        noise = conv2d(features, self.filters, padding=2, groups=self.groups)
        return hardtanh(noise, -CUT_OFF, CUT_OFF)


class FeatureNoise(nn.Module):
    """Applies the fixed filters of `NoiseFilters` to each channel of features.

    The filters return three channels for each input channel. A 1 x 1 convolution then reduces them
    to the number of input channels.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.filters = NoiseFilters(channels)
        self.combine = nn.Sequential(
            nn.Conv2d(3 * channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return the filtered features, combined by the 1 x 1 convolution.

        Input and output have the shape (batch, channels, side, side).
        """
        return self.combine(self.filters(features))


class PlaceAttention(nn.Module):
    """Turns the noise of an image into an attention map for the features of the image."""

    def __init__(self) -> None:
        super().__init__()
        self.filters = NoiseFilters(3, mixed=True)
        self.layers = nn.Sequential(
            nn.Conv2d(3, 32, 3, stride=2, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(inplace=True),
            nn.Conv2d(32, 64, 3, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(inplace=True),
        )
        self.score = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, noise: torch.Tensor) -> torch.Tensor:
        """Return attention maps of shape (batch, 1, side, side), with values from 0 to 1.

        Args:
            noise: The noise of images, as `NoiseFilters` extracts it; shape (batch, 3, size, size).
        """
        features = self.layers(self.filters(noise))
        mean, most = features.mean(dim=1, keepdim=True), features.amax(dim=1, keepdim=True)
        return self.score(torch.cat([mean, most], dim=1)).sigmoid()


class Exchange(nn.Module):
    """Exchanges features: each of two streams gets a weighted sum of the other's features.

    The weight between two positions is large if their features are related. Luo et al. (see
    `TwoStreamXception`) call this dual cross-modality attention.
    """

    def __init__(self, channels: int):
        super().__init__()
        keys, places = channels // KEY_RATIO, EXCHANGED_SIDE**2
        self.image_key = nn.Conv2d(channels, keys, 1)
        self.noise_key = nn.Conv2d(channels, keys, 1)
        self.shared_key = nn.Conv2d(keys, keys, 1)
        self.image_scores = nn.Linear(places, places)
        self.noise_scores = nn.Linear(places, places)
        self.image_value = nn.Conv2d(channels, channels, 1)
        self.noise_value = nn.Conv2d(channels, channels, 1)
        self.image_gain = nn.Parameter(torch.zeros(1))
        self.noise_gain = nn.Parameter(torch.zeros(1))
        _start_small(self)

    def forward(
        self, image: torch.Tensor, noise: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the new features of both streams.

        Inputs and outputs have the shape (batch, channels, 16, 16).

        Raises:
            ArgumentError: The inputs do not have 16 by 16 positions.
        """
        if image.shape[-2:] != (EXCHANGED_SIDE, EXCHANGED_SIDE):
            raise ArgumentError(f"xception_srm takes images of {INPUT_SIZE} x {INPUT_SIZE} pixels")
        image_keys = self.shared_key(self.image_key(image)).flatten(2)
        noise_keys = self.shared_key(self.noise_key(noise)).flatten(2)
        related = image_keys.transpose(1, 2) @ noise_keys
        for_image = self.image_scores(related).softmax(dim=-1)
        for_noise = self.noise_scores(related.transpose(1, 2)).softmax(dim=-1)
        from_noise = self.noise_value(noise).flatten(2) @ for_image.transpose(1, 2)
        from_image = self.image_value(image).flatten(2) @ for_noise.transpose(1, 2)
        return (
            image + self.image_gain * from_noise.view_as(image),
            noise + self.noise_gain * from_image.view_as(noise),
        )


class Fusion(nn.Module):
    """Merges the features of two streams, and multiplies each channel by a weight.

    The weights are computed from the merged features, as in CBAM (Woo et al., ECCV 2018).
    """

    def __init__(self, channels: int):
        super().__init__()
        self.join = nn.Sequential(
            nn.Conv2d(2 * channels, channels, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()
        )
        self.gate = nn.Sequential(
            nn.Conv2d(channels, channels // GATE_RATIO, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(channels // GATE_RATIO, channels, 1, bias=False),
        )
        _start_small(self.gate)

    def forward(self, image: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Return the merged features; inputs and output are (batch, channels, side, side)."""
        features = self.join(torch.cat([image, noise], dim=1))
        mean = features.mean(dim=(2, 3), keepdim=True)
        most = features.amax(dim=(2, 3), keepdim=True)
        return features * (self.gate(mean) + self.gate(most)).sigmoid()


def _start_small(module: nn.Module) -> None:
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.xavier_normal_(layer.weight, gain=START_GAIN)
