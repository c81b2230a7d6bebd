"""Choose the learning rate of each layer of a network."""

from typing import Any

from torch import nn

from dfdetect.models.registry import head_parameters

# With `by_inputs`, the weights of a layer with this number of inputs get the given learning rate.
BASE_INPUTS = 100


def parameter_groups(
    model: nn.Module, learning_rate: float, lr_scaling: str
) -> list[dict[str, Any]]:
    """Return the parameters of a model and their learning rates, as groups for an optimiser.

    A deep network without normalisation layers, such as VGG16, does not converge with one learning
    rate for all layers. If `lr_scaling` is `by_inputs`, layers whose units have more inputs get a
    lower rate for their weights (Yang et al., "Tensor Programs V: Tuning Large Neural Networks via
    Zero-Shot Hyperparameter Transfer", NeurIPS 2021).

    Args:
        model: The model.
        learning_rate: With `equal`, the learning rate of all parameters. With `by_inputs`, the
            weights of a layer get this rate times 100 / n, where n is the number of inputs of each
            unit. Biases and the weights of normalisation layers get this rate.
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
    """Set the weights and biases of the head (the last layer) to zero.

    All logits are then 0 before the training, as Yang et al. recommend (see `parameter_groups`).
    """
    for parameter in head_parameters(model):
        nn.init.zeros_(parameter)


def _share(parameter: nn.Parameter) -> float:
    # Adam changes every weight by about the learning rate. The output of a unit with n inputs
    # therefore changes by about n times the rate. Normalisation layers compensate for this.
    return BASE_INPUTS / parameter[0].numel() if parameter.ndim > 1 else 1.0
