"""Activation maps: how much each place of a network's last feature map speaks for FAKE.

The evidence of a place is the sum, over channels, of its features times the logit's gradient
(HiResCAM: Draelos & Carin, "Use HiResCAM instead of Grad-CAM for faithful explanations", 2020).
The same rule is used for all networks:

- a mean over the image and a linear layer (EfficientNet, ResNet, Xception): it gives exactly the
  class activation map of Zhou et al. (CVPR 2016), and so does Grad-CAM (Selvaraju et al., ICCV
  2017);
- a mean over the image and an LSTM (`cnn_lstm`): it is Grad-CAM, frame by frame;
- fully connected layers (VGG, `simple_cnn_1`, `simple_cnn_2`): it is Grad-CAM, but the gradients
  are not averaged over the image first, because each place has weights of its own;
- a linear layer on features (`linear_svm`, `logistic_regression`): it is weights times features.

The rule takes a few lines of torch. The packages grad-cam and captum cannot be used. They discard
the evidence for REAL and scale each map by itself, so that maps cannot be compared. They also
install hooks in the model, which several threads share here.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from timm.models import VGG
from torch import nn
from torch.nn.functional import interpolate

Part = Callable[[torch.Tensor], torch.Tensor]


def activation_maps(model: nn.Module, inputs: torch.Tensor) -> torch.Tensor | None:
    """Divide a model's logits among the places of its last feature map.

    Parts of the logit that belong to no place, such as a bias, are spread evenly. Batch norms may
    have been fused into convolutions. Under autocast, the features are computed in half precision
    and the maps in float32.

    Args:
        model: A model in evaluation mode. It has `forward_features`, which gives a feature map of
            shape (batch, channels, rows, columns), or (batch, time, channels, rows, columns) for
            clips, and `forward_head`, which gives the logits of that map, shape (batch, 1).
        inputs: Normalised crops or clips, as the model takes them, on its device.

    Returns:
        float32 of shape (batch, time, rows, columns), where time is 1 for models of single crops:
        evidence for FAKE is above 0, evidence for REAL below 0. The sum over the places of a map is
        the logit of a crop; the mean over time of these sums is the logit of a clip. None if the
        model has no feature map (transformers have none), or its map has a single place.

    Example:
        >>> maps = activation_maps(model, inputs)
        >>> torch.allclose(maps.sum(dim=(2, 3)), model(inputs), atol=1e-4)
        True
    """
    parts = _body_and_head(model)
    if parts is None:
        return None
    body, head = parts
    with torch.no_grad():
        features = body(inputs).float()
    if features.ndim != inputs.ndim or features.shape[-2:] == (1, 1):
        return None
    features.requires_grad_()
    with (
        torch.enable_grad(),
        torch.autocast(features.device.type, enabled=False),
        torch.backends.cudnn.flags(enabled=False),  # its LSTM has no gradient in evaluation mode
    ):
        logits = head(features)
        (gradient,) = torch.autograd.grad(logits.sum(), features)
    evidence = (features * gradient).sum(dim=-3).detach()
    if evidence.ndim == 3:
        evidence = evidence[:, None]
    time, rows, columns = evidence.shape[1:]
    evidence = evidence * time
    left = logits.detach()[:, 0] - evidence.mean(dim=1).sum(dim=(1, 2))
    return evidence + left[:, None, None, None] / (rows * columns)


def average_maps(maps: Sequence[np.ndarray], shares: Sequence[float]) -> np.ndarray:
    """Average several models' maps of the same crops, on the finest grid among the maps.

    Args:
        maps: float32 of shape (crops, rows, columns), for each model.
        shares: How much each model counts.

    Returns:
        float32 of shape (crops, rows, columns); the sum over a map is the mean of the models' sums.
    """
    finest = max((one.shape[1:] for one in maps), key=np.prod)

    def enlarge(one: np.ndarray) -> np.ndarray:
        large = interpolate(torch.from_numpy(one)[None], finest, mode="bilinear")[0].numpy()
        large *= one[0].size / large[0].size
        lost = one.sum(axis=(1, 2), keepdims=True) - large.sum(axis=(1, 2), keepdims=True)
        return large + lost / large[0].size

    return np.average([enlarge(one) for one in maps], axis=0, weights=shares).astype(np.float32)


def _body_and_head(model: Any) -> tuple[Part, Part] | None:
    """Split a model after its last feature map; return None if there is no such map."""
    if isinstance(model, VGG):  # the last pooling reduces a crop of 48 pixels to one place
        *layers, pool = model.features
        return nn.Sequential(*layers), lambda features: model.forward_head(pool(features))
    # timm's models name their layout if it is not (batch, channels, rows, columns).
    if not hasattr(model, "forward_features") or getattr(model, "output_fmt", "NCHW") != "NCHW":
        return None
    return model.forward_features, model.forward_head
