"""Convolutions on every frame of a clip, and an LSTM over time (Donahue et al., CVPR 2015).

Güera & Delp ("Deepfake Video Detection Using Recurrent Neural Networks", AVSS 2018) used the same
design to detect swapped faces.

| layer | output, for clips of 8 frames with 64 x 64 pixels |
| --- | --- |
| the four convolution blocks of `simple_cnn_1`, on each frame | 8 x 128 x 4 x 4 |
| mean over the image | 8 x 128 |
| LSTM (Hochreiter & Schmidhuber 1997) | 8 x 128 |
| mean over time, dropout, linear | 1 |

The network has 229,905 weights.
"""

import torch
from torch import nn

from dfdetect.models.registry import register_model
from dfdetect.models.simple_cnn import WIDTHS, conv_blocks

HIDDEN = 128


@register_model(
    "cnn_lstm",
    input="clip",
    recipe={"input_size": 64, "frames_per_clip": 8, "epochs": 12, "learning_rate": 2e-3},
)
class CNNLSTM(nn.Module):
    """Convolutions and an LSTM. The input is a clip: successive crops of one face.

    Args:
        drop_rate: Dropout before the last layer, 0 to 1.

    Example:
        >>> CNNLSTM()(torch.zeros(2, 8, 3, 64, 64)).shape
        torch.Size([2, 1])
    """

    def __init__(self, drop_rate: float = 0.0):
        super().__init__()
        self.features = conv_blocks()
        self.lstm = nn.LSTM(WIDTHS[-1], HIDDEN, batch_first=True)
        self.dropout = nn.Dropout(drop_rate)
        self.head = nn.Linear(HIDDEN, 1)

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        """Return logits (batch, 1) of normalised clips (batch, time, 3, size, size), size >= 16."""
        return self.forward_head(self.forward_features(clips))

    def forward_features(self, clips: torch.Tensor) -> torch.Tensor:
        """Return features (batch, time, channels, side, side) of normalised clips."""
        return self.features(clips.flatten(0, 1)).unflatten(0, clips.shape[:2])

    def forward_head(self, features: torch.Tensor) -> torch.Tensor:
        """Return logits (batch, 1) of the features that `forward_features` returns."""
        states, _ = self.lstm(features.mean(dim=(3, 4)))
        return self.head(self.dropout(states.mean(dim=1)))

    def get_classifier(self) -> nn.Module:
        """Return the last layer, like the method of the same name in timm's models."""
        return self.head
