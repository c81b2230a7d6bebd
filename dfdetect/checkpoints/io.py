"""One .safetensors file holds the weights and all that is needed to use them.

The tensors are the model's state dict (float16 on disk, float32 when loaded). The header's metadata
has one entry, `dfdetect`: a JSON object with the fields of `ModelSpec`, `format`, `version` and
`sha256`, a checksum of the other entries and of the tensors. Loading runs no code from the file,
downloads nothing, and is strict: the header is checked before memory is allocated.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from dfdetect.checkpoints.spec import CHECKSUM_KEY, ModelSpec
from dfdetect.errors import InputError
from dfdetect.files import atomic_path
from dfdetect.models.registry import create_model

METADATA_KEY = "dfdetect"
# A hundred times the size of the default detector's header.
MOST_HEADER_BYTES = 4 * 2**20
FLOAT_TYPES = ("F16", "BF16", "F32")


class CheckpointError(InputError):
    """A file cannot be used as a checkpoint; the message says why and how to fix it."""


def save_checkpoint(path: str | Path, model: nn.Module, spec: ModelSpec) -> None:
    """Write `model` and `spec` to one file, with the weights in float16.

    Raises:
        InputError: A weight is not finite in float16.
    """
    state = {}
    for name, tensor in model.state_dict().items():
        stored = tensor.detach().cpu().contiguous()
        if stored.is_floating_point():
            stored = stored.half()
            if not stored.isfinite().all():
                raise InputError(f"{path}: weights of {name} are not finite in float16")
        state[name] = stored
    with atomic_path(path) as temporary:
        text = spec.to_json()
        signed = {**json.loads(text), CHECKSUM_KEY: _checksum(text, state)}
        save_file(state, temporary, metadata={METADATA_KEY: json.dumps(signed, sort_keys=True)})


def read_spec(path: str | Path) -> ModelSpec:
    """Read a checkpoint's header. The weights are not read, so the checksum is not verified.

    Raises:
        FileNotFoundError: There is no such file.
        CheckpointError: The file is not a checkpoint of this version.
    """
    path = Path(path)
    with _opened(path) as file:
        return _parse(path, _metadata(path, file)[METADATA_KEY])


def load_checkpoint(path: str | Path) -> tuple[nn.Module, ModelSpec]:
    """Rebuild the model of a checkpoint, in float32 on the CPU and in evaluation mode.

    Raises:
        FileNotFoundError: There is no such file.
        CheckpointError: The file is truncated or damaged, is not a checkpoint, has another version,
            or its tensors do not fit its architecture.

    Example:
        >>> model, spec = load_checkpoint(find_weights())
        >>> model(torch.zeros(1, 3, spec.input_size, spec.input_size)).shape
        torch.Size([1, 1])
    """
    path = Path(path)
    with _opened(path) as file:
        text = _metadata(path, file)[METADATA_KEY]
        spec = _parse(path, text)
        _require_tensors_of(path, spec, file)
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    bad = [name for name, tensor in state.items() if not tensor.isfinite().all()]
    if bad:
        raise CheckpointError(f"{path}: weights of {bad[0]} are not finite; the file is damaged")
    said = json.loads(text)
    checksum = said.pop(CHECKSUM_KEY, None)
    if checksum != _checksum(json.dumps(said, sort_keys=True), state):
        raise CheckpointError(f"{path}: its checksum is wrong: the file is damaged; copy it again")
    model = create_model(spec.architecture, **spec.arguments)
    model.load_state_dict(state)
    return model.float().eval(), spec


@contextmanager
def _opened(path: Path) -> Iterator[safe_open]:
    """Open a .safetensors file, after a check that its header is not too large to read."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
        if size > MOST_HEADER_BYTES:
            raise CheckpointError(
                f"{path}: not a checkpoint: its header would have {size} bytes; "
                f"at most {MOST_HEADER_BYTES} are allowed"
            )
        with safe_open(path, framework="pt") as file:
            yield file
    except SafetensorError as error:
        raise CheckpointError(
            f"{path}: not a checkpoint, or truncated: {error}. Copy the file again, or make it "
            "with `dfdetect train`"
        ) from error


def _metadata(path: Path, file: safe_open) -> dict[str, str]:
    metadata = file.metadata() or {}
    if METADATA_KEY not in metadata:
        raise CheckpointError(
            f"{path}: a .safetensors file without dfdetect's header; to use bare weights, start "
            "`dfdetect train --init` from them, which writes a checkpoint"
        )
    return metadata


def _parse(path: Path, text: str) -> ModelSpec:
    try:
        return ModelSpec.from_json(text)
    except (TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise CheckpointError(f"{path}: not a usable checkpoint: {error}") from error


def _require_tensors_of(path: Path, spec: ModelSpec, file: safe_open) -> None:
    """Compare the tensors in the header with those of the architecture, built without memory."""
    try:
        with torch.device("meta"):
            model = create_model(spec.architecture, **spec.arguments)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    expected = {
        name: (tuple(tensor.shape), "float" if tensor.is_floating_point() else "I64")
        for name, tensor in model.state_dict().items()
    }
    found = {}
    for name in file.keys():  # noqa: SIM118
        part = file.get_slice(name)
        kind = part.get_dtype()
        found[name] = tuple(part.get_shape()), "float" if kind in FLOAT_TYPES else kind
    wrong = sorted(
        name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)
    )
    if wrong:
        name = wrong[0]
        raise CheckpointError(
            f"{path}: {len(wrong)} of {len(expected)} tensors do not fit {spec.architecture}; "
            f"first {name!r}: expected {expected.get(name, 'none')}, found "
            f"{found.get(name, 'none')}. The file was written for another architecture."
        )


def _checksum(text: str, state: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 of the header's JSON and of the tensors; independent of their order in the file."""
    digest = sha256(text.encode())
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
