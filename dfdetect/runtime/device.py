"""Which processor to use, and how much of it."""

import os
import warnings
from collections.abc import Callable, Sequence
from threading import Lock
from typing import TypeVar

import torch

from dfdetect.errors import ArgumentError

Part = TypeVar("Part")
AMPERE = (8, 0)
_ALONE = Lock()


def choose_device(device: str = "auto") -> torch.device:
    """Turn `auto`, `cpu`, `cuda` or `cuda:N` into a device on which an operation has succeeded.

    A GPU that torch lists may still be too old for its kernels, so one is tried. `auto` falls back
    to the CPU with a warning that says why.

    Raises:
        ArgumentError: The device was asked for by name and does not work.
    """
    if device == "auto":
        if not torch.cuda.is_available():
            return torch.device("cpu")
        problem = _problem(torch.device("cuda"))
        if problem is None:
            return torch.device("cuda")
        warnings.warn(f"the GPU is not usable, using the CPU: {problem}", stacklevel=2)
        return torch.device("cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ArgumentError(f"unknown device {device!r}: use auto, cpu, cuda or cuda:N") from error
    problem = _problem(chosen)
    if problem is not None:
        raise ArgumentError(f"device {device!r} is not usable, try device 'cpu': {problem}")
    return chosen


def has_fast_half(device: torch.device) -> bool:
    """Whether a device multiplies matrices of half precision faster than others.

    GPUs do. A CPU does where it has units for it (AMX); others are many times slower than in
    float32.
    """
    if device.type != "cpu":
        return True
    # Older releases of torch cannot tell.
    return getattr(torch.cpu, "get_capabilities", dict)().get("amx_bf16", False)


def half_type(device: torch.device) -> torch.dtype:
    """The type of half precision to compute in: bfloat16, which GPUs before Ampere lack."""
    old = device.type == "cuda" and torch.cuda.get_device_capability(device) < AMPERE
    return torch.float16 if old else torch.bfloat16


def other_gpus(device: torch.device) -> list[torch.device]:
    """The GPUs beside `cuda`, that is the first one, on which an operation has succeeded."""
    if device != torch.device("cuda"):
        return []
    others = [torch.device("cuda", number) for number in range(1, torch.cuda.device_count())]
    return [other for other in others if _problem(other) is None]


def describe(device: torch.device) -> str:
    """What a person calls the device, and the others that are used with it.

    Example:
        >>> describe(choose_device("cpu"))
        '2 cores of the CPU'
    """
    if device.type == "cpu":
        return f"{available_cores()} cores of the CPU"
    return ", ".join(map(torch.cuda.get_device_name, [device, *other_gpus(device)]))


def split_on_oom(function: Callable[[Sequence], Sequence[Part]], batch: Sequence) -> list[Part]:
    """Apply a function to a batch or, where a GPU's memory does not suffice, to parts of it.

    Args:
        function: Takes a batch, gives a result for each of its items.
        batch: Anything with a length that can be sliced.

    Raises:
        torch.cuda.OutOfMemoryError: The memory does not suffice for a single item.
    """
    try:
        return list(function(batch))
    except torch.cuda.OutOfMemoryError:
        pass  # its traceback, which is gone after this block, holds memory
    if len(batch) == 1:  # other threads may have held what was missing
        with _ALONE:
            torch.cuda.empty_cache()
            return list(function(batch))
    middle = len(batch) // 2
    halves = batch[:middle], batch[middle:]
    return [part for half in halves for part in split_on_oom(function, half)]


def available_cores() -> int:
    """Cores that this process may run on, which can be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _problem(device: torch.device) -> str | None:
    """None if a convolution runs on the device, else the reason why not."""
    try:
        image = torch.ones(1, 1, 4, 4, device=device)
        kernel = torch.ones(1, 1, 3, 3, device=device)
        torch.nn.functional.conv2d(image, kernel).sum().item()
    except (RuntimeError, AssertionError) as error:
        return str(error).splitlines()[0]
    return None
