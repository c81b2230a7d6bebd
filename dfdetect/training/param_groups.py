"""Set the learning rates of a network's layers."""

from typing import Any

from torch import nn

from dfdetect.models.registry import head_parameters

BASE_INPUTS = 100


def parameter_groups(
    model: nn.Module, learning_rate: float, lr_scaling: str
) -> list[dict[str, Any]]:
    """Return parameters with their learning rates, in the form that torch's optimisers take.

    Adam changes every weight by about the learning rate, so that the output of a unit with n inputs
    changes n times as much. Normalisation layers compensate for this. A deep network without them,
    such as VGG16, does not converge at the rates that its first layers need. `by_inputs` divides
    the rate of a layer's weights by the number of inputs of its units (Yang et al., "Tensor
    Programs V: Tuning Large Neural Networks via Zero-Shot Hyperparameter Transfer", NeurIPS 2021).

    Args:
        model: Any model.
        learning_rate: The rate of all parameters. With `by_inputs`, the rate of biases, and of
            units with 100 inputs.
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
    """Set the head to zero, so that all answers are 0.5; the paper of `by_inputs` advises this."""
    for parameter in head_parameters(model):
        nn.init.zeros_(parameter)


def _share(parameter: nn.Parameter) -> float:
    return BASE_INPUTS / parameter[0].numel() if parameter.ndim > 1 else 1.0
