"""Architectures, built by name with fresh weights.

Every model is an image classifier with one output: it takes a float32 tensor of shape
(batch, 3, size, size), RGB, normalised with the checkpoint's mean and std, and returns logits of
FAKE of shape (batch, 1). Weights come from files only; nothing is downloaded.
"""

from torch import nn

from dfdetect.models import imagenet

__all__ = ["create_model", "list_models"]


def create_model(name: str, **arguments: float) -> nn.Module:
    """Build the architecture `name` with random weights.

    Args:
        name: One of `list_models()`.
        arguments: Options of the architecture, such as `drop_rate` and `drop_path_rate`.

    Raises:
        ValueError: The name is unknown; the message lists similar ones.
        TypeError: The architecture has no such argument.

    Example:
        >>> model = create_model("tf_efficientnet_lite0")
        >>> model(torch.zeros(2, 3, 160, 160)).shape
        torch.Size([2, 1])
    """
    return imagenet.create(name, **arguments)


def list_models(pattern: str = "*") -> list[str]:
    """Names that `create_model` takes, sorted, filtered by a shell-style pattern.

    Example:
        >>> list_models("tf_efficientnet_lite?")[:2]
        ['tf_efficientnet_lite0', 'tf_efficientnet_lite1']
    """
    return imagenet.names(pattern)
