"""Models whose logit of a crop also depends on the other crops of the same track.

Such a model is a `TrackModel`. Its method `forward_values` computes a first logit and some values
for each crop alone. Its method `track_logits` takes the first logits and values of all crops of a
track, and returns the final logits. For all other models, the first logits are final. The class
`CropNetwork` and the function `track_logits` accept any model.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import nn


@runtime_checkable
class TrackModel(Protocol):
    """A model whose logit of a crop also depends on the other crops of the same track.

    Its inputs are single crops, not clips.
    """

    def forward_values(self, images: torch.Tensor) -> torch.Tensor:
        """Return, for each normalised crop, its first logit and then n values for `track_logits`.

        The shape is (batch, 1 + n).
        """

    def track_logits(self, values: torch.Tensor) -> torch.Tensor:
        """Return the final logits of the crops of one track, shape (crops,).

        Args:
            values: The output of `forward_values` for these crops, shape (crops, 1 + n).
        """


class CropNetwork(nn.Module):
    """The part of a model that treats each input separately, without the other crops of its track.

    Args:
        model: Any model. If it is no `TrackModel`, this part is the whole model.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the first logit of each input, followed by n further values, shape (batch, 1 + n).

        If the model is a `TrackModel`, this is the result of its `forward_values`. If not, n is 0,
        and the first logit is the model's logit.
        """
        if isinstance(self.model, TrackModel):
            return self.model.forward_values(images)
        logits: torch.Tensor = self.model(images)
        return logits


def track_logits(
    model: nn.Module, values: torch.Tensor, tracks: Iterable[Sequence[int]]
) -> torch.Tensor:
    """Return one final logit for each input of a model, shape (inputs,).

    For a `TrackModel`, the final logits are computed from all crops of each track. For any other
    model, the first logits are final already.

    Args:
        model: Any model.
        values: The output of `CropNetwork(model)` for these inputs, shape (inputs, 1 + n).
        tracks: For each track, the rows of `values` that belong to it, in the order of time.
    """
    logits = values[:, 0].clone()
    if isinstance(model, TrackModel):
        for track in tracks:
            logits[list(track)] = model.track_logits(values[list(track)])
    return logits
