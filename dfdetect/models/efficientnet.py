"""EfficientNets (Tan & Le, ICML 2019) with the paddings and heads of published detectors.

The networks and the names of their tensors are those of timm. The table says how each variant
differs from timm's network:

| name | difference |
| --- | --- |
| `efficientnet_b0_fixed` to `_b7_fixed` | paddings of efficientnet_pytorch 0.7 and later |
| `efficientnet_b0_fixed06` to `_b7_fixed06` | paddings of efficientnet_pytorch before 0.7 |
| `efficientnet_b2_gwap` to `_b7_gwap` | global weighted average pooling (Qiu 2018) |
| `efficientnet_b2_srm` to `_b7_srm` | noise filters before the first layer (Zhou et al. 2018) |
| `efficientnet_b4_attention` | attention map after the tenth block (Bonettini et al. 2020) |
| `efficientnet_b4_unpadded_stem` | no padding before the first layer |
| `efficientnet_b7_sequence` | takes clips of seven frames (Davletshin et al. 2020) |

The padding of a convolution with stride 2 depends on the size of its input. timm's `tf_` networks
use the actual size, as TensorFlow does. The package efficientnet_pytorch uses the size for which
the network was designed, such as 224 x 224 pixels for EfficientNet-B0. Versions 0.7 and later halve
this size after each convolution with stride 2. Earlier versions use the full size in all layers.
"""

from collections.abc import Callable
from math import ceil
from typing import Any

import timm
import torch
from torch import nn
from torch.nn.functional import conv2d, pad

from dfdetect.models.registry import register_model
from dfdetect.models.timm_models import HEAD_STD

# Side of the images that each network was designed for, in pixels.
DESIGNED_FOR = {0: 224, 1: 240, 2: 260, 3: 300, 4: 380, 5: 456, 6: 528, 7: 600}
# Number of the stage, counted from 0, whose output is multiplied by the attention map.
ATTENTION_STAGE = 2
CLIP_LENGTH = 7


class FixedPaddingConv2d(nn.Conv2d):
    """A convolution that always has the same padding, whatever the size of its input.

    Args:
        convolution: The convolution whose weight and stride are used.
        size: Height and width of the input for which the padding is computed.
    """

    def __init__(self, convolution: nn.Conv2d, size: int):
        stride, kernel = convolution.stride[0], convolution.kernel_size[0]
        super().__init__(
            convolution.in_channels,
            convolution.out_channels,
            kernel,
            stride=stride,
            groups=convolution.groups,
            bias=convolution.bias is not None,
        )
        self.weight = convolution.weight
        total = max(0, (ceil(size / stride) - 1) * stride + kernel - size)
        self.sides = (total // 2, total - total // 2) * 2

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the convolution of the padded `images` (batch, channels, height, width)."""
        return super().forward(pad(images, self.sides))


class Swish(nn.Module):
    """x * sigmoid(x), computed as in efficientnet_pytorch.

    `nn.SiLU` is faster, but rounds differently: the logits change by up to 4e-5.

    Args:
        inplace: Has no effect. The argument exists because timm's networks pass it to all
            activations.
    """

    def __init__(self, inplace: bool = False):
        super().__init__()

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return x * sigmoid(x) for each value of `features`, in the same shape."""
        return features * features.sigmoid()


class EfficientNet(nn.Module):
    """One of timm's networks `tf_efficientnet_b0` to `tf_efficientnet_b7`, in two parts.

    `forward_features` computes features from images. `forward_head` computes logits from features.

    Args:
        variant: The number in the name of the network, 0 to 7.
        drop_rate: Dropout before the last layer, 0 to 1.
        drop_path_rate: Rate of stochastic depth (Huang et al. 2016), 0 to 1.

    Example:
        >>> EfficientNet(0)(torch.zeros(2, 3, 64, 64)).shape
        torch.Size([2, 1])
    """

    network: Any
    activation: type[nn.Module] = nn.SiLU

    def __init__(self, variant: int, drop_rate: float = 0.0, drop_path_rate: float = 0.0):
        super().__init__()
        self.network = timm.create_model(
            f"tf_efficientnet_b{variant}",
            pretrained=False,
            num_classes=1,
            drop_rate=drop_rate,
            drop_path_rate=drop_path_rate,
            act_layer=self.activation,
        )
        # For a head with one output, timm draws weights from U(-1, 1), which gives logits of +-30.
        head: nn.Linear = self.network.classifier
        nn.init.normal_(head.weight, std=HEAD_STD)
        nn.init.zeros_(head.bias)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits (batch, 1) of normalised images (batch, 3, height, width)."""
        return self.forward_head(self.forward_features(images))

    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        """Return features (batch, channels, height / 32, width / 32) of normalised images."""
        return self.network.forward_features(images)

    def forward_head(self, features: torch.Tensor) -> torch.Tensor:
        """Return logits (batch, 1) of the features that `forward_features` returns."""
        return self.network.forward_head(features)

    def get_classifier(self) -> nn.Module:
        """Return the last layer, like the method of the same name in timm's models."""
        return self.network.classifier

    def strided(self) -> list[tuple[nn.Module, str]]:
        """Return the parent module and the attribute name of each convolution with stride 2."""
        places = [(self.network, "conv_stem")]
        places += [(stage[0], "conv_dw") for stage in self.network.blocks]
        return [(home, name) for home, name in places if getattr(home, name).stride[0] == 2]

    def fix_paddings(self, size: int, layer_by_layer: bool = True) -> None:
        """Give every convolution with stride 2 a padding that does not depend on the actual image.

        Args:
            size: Side in pixels of the images for which the paddings are computed.
            layer_by_layer: If True, the size is halved after each of these convolutions. If False,
                all of them get the padding for `size`.
        """
        for home, name in self.strided():
            setattr(home, name, FixedPaddingConv2d(getattr(home, name), size))
            size = ceil(size / 2) if layer_by_layer else size


class FixedEfficientNet(EfficientNet):
    """An EfficientNet with the fixed paddings of efficientnet_pytorch 0.7 and later.

    The paddings are computed for the image size that the network was designed for. Images of other
    sizes get the same paddings.
    """

    activation = Swish
    layer_by_layer = True

    def __init__(self, variant: int, drop_rate: float = 0.0, drop_path_rate: float = 0.0):
        super().__init__(variant, drop_rate, drop_path_rate)
        self.fix_paddings(DESIGNED_FOR[variant], self.layer_by_layer)


class Fixed06EfficientNet(FixedEfficientNet):
    """An EfficientNet with the fixed paddings of efficientnet_pytorch before version 0.7."""

    layer_by_layer = False


class WeightedPoolingEfficientNet(EfficientNet):
    """An EfficientNet that pools its features by a weighted mean over the image.

    "Global Weighted Average Pooling Bridges Pixel-level Localization and Image-level
    Classification", Qiu 2018. The weight of a position in the feature map is exp(sigmoid(score)).
    The score is a learned linear function of the features at this position.
    """

    def __init__(self, variant: int, drop_rate: float = 0.0, drop_path_rate: float = 0.0):
        super().__init__(variant, drop_rate, drop_path_rate)
        self.score = nn.Conv2d(self.network.num_features, 1, 1)
        self.dropout = nn.Dropout(drop_rate)

    def forward_head(self, features: torch.Tensor) -> torch.Tensor:
        """Return logits (batch, 1) of the features that `forward_features` returns."""
        weights = self.score(features).sigmoid().exp()
        weights = weights / weights.sum(dim=(2, 3), keepdim=True)
        pooled = (weights * features).sum(dim=(2, 3))
        return self.network.classifier(self.dropout(pooled))


class NoiseEfficientNet(EfficientNet):
    """An EfficientNet that takes an image, extracts its noise, and uses only the noise."""

    def __init__(self, variant: int, drop_rate: float = 0.0, drop_path_rate: float = 0.0):
        super().__init__(variant, drop_rate, drop_path_rate)
        self.noise_filters: torch.Tensor
        self.register_buffer("noise_filters", noise_filters().expand(3, 3, 5, 5).clone())

    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        """Return features (batch, channels, height / 32, width / 32) of the noise in images.

        The noise is extracted with fixed filters: see the function `noise_filters`.

        Args:
            images: Normalised images of shape (batch, 3, height, width).
        """
        return super().forward_features(conv2d(images, self.noise_filters, padding=2))


@register_model("efficientnet_b4_attention")
class AttentionEfficientNet(FixedEfficientNet):
    """EfficientNet-B4 that multiplies its features after the tenth block by an attention map.

    "Video Face Manipulation Detection Through Ensemble of CNNs", Bonettini et al., ICPR 2020. At
    each position, a linear function turns the features into a number. The sigmoid of this number is
    the value of the map.

    Example:
        >>> AttentionEfficientNet()(torch.zeros(1, 3, 64, 64)).shape
        torch.Size([1, 1])
    """

    def __init__(self, drop_rate: float = 0.0, drop_path_rate: float = 0.0):
        super().__init__(4, drop_rate, drop_path_rate)
        channels = self.network.feature_info[ATTENTION_STAGE]["num_chs"]
        self.attention = nn.Conv2d(channels, 1, 1)

    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        """Return features (batch, channels, height / 32, width / 32) of normalised images."""
        network = self.network
        features = network.bn1(network.conv_stem(images))
        for number, stage in enumerate(network.blocks):
            features = stage(features)
            if number == ATTENTION_STAGE:
                features = features * self.attention(features).sigmoid()
        return network.bn2(network.conv_head(features))


@register_model("efficientnet_b4_unpadded_stem")
class UnpaddedStemEfficientNet(FixedEfficientNet):
    """The EfficientNet-B4 of DeepfakeBench (Yan et al. 2023), whose first layer has no padding.

    Example:
        >>> UnpaddedStemEfficientNet()(torch.zeros(1, 3, 64, 64)).shape
        torch.Size([1, 1])
    """

    def __init__(self, drop_rate: float = 0.0, drop_path_rate: float = 0.0):
        super().__init__(4, drop_rate, drop_path_rate)
        stem = self.network.conv_stem
        self.network.conv_stem = nn.Conv2d(3, stem.out_channels, 3, stride=2, bias=False)


class TimeConv(nn.Module):
    """A convolution over three successive frames, which replaces a 1 x 1 convolution.

    Args:
        convolution: The 1 x 1 convolution to replace.
        length: Number of frames in a clip.
    """

    def __init__(self, convolution: nn.Conv2d, length: int):
        super().__init__()
        channels = convolution.in_channels, convolution.out_channels
        self.conv = nn.Conv3d(*channels, (3, 1, 1), padding=(1, 0, 0), bias=False)
        self.length = length

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return the features, convolved over the frames of each clip.

        Input and output have the shape (batch * length, channels, height, width).
        """
        clips = features.unflatten(0, (-1, self.length)).transpose(1, 2)
        return self.conv(clips).transpose(1, 2).flatten(0, 1)


@register_model("efficientnet_b7_sequence", input="clip")
class SequenceEfficientNet(Fixed06EfficientNet):
    """EfficientNet-B7 for clips: its blocks also use the features of the previous and next frame.

    The blocks of the first stage are an exception. The logit of a clip is the mean of the logits of
    its frames. The network is from the third-placed solution of the Deepfake Detection Challenge
    (Davletshin et al. 2020).

    Example:
        >>> SequenceEfficientNet()(torch.zeros(1, 7, 3, 64, 64)).shape
        torch.Size([1, 1])
    """

    def __init__(self, drop_rate: float = 0.0, drop_path_rate: float = 0.0):
        super().__init__(7, drop_rate, drop_path_rate)
        for stage in self.network.blocks[1:]:
            for block in stage:
                block.conv_pw = TimeConv(block.conv_pw, CLIP_LENGTH)

    def forward_features(self, clips: torch.Tensor) -> torch.Tensor:
        """Return features (batch, 7, channels, rows, columns) of normalised clips."""
        return super().forward_features(clips.flatten(0, 1)).unflatten(0, clips.shape[:2])

    def forward_head(self, features: torch.Tensor) -> torch.Tensor:
        """Return logits (batch, 1) of the features that `forward_features` returns."""
        logits = super().forward_head(features.flatten(0, 1))
        return logits.unflatten(0, features.shape[:2]).mean(dim=1)


def noise_filters() -> torch.Tensor:
    """Return three filters of 5 x 5 pixels that extract noise from an image, shape (3, 1, 5, 5).

    Zhou et al., "Learning Rich Features for Image Manipulation Detection", CVPR 2018. The filters
    remove the smooth parts of the image, so that the noise remains. The first filter computes
    second differences of three pixels in a row. The second filter computes differences of 3 x 3
    pixels along rows and columns. The third filter does the same for 5 x 5 pixels.
    """
    line = torch.tensor([1.0, -2.0, 1.0])
    row, square = torch.zeros(5, 5), torch.zeros(5, 5)
    row[2, 1:4] = line / 2
    square[1:4, 1:4] = -torch.outer(line, line) / 4
    wide = torch.tensor(
        [
            [-1.0, 2.0, -2.0, 2.0, -1.0],
            [2.0, -6.0, 8.0, -6.0, 2.0],
            [-2.0, 8.0, -12.0, 8.0, -2.0],
            [2.0, -6.0, 8.0, -6.0, 2.0],
            [-1.0, 2.0, -2.0, 2.0, -1.0],
        ]
    )
    return torch.stack([row, square, wide / 12])[:, None]


def _register(name: str, kind: Callable[..., EfficientNet], variant: int) -> None:
    def build(drop_rate: float = 0.0, drop_path_rate: float = 0.0) -> EfficientNet:
        return kind(variant, drop_rate, drop_path_rate)

    register_model(f"efficientnet_b{variant}_{name}")(build)


for _variant in DESIGNED_FOR:
    _register("fixed", FixedEfficientNet, _variant)
    _register("fixed06", Fixed06EfficientNet, _variant)
    if _variant >= 2:
        _register("gwap", WeightedPoolingEfficientNet, _variant)
        _register("srm", NoiseEfficientNet, _variant)
