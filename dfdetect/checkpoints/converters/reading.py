"""Read the tensors of a published file without running code from it."""

import _codecs
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from dfdetect.checkpoints.io import CheckpointError
from dfdetect.errors import DfdetectError
from dfdetect.files import NOT_OF_TORCH

SAFETENSORS_SUFFIX = ".safetensors"
KERAS_SUFFIXES = (".h5", ".hdf5", ".keras")
# The first bytes of a zip archive, which torch writes, and of a pickle, which older torch wrote.
TORCH_STARTS = (b"PK", b"\x80")
# Some files also contain the epoch, the optimiser and so on. The state dict then has one of these
# keys.
WRAPPERS = ("state_dict", "model", "net", "model_state_dict")
# The prefix that `DataParallel` puts before every name.
PARALLEL = "module."
# Files often contain numpy numbers, such as scores. Torch may call the functions and classes in
# this list while it loads a file, because they only make numbers.
NUMBERS: list[Any] = [
    np.dtype,
    np.dtypes.Float32DType,
    np.dtypes.Float64DType,
    np.dtypes.Int64DType,
    _codecs.encode,
    (np.float64(0).__reduce__()[0], "numpy.core.multiarray.scalar"),
    (np.float64(0).__reduce__()[0], "numpy._core.multiarray.scalar"),
]


def read_tensors(path: str | Path) -> dict[str, torch.Tensor]:
    """Return all tensors of a file.

    Other content of the file, such as the epoch and the optimiser, is ignored.

    Args:
        path: A file made by `torch.save` (any suffix), a `.safetensors` file, or a Keras file
            (`.h5`), which needs the package h5py.

    Returns:
        A dictionary from the names of the tensors to the tensors, on the CPU and in the precision
        of the file.

    Raises:
        FileNotFoundError: The file does not exist.
        CheckpointError: The file is damaged, contains no tensors, or contains code that would run
            when the file is read.
        DfdetectError: The file is a Keras file, and h5py is not installed.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    if path.suffix in KERAS_SUFFIXES:
        tensors = _read_keras(path)
    elif path.suffix == SAFETENSORS_SUFFIX:
        tensors = _read_safetensors(path)
    else:
        tensors = _without_wrapper(path, _read_torch(path))
    if not tensors:
        raise CheckpointError(f"{path}: it contains no tensors; give the file with the weights")
    return tensors


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"{path}: truncated or damaged ({error}); copy it again") from error


def _read_torch(path: Path) -> Any:
    with path.open("rb") as file:
        start = file.read(2)
    if not start.startswith(TORCH_STARTS):
        raise CheckpointError(
            f"{path}: no checkpoint: give the file with the weights (the names of Keras files end "
            "in .h5, those of safetensors files in .safetensors); this file is truncated, damaged "
            "or not saved by torch"
        )
    try:
        with torch.serialization.safe_globals(NUMBERS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        if "Unsupported" not in str(error):
            raise CheckpointError(f"{path}: not a file of torch ({_first_line(error)})") from error
        raise CheckpointError(
            f"{path}: it contains Python objects, such as a whole network, and loading them would "
            "run code from the file. If you trust the file, open it with the original code and "
            "save only the weights: "
            "torch.save(torch.load(FILE, weights_only=False).state_dict(), NEW)"
        ) from error
    except NOT_OF_TORCH as error:
        raise CheckpointError(f"{path}: truncated, damaged or not saved by torch") from error


def _without_wrapper(path: Path, content: Any) -> dict[str, torch.Tensor]:
    """Return the state dict in the content of a file.

    If all names of tensors begin with the prefix that `DataParallel` adds, the prefix is removed.
    """
    for key in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping) or not any(map(torch.is_tensor, content.values())):
        raise CheckpointError(f"{path}: it contains no state dict of tensors")
    tensors = {
        str(name): tensor.detach() for name, tensor in content.items() if torch.is_tensor(tensor)
    }
    if all(name.startswith(PARALLEL) for name in tensors):
        tensors = {name.removeprefix(PARALLEL): tensor for name, tensor in tensors.items()}
    return tensors


def _read_keras(path: Path) -> dict[str, torch.Tensor]:
    try:
        import h5py
    except ImportError as error:
        raise DfdetectError(
            f"{path}: reading Keras files needs h5py: pip install 'dfdetect[keras]'"
        ) from error
    tensors: dict[str, torch.Tensor] = {}

    def note(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            tensors[name] = torch.from_numpy(np.array(item[()]))

    try:
        with h5py.File(path) as file:
            file.visititems(note)
    except (OSError, TypeError) as error:
        raise CheckpointError(
            f"{path}: not a Keras file of weights, or damaged ({_first_line(error)})"
        ) from error
    return tensors


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
