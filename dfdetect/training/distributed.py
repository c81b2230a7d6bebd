"""Train in one process, or in several processes that `torchrun` starts.

Each process learns from its part of every batch. The result is the same as with one process and
whole batches:

- Gradients are averaged over the processes, by torch's DistributedDataParallel (Li et al. 2020).
- Batch normalisation uses the statistics of the whole batch.
- Dropout masks are drawn for the whole batch, and each process uses its part of them.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import distributed, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from torch.overrides import TorchFunctionMode

from dfdetect.errors import DfdetectError
from dfdetect.runtime.device import available_cores, choose_device


@dataclass(frozen=True)
class DistributedContext:
    """The place of this process in a training run, and its connection to the other processes.

    All processes must call `gather`, `broadcast` and `all_reduce_sum` together.

    Attributes:
        rank: Number of this process, from 0.
        world_size: Number of processes.
        local_world_size: Number of processes on this machine.
    """

    rank: int = 0
    world_size: int = 1
    local_world_size: int = 1

    @property
    def is_first(self) -> bool:
        """Return whether this process is the one that writes files and shows progress."""
        return self.rank == 0

    @property
    def cores(self) -> int:
        """Return the number of CPU cores that this process may use, at least 1."""
        return max(1, available_cores() // self.local_world_size)

    def shard(self, items: Sequence | np.ndarray | torch.Tensor) -> Any:
        """Return this process's part of the items: every `world_size`-th item, from item `rank`."""
        return items[self.rank :: self.world_size]

    def gather(self, part: np.ndarray) -> np.ndarray:
        """Return the arrays `part` of all processes, joined into one array.

        `part` has a row for each item that `shard` returned in this process. The rows of the joined
        array are in the order of the items that were given to `shard`.
        """
        if self.world_size == 1:
            return part
        parts: list[np.ndarray] = [part] * self.world_size
        distributed.all_gather_object(parts, part)
        whole = np.empty((sum(map(len, parts)), *parts[0].shape[1:]), part.dtype)
        for rank, one in enumerate(parts):
            whole[rank :: self.world_size] = one
        return whole

    def broadcast(self, make: Callable[[], Any]) -> Any:
        """Call `make` in the first process, and return its result in all processes."""
        made = [make() if self.is_first else None]
        if self.world_size > 1:
            distributed.broadcast_object_list(made)
        return made[0]

    def all_reduce_sum(self, value: torch.Tensor) -> float:
        """Return the sum of `value`, a tensor of one number, over all processes."""
        value = value.detach().clone()
        if self.world_size > 1:
            distributed.all_reduce(value)
        return value.item()

    def parallel(self, model: nn.Module) -> nn.Module:
        """Return the model, wrapped so that its gradients are averaged over all processes."""
        if self.world_size == 1:
            return model
        return DistributedDataParallel(model)

    def global_batch(self, size: int) -> AbstractContextManager:
        """Return a context manager for a forward pass over this process's part of a batch.

        In the `with` block, layers give the same outputs for this part as if one process computed
        the whole batch.

        Args:
            size: Number of items in the whole batch.
        """
        return nullcontext() if self.world_size == 1 else _GlobalBatchMode(self, size)


ONE_PROCESS = DistributedContext()


@contextmanager
def init_distributed(device: str) -> Iterator[tuple[DistributedContext, torch.device]]:
    """Connect the processes that `torchrun` started, and yield this process's context and device.

    Without `torchrun`, the context describes a single process.

    Args:
        device: `auto`, `cpu`, `cuda` or `cuda:N`, as in `load_detector`. If a machine has several
            GPUs, `auto` and `cuda` give each process a different GPU.

    Raises:
        ArgumentError: The device does not work.

    Example:
        >>> with init_distributed("auto") as (context, device):
        ...     print(f"process {context.rank} of {context.world_size} on {device}")
        process 0 of 1 on cpu
    """
    if not distributed.is_torchelastic_launched():
        yield ONE_PROCESS, choose_device(device)
        return
    rank, world_size, local_rank, local_world_size = (
        int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    )
    several = torch.cuda.is_available() and torch.cuda.device_count() > 1
    if several and device in ("auto", "cuda"):
        device = f"cuda:{local_rank}"
    chosen = choose_device(device)
    if chosen.type == "cuda":
        chosen = torch.device("cuda", chosen.index or 0)  # torch needs the number
        torch.cuda.set_device(chosen)
    distributed.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield DistributedContext(rank, world_size, local_world_size), chosen
    finally:
        distributed.destroy_process_group()


class _GlobalBatchMode(TorchFunctionMode):
    """A mode of torch for a process that computes only a part of a batch.

    The outputs of a model are the same as if the process computed the whole batch. To this end, the
    mode changes batch normalisation, dropout and stochastic depth. If a model draws random numbers
    for anything else, DfdetectError is raised: a run with one process would draw other numbers.

    Args:
        context: The context of this process.
        size: Number of items in the whole batch.
    """

    def __init__(self, context: DistributedContext, size: int):
        super().__init__()
        self.context = context
        self.size = size
        self.own = len(range(context.rank, size, context.world_size))
        self.replaced: dict[Callable, Callable] = {
            # torch's SyncBatchNorm does not run on CPUs.
            functional.batch_norm: self._batch_norm,
            functional.dropout: self._dropout,
            torch.Tensor.bernoulli_: self._bernoulli,
        }

    def __enter__(self) -> "_GlobalBatchMode":
        self.generators = _generator_states()
        return super().__enter__()

    def __exit__(self, kind: type[BaseException] | None, *details: Any) -> None:
        super().__exit__(kind, *details)
        if kind is None:
            self._require_no_other_draws()

    def __torch_function__(
        self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        return self.replaced.get(function, function)(*args, **(kwargs or {}))

    def _batch_norm(
        self,
        images: torch.Tensor,
        running_mean: torch.Tensor | None,
        running_var: torch.Tensor | None,
        weight: torch.Tensor | None = None,
        bias: torch.Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> torch.Tensor:
        """Return `images`, normalised by the mean and variance over the batch of all processes.

        If `training` is False, the running mean and variance are used instead. The method is from
        Ioffe & Szegedy, "Batch Normalization", ICML 2015.
        """
        if not training:
            return functional.batch_norm(
                images, running_mean, running_var, weight, bias, training, momentum, eps
            )
        values = images.float()
        others = [axis for axis in range(values.dim()) if axis != 1]
        shape = [-1 if axis == 1 else 1 for axis in range(values.dim())]
        count = values.numel() // values.shape[1] // self.own * self.size
        mean = _Sum.apply(values.sum(others)) / count
        centred = values - mean.view(shape)
        variance = _Sum.apply(centred.square().sum(others)) / count
        if running_mean is not None and running_var is not None:
            with torch.no_grad():
                running_mean.lerp_(mean, momentum)
                running_var.lerp_(variance * count / (count - 1), momentum)
        normal = centred * torch.rsqrt(variance + eps).view(shape)
        if weight is not None and bias is not None:
            normal = normal * weight.view(shape) + bias.view(shape)
        return normal.to(images.dtype)

    def _dropout(
        self, values: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
    ) -> torch.Tensor:
        """Return `values` after dropout (Srivastava et al. 2014).

        The mask is this process's part of a mask that is drawn for the whole batch.
        """
        if not training or p == 0:
            return values
        return values * self._bernoulli(torch.empty_like(values), 1 - p) / (1 - p)

    def _bernoulli(self, values: torch.Tensor, p: float = 0.5) -> torch.Tensor:
        """Draw zeros and ones for the whole batch, and fill `values` with this process's part.

        `p` is the probability of a one.
        """
        self._require_no_other_draws()
        rows = values.shape[0] // self.own
        whole = values.new_empty((self.size, rows, *values.shape[1:])).bernoulli_(p)
        self.generators = _generator_states()
        return values.copy_(self.context.shard(whole).reshape(values.shape))

    def _require_no_other_draws(self) -> None:
        # Each draw of a random number changes the state of a generator.
        if not all(map(torch.equal, self.generators, _generator_states())):
            raise DfdetectError(
                "in training, this architecture draws random numbers that are neither those of "
                "dropout nor of stochastic depth; several processes would train it differently "
                "from one: train it without torchrun"
            )


def _generator_states() -> list[torch.Tensor]:
    """Return the states of torch's generators for the CPU and, if there is a GPU, for the GPU."""
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state()] if torch.cuda.is_available() else states


class _Sum(torch.autograd.Function):
    """Sums a tensor over all processes. The backward pass sums the gradients of all processes."""

    @staticmethod
    def forward(_: Any, values: torch.Tensor) -> torch.Tensor:
        values = values.clone()
        distributed.all_reduce(values)
        return values

    @staticmethod
    def backward(_: Any, gradient: torch.Tensor) -> torch.Tensor:
        gradient = gradient.clone()
        distributed.all_reduce(gradient)
        return gradient
