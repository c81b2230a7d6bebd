"""Models whose logit of a crop also depends on the other crops of the same track.

Such a model has two methods more than other models (`TrackModel`). The first one computes, for each
crop alone, its logit and some values. The second one takes these logits and values of all crops of
a track, and returns the final logits. Most models have neither method. The functions of this file
accept all models.
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
        """Return the logit of each normalised crop, followed by values for `track_logits`.

        The shape is (batch, 1 + values).
        """

    def track_logits(self, values: torch.Tensor) -> torch.Tensor:
        """Return the logits of the crops of one track, shape (crops,).

        Args:
            values: What `forward_values` returned for these crops, shape (crops, 1 + values).
        """


class CropNetwork(nn.Module):
    """The part of a model that computes each input by itself.

    Args:
        model: Any model. If it is no `TrackModel`, this part is the whole model.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logit of each input, and the values of a `TrackModel`: (batch, 1 + values)."""
        if isinstance(self.model, TrackModel):
            return self.model.forward_values(images)
        logits: torch.Tensor = self.model(images)
        return logits


def track_logits(
    model: nn.Module, values: torch.Tensor, tracks: Iterable[Sequence[int]]
) -> torch.Tensor:
    """Return the final logits of a model's inputs, shape (inputs,).

    Args:
        model: Any model. Only for a `TrackModel`, the logits depend on the tracks.
        values: What the model's `CropNetwork` returned for the inputs, shape (inputs, 1 + values).
        tracks: For each track, the positions of its inputs, in the order of time.
    """
    logits = values[:, 0].clone()
    if isinstance(model, TrackModel):
        for track in tracks:
            logits[list(track)] = model.track_logits(values[list(track)])
    return logits
