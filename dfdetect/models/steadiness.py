"""Steadiness: how little a face changes over the frames of its track.

Filmed faces change from frame to frame: people move, light flickers, and the noise of the camera is
new in each frame. Faces from generators change less. Most fakes are steadier than the REAL video
that they were made from.

The steadiness is computed from statistics of the face in each frame, such as the texture statistics
of `dfdetect.models.texture`. The less the statistics change, the steadier the face.
"""

import torch
from torch import nn

# The lowest number of frames from which the steadiness is computed. With fewer frames, the standard
# deviations of the statistics are too uncertain.
FEWEST_FRAMES = 4
# This number is added to each standard deviation before its logarithm is taken, because a standard
# deviation may be 0.
SMALLEST = 1e-3


class Steadiness(nn.Module):
    """A layer that computes a logit of FAKE from the steadiness of one face.

    The logit is `weight * max(steadiness, lowest) + bias`. It is 0 if the steadiness is above
    `highest`, or if the face has fewer than `FEWEST_FRAMES` frames.

    All four attributes are zero until `dfdetect.training.texture` fits them.

    Attributes:
        weight: The weight of the steadiness, shape (1,).
        bias: The bias of the logit, shape (1,).
        lowest: A lower steadiness counts as `lowest`, shape (1,).
        highest: If the steadiness is higher, the logit is 0, shape (1,).

    Example:
        >>> Steadiness()(torch.rand(16, 384))
        tensor(0.)
    """

    weight: torch.Tensor
    bias: torch.Tensor
    lowest: torch.Tensor
    highest: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("weight", "bias", "lowest", "highest"):
            self.register_buffer(name, torch.zeros(1))

    def forward(self, statistics: torch.Tensor) -> torch.Tensor:
        """Return the logit, a scalar.

        Args:
            statistics: The statistics of one face in each frame, in the order of time; float of
                shape (frames, statistics).
        """
        if len(statistics) < FEWEST_FRAMES:
            return statistics.new_zeros(())
        value = steadiness(statistics)
        logit = self.weight * value.clamp_min(self.lowest) + self.bias
        # Above `highest`, the face may be a still picture, or all frames may be from one moment.
        return torch.where(value <= self.highest, logit, 0)[0]


def steadiness(statistics: torch.Tensor) -> torch.Tensor:
    """Return the steadiness of a face, a scalar.

    For each statistic, the logarithm of its standard deviation over the frames is computed. The
    steadiness is minus the mean of these logarithms. Two details:

    - A detector mirrors every second frame, and mirroring changes the statistics a little. Frames
      1, 3, 5... and the other frames therefore have separate means.
    - The logarithm of a standard deviation over few frames is too small on average. This bias is
      corrected as for normally distributed values.

    Args:
        statistics: The statistics of one face in each of at least four frames, in the order of
            time; float of shape (frames, statistics).

    Example:
        >>> steadiness(torch.tensor([[0.0], [8.0], [1.0], [9.0], [2.0], [8.0]]))
        tensor(0.0663)
    """
    deviations = [part - part.mean(dim=0) for part in (statistics[::2], statistics[1::2])]
    freedom = len(statistics) - len(deviations)
    variance = torch.cat(deviations).square().sum(dim=0) / freedom
    half = statistics.new_tensor(freedom / 2)
    error = (torch.digamma(half) - half.log()) / 2
    return error - (variance.sqrt() + SMALLEST).log().mean()
