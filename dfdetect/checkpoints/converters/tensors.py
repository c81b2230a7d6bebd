"""Check that a converter uses every tensor of a published file, or drops it on purpose."""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from dfdetect.checkpoints.io import CheckpointError
from dfdetect.models.registry import create_model

# An error lists at most this many names, and says how many more there are.
NAMES_SHOWN = 4
COUNTER = "num_batches_tracked"
State = dict[str, torch.Tensor]


class Tensors:
    """The tensors of a file. A converter takes each tensor once, or drops the tensor.

    Args:
        path: Path of the file, shown in error messages.
        tensors: All tensors of the file, by name.

    Attributes:
        left: The tensors that were neither taken nor dropped yet, by name.
    """

    def __init__(self, path: Path, tensors: Mapping[str, torch.Tensor]):
        self.path = path
        self.left = dict(tensors)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the tensors in `left`, by name."""
        return {name: tuple(tensor.shape) for name, tensor in self.left.items()}

    def take(self, name: str) -> torch.Tensor:
        """Remove a tensor from `left`, and return it. Floating-point tensors become float32.

        Raises:
            CheckpointError: The tensor is not in the file, or was already taken or dropped.
        """
        if name not in self.left:
            raise CheckpointError(f"{self.path}: the tensor {name!r} is missing")
        tensor = self.left.pop(name)
        return tensor.float() if tensor.is_floating_point() else tensor

    def drop(self, *names: str) -> None:
        """Drop tensors that the converted model does not need.

        A name that is not in `left` is ignored.
        """
        for name in names:
            self.left.pop(name, None)

    def drop_below(self, *prefixes: str) -> None:
        """Drop all tensors whose names begin with one of the prefixes."""
        self.drop(*(name for name in self.left if name.startswith(prefixes)))

    def take_model(
        self, architecture: str, source: Callable[[str], str], known: Mapping[str, torch.Tensor]
    ) -> State:
        """Return the state dict of an architecture, made of `known` and of the tensors in `left`.

        Args:
            architecture: Name of the architecture, as in `create_model`.
            source: Function that takes the name of a tensor in the architecture, and returns the
                tensor's name in the file.
            known: Tensors that the converter has already made, by their names in the architecture.

        Raises:
            CheckpointError: The file lacks a tensor of the architecture, has a tensor that is not
                part of it, or has a tensor with a wrong shape.
        """
        with torch.device("meta"):
            wanted = create_model(architecture).state_dict()
        state = dict(known)
        missing: list[str] = []
        for name, expected in wanted.items():
            if name in known:
                self._require_shape(architecture, name, known[name], expected)
                continue
            origin = source(name)
            if name.endswith(COUNTER):  # files of torch before 0.4.1 have no counters
                self.drop(origin)
                state[name] = torch.zeros((), dtype=expected.dtype)
            elif origin not in self.left:
                missing.append(origin)
            else:
                self._require_shape(architecture, origin, self.left[origin], expected)
                state[name] = self.take(origin).contiguous()
        self.drop(*(name for name in self.left if name.endswith(COUNTER)))
        if missing:
            raise CheckpointError(
                f"{self.path}: the file lacks {_listed(missing)}; it is incomplete, or of a "
                "variant that is not supported"
            )
        if self.left:
            raise CheckpointError(
                f"{self.path}: {architecture} does not have {_listed(list(self.left))}; the file "
                "is of a variant that is not supported"
            )
        return state

    def _require_shape(
        self, architecture: str, name: str, found: torch.Tensor, expected: torch.Tensor
    ) -> None:
        if found.shape != expected.shape:
            raise CheckpointError(
                f"{self.path}: {name} has shape {tuple(found.shape)}, "
                f"but {architecture} needs {tuple(expected.shape)}"
            )


def one_logit(weight: torch.Tensor, bias: torch.Tensor | None = None) -> State:
    """Turn a linear layer with two outputs, REAL and FAKE, into a linear layer with one output.

    The one output is the logit of FAKE. The probability of FAKE stays the same, because
    softmax(z)[1] equals sigmoid(z[1] - z[0]).

    Args:
        weight: float32 of shape (2, features).
        bias: float32 of shape (2,), or None.

    Returns:
        `weight` of shape (1, features) and, if there is a bias, `bias` of shape (1,).

    Example:
        >>> one_logit(torch.tensor([[1.0, 2.0], [5.0, 4.0]]), torch.tensor([0.5, 0.0]))
        {'weight': tensor([[4., 2.]]), 'bias': tensor([-0.5000])}
    """
    state = {"weight": weight[1:] - weight[:1]}
    return state if bias is None else state | {"bias": bias[1:] - bias[:1]}


def with_epsilon(state: State, prefix: str, epsilon: float, wanted: float) -> State:
    """Return a copy of a state dict in which one batch norm is adapted to another epsilon.

    Epsilon is the number that a batch norm adds to the variance. The weight of the batch norm is
    changed, so that the output stays the same.

    Args:
        state: The state dict, which has `prefix` + `weight` and `prefix` + `running_var`.
        prefix: Beginning of the names of the batch norm's tensors, such as `bn1.`.
        epsilon: Number that the original network adds to the variance.
        wanted: Number that dfdetect's network adds to the variance.
    """
    variance = state[f"{prefix}running_var"].double()
    ratio = ((variance + wanted) / (variance + epsilon)).sqrt()
    weight = state[f"{prefix}weight"]
    return state | {f"{prefix}weight": (weight.double() * ratio).to(weight.dtype)}


def _listed(names: list[str]) -> str:
    """Return a text that lists the first few names, and says how many more there are."""
    shown = ", ".join(names[:NAMES_SHOWN])
    more = len(names) - NAMES_SHOWN
    return f"the tensors {shown}" + (f" and {more} others" if more > 0 else "")
