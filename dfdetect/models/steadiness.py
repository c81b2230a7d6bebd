"""Steadiness: how little a face changes over the frames of its track.

Filmed faces change from frame to frame: people move, light flickers, and the noise of the camera is
new in each frame. The faces that generators draw are smoother and stiller. The difference is also
found between a fake and its original, which show the same person in the same scene.

Steadiness is measured on statistics of each frame, such as those of `dfdetect.models.texture`.
A single frame says nothing about it.
"""

import torch
from torch import nn

# A standard deviation of fewer frames is too uncertain.
FEWEST_FRAMES = 4
# It is added to a standard deviation before the logarithm is taken.
SMALLEST = 1e-3


class Steadiness(nn.Module):
    """A layer that returns the logit of the steadiness of one face.

    The logit is a linear function of the steadiness, with two exceptions. A steadiness below
    `lowest` counts as `lowest`. Above `highest`, the logit is 0: a face that changes less than
    nearly all faces that the layer was fitted on may be a still picture, or may have been seen for
    a moment only. The logit of a face with fewer than four frames is 0, too.

    All four attributes are zero until `dfdetect.training.texture` fits them.

    Attributes:
        weight: The weight of the steadiness, shape (1,).
        bias: The bias of the logit, shape (1,).
        lowest: The limit below which the logit no longer depends on the steadiness, shape (1,).
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
            statistics: Statistics of the frames of one face in the order of time, float of shape
                (frames, statistics).
        """
        if len(statistics) < FEWEST_FRAMES:
            return statistics.new_zeros(())
        value = steadiness(statistics)
        logit = self.weight * value.clamp_min(self.lowest) + self.bias
        return torch.where(value <= self.highest, logit, 0)[0]


def steadiness(statistics: torch.Tensor) -> torch.Tensor:
    """Return the steadiness of a face, a scalar.

    It is minus the mean logarithm of the standard deviations over the frames. A detector mirrors
    every second frame, and a mirrored face has slightly different statistics. The deviations are
    therefore taken from two means: that of the first, third, fifth... frame, and that of the
    others.

    The standard deviation of few frames is too small on average. The expected error of its
    logarithm, for normally distributed values, is subtracted.

    Args:
        statistics: Statistics of at least four frames in the order of time, float of shape
            (frames, statistics).

    Example:
        >>> steadiness(torch.tensor([[0.0], [8.0], [1.0], [9.0], [2.0], [8.0]]))
        tensor(0.1...)
    """
    deviations = [part - part.mean(dim=0) for part in (statistics[::2], statistics[1::2])]
    freedom = len(statistics) - len(deviations)
    variance = torch.cat(deviations).square().sum(dim=0) / freedom
    half = statistics.new_tensor(freedom / 2)
    error = (torch.digamma(half) - half.log()) / 2
    return error - (variance.sqrt() + SMALLEST).log().mean()
