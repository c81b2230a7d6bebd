"""Linear models: logistic regression (Cox 1958) and the SVM (Cortes & Vapnik 1995).

The linear layer takes a map of local sharpness: the mean sharpness of each cell in a grid. Many
swapped faces can be recognised by their sharpness, but a linear function of raw pixels cannot
measure it. On raw pixels, both models reach an AUC of only 0.53 for actors who are not in the
training data.

| layer | output |
| --- | --- |
| absolute difference from the mean of 3 x 3 neighbours | 3 x size x size |
| mean of each cell in a grid of 16 x 16 cells | 3 x 16 x 16 |
| linear | 1 |

The network has 769 weights, which `dfdetect.training.linear` fits. Logistic regression and the SVM
are the same network, trained with different losses.
"""

import torch
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d

from dfdetect.models.registry import register_model

GRID = 16


@register_model("linear_svm", closed_form=True, recipe={"input_size": 128})
@register_model("logistic_regression", closed_form=True, recipe={"input_size": 128})
class LinearModel(nn.Module):
    """One linear layer on a map of local sharpness.

    Example:
        >>> LinearModel()(torch.zeros(2, 3, 128, 128)).shape
        torch.Size([2, 1])
    """

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3 * GRID**2, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits (batch, 1) of normalised images (batch, 3, size, size)."""
        return self.forward_head(self.forward_features(images))

    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        """Return the map of local sharpness of each RGB channel, shape (batch, 3, 16, 16).

        Args:
            images: Normalised images of shape (batch, 3, size, size).
        """
        neighbours = avg_pool2d(images, 3, stride=1, padding=1, count_include_pad=False)
        return adaptive_avg_pool2d((images - neighbours).abs(), GRID)

    def forward_head(self, features: torch.Tensor) -> torch.Tensor:
        """Return logits (batch, 1) of the features that `forward_features` returns."""
        return self.head(features.flatten(1))

    def get_classifier(self) -> nn.Module:
        """Return the only layer, like the method of the same name in timm's models."""
        return self.head
