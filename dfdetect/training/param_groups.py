"""Learning rates of a network's layers."""

from typing import Any

from torch import nn

from dfdetect.models.registry import head_parameters

BASE_INPUTS = 100


def parameter_groups(
    model: nn.Module, learning_rate: float, lr_scaling: str
) -> list[dict[str, Any]]:
    """Parameters with their learning rates, as optimisers of torch take them.

    Adam moves every weight by about its learning rate, so that a unit with n inputs moves by n
    times as much. Normalisation layers take that back; a deep net without any, as VGG16, is thrown
    about at rates at which its first layers learn. `by_inputs` divides the rate of a layer's
    weights by the number of inputs of its units (Yang et al., "Tensor Programs V: Tuning Large
    Neural Networks via Zero-Shot Hyperparameter Transfer", NeurIPS 2021).

    Args:
        model: Any.
        learning_rate: Of all parameters; with `by_inputs`, of biases and of units with 100 inputs.
        lr_scaling: `equal` or `by_inputs`.

    Example:
        >>> groups = parameter_groups(nn.Linear(1000, 1), 1e-3, "by_inputs")
        >>> [group["lr"] for group in groups]
        [0.0001, 0.001]
    """
    if lr_scaling == "equal":
        return [{"params": list(model.parameters()), "lr": learning_rate}]
    return [
        {"params": [parameter], "lr": learning_rate * _share(parameter)}
        for parameter in model.parameters()
    ]


def start_head_at_zero(model: nn.Module) -> None:
    """Let the answer be 0.5 to all, as that paper advises beside `by_inputs`."""
    for parameter in head_parameters(model):
        nn.init.zeros_(parameter)


def _share(parameter: nn.Parameter) -> float:
    return BASE_INPUTS / parameter[0].numel() if parameter.ndim > 1 else 1.0
