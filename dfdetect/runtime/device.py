"""Choose the device on which networks run, and adapt dtypes and batches to the device."""

import os
import warnings
from collections.abc import Callable, Sequence
from threading import Lock
from typing import Any, TypeVar

import torch

from dfdetect.errors import ArgumentError

Part = TypeVar("Part")
# Lowest compute capability of Ampere GPUs.
AMPERE = (8, 0)
_ALONE = Lock()


def choose_device(device: str = "auto") -> torch.device:
    """Return the torch device with the name `device`, after checking that the device works.

    If `device` is `auto` and the GPU does not work, a warning gives the reason, and the CPU is
    returned.

    Args:
        device: `auto`, `cpu`, `cuda` or `cuda:N`. `auto` is the first GPU, or the CPU if there is
            no GPU.

    Raises:
        ArgumentError: The name is unknown, or a device other than `auto` does not work.
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
        known = chosen.type in ("cpu", "cuda")
    except RuntimeError:
        known = False
    if not known:
        raise ArgumentError(f"unknown device {device!r}: use auto, cpu, cuda or cuda:N")
    problem = _problem(chosen)
    if problem is not None:
        raise ArgumentError(f"device {device!r} is not usable, try device 'cpu': {problem}")
    return chosen


def has_fast_half(device: torch.device) -> bool:
    """Return whether a device multiplies matrices faster in half precision than in float32.

    GPUs are faster in half precision. CPUs are faster in half precision only if they have matrix
    units (Intel AMX). All other CPUs are many times slower in half precision than in float32.
    """
    if device.type != "cpu":
        return True
    # Older versions of torch do not have the function `get_capabilities`.
    read: Callable[[], dict[str, Any]] = getattr(torch.cpu, "get_capabilities", dict)
    return bool(read().get("amx_bf16", False))


def half_type(device: torch.device) -> torch.dtype:
    """Return the dtype for half precision: bfloat16, or float16 on GPUs older than Ampere."""
    old = device.type == "cuda" and torch.cuda.get_device_capability(device) < AMPERE
    return torch.float16 if old else torch.bfloat16


def other_gpus(device: torch.device) -> list[torch.device]:
    """Return the GPUs that can be used in addition to a device.

    The device `cuda` stands for all GPUs. For `cuda`, the list therefore holds all working GPUs
    except the first. For any other device, such as `cuda:0` or `cpu`, the list is empty.
    """
    if device != torch.device("cuda"):
        return []
    others = [torch.device("cuda", number) for number in range(1, torch.cuda.device_count())]
    return [other for other in others if _problem(other) is None]


def describe(device: torch.device) -> str:
    """Return a readable name of a device.

    For the device `cuda`, the result names all GPUs.

    Example:
        >>> describe(choose_device("cpu"))
        '2 cores of the CPU'
    """
    if device.type == "cpu":
        return f"{available_cores()} cores of the CPU"
    return ", ".join(map(torch.cuda.get_device_name, [device, *other_gpus(device)]))


def split_on_oom(function: Callable[[Sequence], Sequence[Part]], batch: Sequence) -> list[Part]:
    """Apply a function to a batch, or to parts of the batch if it is too large for the GPU memory.

    Args:
        function: A function that takes a batch and returns one result for each item of the batch.
        batch: Any object that has a length and can be sliced.

    Returns:
        One result for each item, in the order of the items.

    Raises:
        torch.cuda.OutOfMemoryError: The memory is too small even for a single item.
    """
    try:
        return list(function(batch))
    except torch.cuda.OutOfMemoryError:
        pass  # the traceback keeps memory in use until this block ends
    if len(batch) == 1:  # other threads may have used the memory, so one thread retries alone
        with _ALONE:
            torch.cuda.empty_cache()
            return list(function(batch))
    middle = len(batch) // 2
    halves = batch[:middle], batch[middle:]
    return [part for half in halves for part in split_on_oom(function, half)]


def available_cores() -> int:
    """Return the number of CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _problem(device: torch.device) -> str | None:
    """Try a convolution on a device, and return the error message, or None if there is no error."""
    try:  # torch also lists GPUs that are too old for its kernels
        image = torch.ones(1, 1, 4, 4, device=device)
        kernel = torch.ones(1, 1, 3, 3, device=device)
        torch.nn.functional.conv2d(image, kernel).sum().item()
    except (RuntimeError, AssertionError) as error:
        return str(error).splitlines()[0]
    return None
