"""Activation maps: how much each place of an image contributes to a network's logit of FAKE.

The method is HiResCAM (Draelos & Carin, "Use HiResCAM instead of Grad-CAM for faithful
explanations", 2020). A place is a position in the network's last feature map. Each feature at a
place is multiplied by the gradient of the logit with respect to this feature. The contribution of
the place is the sum of these products.

How the map relates to other methods depends on the layers after the feature map:

- A mean over all places, then a linear layer (EfficientNet, ResNet, Xception): the map equals the
  class activation map (Zhou et al., CVPR 2016) and that of Grad-CAM (Selvaraju et al., ICCV 2017).
- A mean over all places, then an LSTM (`cnn_lstm`): the map of each frame equals that of Grad-CAM.
- Fully connected layers (VGG, `simple_cnn_1`, `simple_cnn_2`): Grad-CAM would average the gradients
  over all places; HiResCAM does not.
- A linear layer alone (`linear_svm`, `logistic_regression`): the map is the product of weights and
  features.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from threading import Lock
from typing import Any

import numpy as np
import torch
from timm.models import VGG
from torch import nn
from torch.nn.functional import interpolate

# The packages grad-cam and captum are not used. They discard the evidence for REAL, and scale each
# map separately. They also install hooks in the model, although several threads may share it.
Part = Callable[[torch.Tensor], torch.Tensor]
_CUDNN = Lock()


def activation_maps(model: nn.Module, inputs: torch.Tensor) -> torch.Tensor | None:
    """Return how much each place of a model's last feature map contributes to the logit.

    Parts of the logit that belong to no place, such as a bias, are spread evenly over all places.
    Models from `dfdetect.models.fuse` are accepted, too. Under autocast, the features are computed
    in half precision and the maps in float32.

    Args:
        model: A model in evaluation mode with two methods. `forward_features` returns a feature map
            of shape (batch, channels, rows, columns), or (batch, time, channels, rows, columns) for
            clips. `forward_head` takes this feature map and returns logits of shape (batch, 1).
        inputs: Normalised crops, or clips if the model takes clips, on the device of the model.

    Returns:
        float32 of shape (batch, time, rows, columns). Values above 0 are evidence for FAKE, values
        below 0 are evidence for REAL. For single crops, time is 1, and the sum of a map is the
        logit of the crop. For clips, there is one map for each crop of a clip. The mean of the sums
        of these maps is the logit of the clip. None is returned if the model has no feature map
        (transformers have none), or if its feature map has only one place.

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
        _without_cudnn() if _is_recurrent(model) else nullcontext(),
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


def _is_recurrent(model: nn.Module) -> bool:
    return any(isinstance(part, nn.RNNBase) for part in model.modules())


@contextmanager
def _without_cudnn() -> Iterator[None]:
    """Switch cuDNN off in the `with` block: its LSTM has no gradient in evaluation mode.

    The switch belongs to the whole process, so only one thread at a time may use it.
    """
    with _CUDNN, torch.backends.cudnn.flags(enabled=False):
        yield


def average_maps(maps: Sequence[np.ndarray], shares: Sequence[float]) -> np.ndarray:
    """Return, for each crop, the weighted mean of the maps of several models.

    Maps with fewer rows and columns are first enlarged to the size of the largest map.

    Args:
        maps: For each model, a float32 array of shape (crops, rows, columns).
        shares: The weight of each model in the mean.

    Returns:
        float32 of shape (crops, rows, columns), with the rows and columns of the largest map. The
        sum of a returned map is the weighted mean of the sums of the given maps.
    """
    finest = max((one.shape[1:] for one in maps), key=np.prod)

    def enlarge(one: np.ndarray) -> np.ndarray:
        large = interpolate(torch.from_numpy(one)[None], finest, mode="bilinear")[0].numpy()
        large *= one[0].size / large[0].size
        lost = one.sum(axis=(1, 2), keepdims=True) - large.sum(axis=(1, 2), keepdims=True)
        return large + lost / large[0].size

    return np.average([enlarge(one) for one in maps], axis=0, weights=shares).astype(np.float32)


def _body_and_head(model: Any) -> tuple[Part, Part] | None:
    """Return the two parts of a model as functions, or None if the model has no feature map.

    The first function computes the last feature map from the inputs. The second function computes
    the logits from this feature map.
    """
    if isinstance(model, VGG):  # its last pooling would reduce a crop of 48 pixels to one place
        *layers, pool = model.features
        return nn.Sequential(*layers), lambda features: model.forward_head(pool(features))
    # timm's models name their layout if it is not (batch, channels, rows, columns).
    if not hasattr(model, "forward_features") or getattr(model, "output_fmt", "NCHW") != "NCHW":
        return None
    return model.forward_features, model.forward_head
