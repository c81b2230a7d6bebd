"""Architectures, built by name with fresh weights.

Every model has one output: it takes a float32 tensor of RGB crops, normalised with the checkpoint's
mean and std, of shape (batch, 3, size, size), or (batch, time, 3, size, size) where it looks at
clips, and returns logits of FAKE of shape (batch, 1). Weights come from files only; nothing is
downloaded.
"""

import difflib
from collections.abc import Callable
from fnmatch import fnmatchcase

from torch import nn

from dfdetect.errors import ArgumentError
from dfdetect.models import timm_models
from dfdetect.models.cnn_lstm import CNNLSTM
from dfdetect.models.linear import LinearModel
from dfdetect.models.simple_cnn import SimpleCNN1, SimpleCNN2
from dfdetect.models.timm_models import head_parameters
from dfdetect.models.xception import Xception

__all__ = [
    "LINEAR_MODELS",
    "SEQUENCE_MODELS",
    "create_model",
    "head_parameters",
    "list_models",
    "normalisation",
]

OWN_MODELS: dict[str, Callable[..., nn.Module]] = {
    "cnn_lstm": CNNLSTM,
    "linear_svm": LinearModel,
    "logistic_regression": LinearModel,
    "simple_cnn_1": SimpleCNN1,
    "simple_cnn_2": SimpleCNN2,
    "xception": Xception,
}
SEQUENCE_MODELS = frozenset({"cnn_lstm"})
LINEAR_MODELS = frozenset({"linear_svm", "logistic_regression"})
OWN_MEAN = OWN_STD = (0.5, 0.5, 0.5)


def create_model(name: str, **arguments: float) -> nn.Module:
    """Build the architecture `name` with random weights.

    Args:
        name: One of `list_models()`.
        arguments: Options of the architecture, such as `drop_rate` and `drop_path_rate`.

    Raises:
        ArgumentError: The name is unknown; the message lists similar ones.
        TypeError: The architecture has no such argument.

    Example:
        >>> model = create_model("tf_efficientnet_lite0")
        >>> model(torch.zeros(2, 3, 160, 160)).shape
        torch.Size([2, 1])
    """
    if name in OWN_MODELS:
        return OWN_MODELS[name](**arguments)
    _require_known(name)
    return timm_models.create(name, **arguments)


def list_models(pattern: str = "*") -> list[str]:
    """Names that `create_model` takes, sorted, filtered by a shell-style pattern.

    Example:
        >>> list_models("tf_efficientnet_lite?")[:2]
        ['tf_efficientnet_lite0', 'tf_efficientnet_lite1']
    """
    own = [name for name in OWN_MODELS if fnmatchcase(name, pattern)]
    return sorted({*own, *timm_models.names(pattern)})


def normalisation(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std, RGB, for pixels in 0..1, that an architecture is trained with.

    Raises:
        ArgumentError: The name is unknown.
    """
    if name in OWN_MODELS:
        return OWN_MEAN, OWN_STD
    _require_known(name)
    return timm_models.normalisation(name)


def _require_known(name: str) -> None:
    """Names with a tag of weights ("name.tag") or a hub's would make timm ask the network."""
    if name not in timm_models.names():
        similar = ", ".join(difflib.get_close_matches(name, list_models(), n=3)) or "none"
        raise ArgumentError(
            f"unknown architecture {name!r}; similar names: {similar}; see `dfdetect models`"
        )
