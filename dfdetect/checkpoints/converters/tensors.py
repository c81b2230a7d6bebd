"""The tensors of a published file, all of which must be used by a model or dropped on purpose."""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from dfdetect.checkpoints.io import CheckpointError
from dfdetect.models.registry import create_model

# Number of names that a message lists; it counts the others.
NAMES_SHOWN = 4
COUNTER = "num_batches_tracked"
State = dict[str, torch.Tensor]


class Tensors:
    """The tensors of a file by name; each is taken once.

    Args:
        path: The file, which messages name.
        tensors: Its tensors, by their names in the file.
    """

    def __init__(self, path: Path, tensors: Mapping[str, torch.Tensor]):
        self.path = path
        self.left = dict(tensors)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return names and shapes of the tensors that were not taken yet."""
        return {name: tuple(tensor.shape) for name, tensor in self.left.items()}

    def take(self, name: str) -> torch.Tensor:
        """Take a tensor; return it in float32 if its numbers are floating-point.

        Raises:
            CheckpointError: The tensor is missing, or was taken already.
        """
        if name not in self.left:
            raise CheckpointError(f"{self.path}: the tensor {name!r} is missing")
        tensor = self.left.pop(name)
        return tensor.float() if tensor.is_floating_point() else tensor

    def drop(self, *names: str) -> None:
        """Drop tensors that only training uses, if the file has them."""
        for name in names:
            self.left.pop(name, None)

    def drop_below(self, *prefixes: str) -> None:
        """Drop all tensors whose names begin with a prefix of parts that only training uses."""
        self.drop(*(name for name in self.left if name.startswith(prefixes)))

    def take_model(
        self, architecture: str, source: Callable[[str], str], known: Mapping[str, torch.Tensor]
    ) -> State:
        """Take the tensors of an architecture; none may be left over.

        Args:
            architecture: A name that `create_model` takes.
            source: Turns the name of a tensor in the architecture into its name in the file.
            known: Tensors of the architecture that were computed from other tensors of the file.

        Returns:
            The state dict of the architecture.

        Raises:
            CheckpointError: A tensor is missing, has another shape or is left over.
        """
        with torch.device("meta"):
            wanted = create_model(architecture).state_dict()
        state = dict(known)
        missing: list[str] = []
        for name, expected in wanted.items():
            if name in known:
                continue
            origin = source(name)
            if name.endswith(COUNTER):  # files of torch before 0.4.1 have no counters
                self.drop(origin)
                state[name] = torch.zeros((), dtype=expected.dtype)
            elif origin not in self.left:
                missing.append(origin)
            elif (found := self.left[origin]).shape != expected.shape:
                raise CheckpointError(
                    f"{self.path}: {origin} has shape {tuple(found.shape)}, "
                    f"and {architecture} needs {tuple(expected.shape)}"
                )
            else:
                state[name] = self.take(origin).contiguous()
        self.drop(*(name for name in self.left if name.endswith(COUNTER)))
        if missing:
            raise CheckpointError(
                f"{self.path}: {_listed(missing)} missing: the file is incomplete, or of a "
                "variant that is not supported"
            )
        if self.left:
            raise CheckpointError(
                f"{self.path}: {architecture} has no place for {_listed(list(self.left))}: the "
                "file is of a variant that is not supported"
            )
        return state


def one_logit(weight: torch.Tensor, bias: torch.Tensor | None = None) -> State:
    """Turn the linear layer of two classes, REAL and FAKE, into one that gives the logit of FAKE.

    softmax(z)[1] is sigmoid(z[1] - z[0]), so nothing is lost.

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
    """Change the weight of a batch norm so that another epsilon gives the same output.

    Args:
        state: The state dict, which has `prefix` + `weight` and `prefix` + `running_var`.
        prefix: The prefix of the batch norm's names, with the dot.
        epsilon: The number that the original network adds to the variance.
        wanted: The number that the network here adds to the variance.
    """
    variance = state[f"{prefix}running_var"].double()
    ratio = ((variance + wanted) / (variance + epsilon)).sqrt()
    weight = state[f"{prefix}weight"]
    return state | {f"{prefix}weight": (weight.double() * ratio).to(weight.dtype)}


def _listed(names: list[str]) -> str:
    """Return the first names, the number of others, and the verb in the singular or plural."""
    shown = ", ".join(names[:NAMES_SHOWN])
    more = len(names) - NAMES_SHOWN
    return f"the tensors {shown}" + (f" and {more} others" if more > 0 else "")
