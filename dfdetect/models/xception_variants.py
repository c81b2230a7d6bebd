"""Variants of Xception (Chollet, CVPR 2017) with the inputs and heads of published detectors."""

import torch
from torch import nn

from dfdetect.models.registry import register_model
from dfdetect.models.xception import Xception

UCF_CHANNELS = 512


@register_model("xception_phase")
class PhaseXception(Xception):
    """SPSL: an Xception that also uses the phases in the spectrum of the image.

    "Spatial-Phase Shallow Learning: Rethinking Face Forgery Detection in Frequency Domain", Liu et
    al., CVPR 2021, as DeepfakeBench implements it. The model adds a fourth channel to the RGB
    channels of its input. `phase_image` computes this channel: the grey image, with all amplitudes
    of its spectrum set to 1, so that only the phases remain.

    Args:
        drop_rate: Dropout before the linear layer, 0 to 1.

    Example:
        >>> PhaseXception()(torch.zeros(2, 3, 96, 96)).shape
        torch.Size([2, 1])
    """

    def __init__(self, drop_rate: float = 0.0):
        super().__init__(drop_rate, inputs=4)

    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        """Return features (batch, 2048, side, side) of normalised images (batch, 3, size, size)."""
        return super().forward_features(torch.cat([images, phase_image(images)], dim=1))


@register_model("xception_ucf")
class UCFXception(Xception):
    """UCF: an Xception whose head uses the features that all manipulations have in common.

    "UCF: Uncovering Common Features for Generalizable Deepfake Detection", Yan et al., ICCV 2023.
    This class has only the parts that prediction needs. The paper also has a second encoder and a
    decoder, which are used only in training.

    Args:
        drop_rate: Dropout before the hidden layer of the head, 0 to 1.

    Example:
        >>> UCFXception()(torch.zeros(2, 3, 96, 96)).shape
        torch.Size([2, 1])
    """

    def __init__(self, drop_rate: float = 0.0):
        super().__init__(drop_rate)
        half = UCF_CHANNELS // 2
        self.narrow = nn.Sequential(
            nn.Conv2d(2048, UCF_CHANNELS, 1), nn.BatchNorm2d(UCF_CHANNELS), nn.ReLU()
        )
        self.shared = nn.Sequential(
            nn.Conv2d(UCF_CHANNELS, half, 1),
            nn.LeakyReLU(),
            nn.Conv2d(half, half, 1),
            nn.LeakyReLU(),
            nn.Conv2d(half, half, 1),
        )
        self.hidden = nn.Sequential(nn.Linear(half, UCF_CHANNELS), nn.LeakyReLU())
        self.head = nn.Linear(UCF_CHANNELS, 1)

    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        """Return features (batch, 256, side, side) of normalised images."""
        flow = self.middle(self.entry(self.stem(images)))
        # The ReLU at the end of Xception is left out.
        return self.shared(self.narrow(self.exit[:-1](flow)))

    def forward_head(self, features: torch.Tensor) -> torch.Tensor:
        """Return logits (batch, 1) of the features that `forward_features` returns."""
        return self.head(self.hidden(self.dropout(features.mean(dim=(2, 3)))))


def phase_image(images: torch.Tensor) -> torch.Tensor:
    """Return grey images that keep only the phases of the spectrum: all amplitudes are set to 1.

    Args:
        images: float of shape (batch, channels, height, width).

    Returns:
        float32 of shape (batch, 1, height, width).
    """
    phases = torch.fft.fft2(images.float().mean(dim=1, keepdim=True)).angle()
    # `torch.exp(1j * phases)` is the same, but cannot be exported.
    return torch.fft.ifft2(torch.complex(phases.cos(), phases.sin())).real
