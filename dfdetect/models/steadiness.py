"""Steadiness: how little a face changes over the frames of its track.

Filmed faces change from frame to frame: people move, light flickers, and the noise of the camera is
new in each frame. The faces that generators draw are smoother and change less. A fake is often made
from a REAL video. Most such fakes are steadier than the REAL video, although the scene is the same.

To measure the steadiness, a model computes statistics of the face in each frame, such as the
texture statistics of `dfdetect.models.texture`. The less these statistics change from frame to
frame, the steadier the face.
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

    The logit is a linear function of the steadiness. A steadiness below `lowest` counts as
    `lowest`. If the steadiness is above `highest`, the logit is 0, because such a face may be a
    still picture, or its frames may all be from one short moment. The logit is also 0 if the face
    has fewer than `FEWEST_FRAMES` frames.

    All four attributes are zero until `dfdetect.training.texture` fits them.

    Attributes:
        weight: The weight of the steadiness, shape (1,).
        bias: The bias of the logit, shape (1,).
        lowest: The lower limit, shape (1,). A steadiness below it counts as equal to it.
        highest: The limit above which the logit is 0, shape (1,).

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
        return torch.where(value <= self.highest, logit, 0)[0]


def steadiness(statistics: torch.Tensor) -> torch.Tensor:
    """Return the steadiness of a face, a scalar.

    For each statistic, the logarithm of its standard deviation over the frames is computed. The
    steadiness is minus the mean of these logarithms.

    A detector mirrors every second frame, and a mirrored face has slightly different statistics.
    Two means of each statistic are therefore computed: one over the first, third, fifth... frame,
    and one over all other frames. For each frame, the difference from the mean of its own group is
    taken. One standard deviation is computed from the differences of all frames.

    On average, the logarithm of a standard deviation over few frames is too small. The mean error
    is known for normally distributed values. It is negative, and is subtracted from the logarithm.

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
