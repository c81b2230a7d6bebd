"""Read and write checkpoints: .safetensors files with weights and the description of the model.

The tensors are the state dict of the model, in float16 or float32; they are loaded as float32. In
an ensemble, the names of the tensors begin with the number of the member: `0.`, `1.` and so on.

The metadata in the header has one entry, `dfdetect`. This entry is a JSON object with the fields of
`ModelSpec` or `EnsembleSpec`, and with `format`, `version` and `sha256`. The field `sha256` is a
checksum of the other fields and of the tensors.

Loading runs no code from the file and downloads nothing. The file must have exactly the tensors of
its architecture. The names, shapes and dtypes of the tensors are checked before memory is allocated
for them.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from dfdetect.checkpoints.ensemble import (
    CHECKSUM_KEY,
    MEMBER_COUNTS,
    EnsembleSpec,
    join_specs,
    spec_from_json,
)
from dfdetect.checkpoints.spec import ModelSpec
from dfdetect.checkpoints.weights import require_checkpoint_name
from dfdetect.errors import ArgumentError, InputError
from dfdetect.files import atomic_path, require_writable
from dfdetect.models.registry import create_model

METADATA_KEY = "dfdetect"
# Maximum size of a header, a hundred times the size of the default detector's header.
MOST_HEADER_BYTES = 4 * 2**20
FLOAT_TYPES = ("F16", "BF16", "F32")
Spec = ModelSpec | EnsembleSpec


class CheckpointError(InputError):
    """A file cannot be used as a checkpoint. The message says why, and what to do."""


def save_checkpoint(path: str | Path, model: nn.Module, spec: Spec, *, half: bool = True) -> None:
    """Write the weights and the specification of a model to one file.

    Args:
        path: The `.safetensors` file to write.
        model: The network, or an `nn.ModuleList` of the members of an ensemble.
        spec: The specification of the model or of the ensemble.
        half: Whether to store the weights as float16, which halves the size of the file. If False,
            the weights keep their dtype.

    Raises:
        InputError: A weight is infinite or NaN, or too large for float16 if `half` is True.
    """
    state = {}
    for name, tensor in model.state_dict().items():
        stored = tensor.detach().cpu().contiguous()
        if stored.is_floating_point() and half:
            stored = stored.half()
        if not stored.isfinite().all():
            raise InputError(f"{path}: weights of {name} are not finite in {_name(stored.dtype)}")
        state[name] = stored
    with atomic_path(path) as temporary:
        text = spec.to_json()
        signed = {**json.loads(text), CHECKSUM_KEY: _checksum(text, state)}
        save_file(state, temporary, metadata={METADATA_KEY: json.dumps(signed, sort_keys=True)})


def read_spec(path: str | Path) -> Spec:
    """Return the specification in a checkpoint's header.

    The weights are not read, and the checksum is not verified.

    Raises:
        FileNotFoundError: The file does not exist.
        CheckpointError: The file is not a checkpoint, this release cannot read its format version,
            or a field of its header is missing, unknown or wrong.
    """
    path = Path(path)
    with _opened(path) as file:
        return _parse(path, _metadata(path, file)[METADATA_KEY])


def is_half(path: str | Path) -> bool:
    """Return whether all floating-point weights of a checkpoint are stored as float16.

    Raises:
        FileNotFoundError: The file does not exist.
        CheckpointError: The file is not a checkpoint.

    Example:
        >>> is_half(find_weights())
        True
    """
    with _opened(Path(path)) as file:
        kinds = {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
    return kinds.intersection(FLOAT_TYPES) == {"F16"}


def load_checkpoint(path: str | Path) -> tuple[nn.Module, Spec]:
    """Return the model and the specification of a checkpoint.

    The model is in float32, on the CPU and in evaluation mode. For an ensemble, the model is an
    `nn.ModuleList` of the members.

    Raises:
        FileNotFoundError: The file does not exist.
        CheckpointError: The file is damaged or is not a checkpoint, this release cannot read its
            format version, a field of its header is missing, unknown or wrong, or its tensors do
            not fit its architecture.

    Example:
        >>> model, spec = load_checkpoint(find_weights())
        >>> model(torch.zeros(1, 3, spec.input_size, spec.input_size)).shape
        torch.Size([1, 1])
    """
    path = Path(path)
    with _opened(path) as file:
        text = _metadata(path, file)[METADATA_KEY]
        spec = _parse(path, text)
        model = _build_without_memory(path, spec, file)
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    bad = [name for name, tensor in state.items() if not tensor.isfinite().all()]
    if bad:
        raise CheckpointError(f"{path}: weights of {bad[0]} are not finite; the file is damaged")
    said = json.loads(text)
    checksum = said.pop(CHECKSUM_KEY, None)
    if checksum != _checksum(json.dumps(said, sort_keys=True), state):
        raise CheckpointError(f"{path}: its checksum is wrong: the file is damaged; copy it again")
    # A model with buffers that the file does not store is built with memory, because only then do
    # these buffers have the right values. This also draws random weights, which takes longer than
    # reading the stored weights. All other models are therefore left empty until they are loaded.
    if all(name in state for name, _ in model.named_buffers()):
        model.to_empty(device="cpu")
    else:
        model = _build(spec)
    model.load_state_dict(state)
    return model.float().eval(), spec


def load_ensemble(
    paths: Sequence[str | Path], shares: Sequence[float] | None = None
) -> tuple[nn.Module, Spec]:
    """Load checkpoints as an ensemble, and return the ensemble's models and specification.

    The models are an `nn.ModuleList` with one model for each member. If there is only one
    checkpoint, the function ignores `shares` and returns what `load_checkpoint` returns.

    Args:
        paths: One or more checkpoints. A checkpoint that is itself an ensemble is replaced by its
            members.
        shares: Weight of each checkpoint in the mean of the logits, as in `join_specs`. None means
            equal weights.

    Raises:
        FileNotFoundError: A file does not exist.
        CheckpointError: A file is not a usable checkpoint.
        ArgumentError: `paths` is empty, the ensemble would have more than 64 members, `shares` and
            `paths` differ in length, or a share is infinite or not above 0.

    Example:
        >>> model, spec = load_ensemble([find_weights("cnn_lstm"), find_weights("xception")])
        >>> [member.architecture for member in spec.members]
        ['cnn_lstm', 'xception']
    """
    loaded = [load_checkpoint(path) for path in paths]
    if len(loaded) == 1:
        return loaded[0]
    models: list[nn.Module] = []
    for model, _ in loaded:
        models += model if isinstance(model, nn.ModuleList) else [model]
    return nn.ModuleList(models), join_specs([spec for _, spec in loaded], shares)


def make_ensemble(
    paths: Sequence[str | Path], out: str | Path, *, shares: Sequence[float] | None = None
) -> EnsembleSpec:
    """Write an ensemble of several checkpoints to a file, and return the new specification.

    The ensemble has the aggregation of the first checkpoint. It has no operating points (thresholds
    of the verdicts). If a checkpoint has float32 weights, all weights are written in float32, so
    that no weight is rounded.

    Args:
        paths: Two or more checkpoints, as in `load_ensemble`.
        out: The `.safetensors` file to write.
        shares: Weight of each checkpoint in the mean of the logits, as in `join_specs`. None means
            equal weights.

    Raises:
        FileNotFoundError: A file does not exist.
        CheckpointError: A file is not a usable checkpoint.
        ArgumentError: `paths` has fewer than two elements or contains `out`, or the ensemble would
            have more than 64 members. Or the name of `out` does not end in `.safetensors`, or `out`
            cannot be written. Or `shares` and `paths` differ in length, or a share is infinite or
            not above 0.

    Example:
        >>> make_ensemble(["a.safetensors", "b.safetensors"], "both.safetensors").shares
        (0.5, 0.5)
    """
    require_checkpoint_name(Path(out))
    if len(paths) < MEMBER_COUNTS[0]:
        raise ArgumentError(f"{out}: an ensemble needs at least {MEMBER_COUNTS[0]} checkpoints")
    if Path(out).resolve() in {Path(path).resolve() for path in paths}:
        raise ArgumentError(f"{out}: is a member of the ensemble; write to another file")
    require_writable(out)
    model, spec = load_ensemble(paths, shares)
    assert isinstance(spec, EnsembleSpec)  # because there are two or more checkpoints
    save_checkpoint(out, model, spec, half=all(map(is_half, paths)))
    return spec


@contextmanager
def _opened(path: Path) -> Iterator[safe_open]:
    """Open a .safetensors file after checking that its header is not too large to read."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            first = file.read(1)
        if first not in (b"{", b""):  # the header is a JSON object
            raise CheckpointError(
                f"{path}: not a checkpoint: it is no .safetensors file, or damaged; give a file "
                "that `dfdetect train` or `dfdetect convert` wrote"
            )
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
            f"{path}: a .safetensors file without dfdetect's header; to use bare weights, train a "
            "checkpoint from them with `dfdetect train --init`"
        )
    return metadata


def _parse(path: Path, text: str) -> Spec:
    try:
        return spec_from_json(text)
    except (TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise CheckpointError(f"{path}: not a usable checkpoint: {error}") from error


def _build(spec: Spec) -> nn.Module:
    """Build the model, or the members of the ensemble, with random weights."""
    models = [create_model(member.architecture, **member.arguments) for member in spec.members]
    return nn.ModuleList(models) if isinstance(spec, EnsembleSpec) else models[0]


def _build_without_memory(path: Path, spec: Spec, file: safe_open) -> nn.Module:
    """Return the model that `spec` describes, without memory for the model's tensors.

    The function reads only the header of the file.

    Raises:
        CheckpointError: The file does not have exactly the tensors of the model.
    """
    try:
        with torch.device("meta"):
            model = _build(spec)
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
        architectures = " and ".join(member.architecture for member in spec.members)
        raise CheckpointError(
            f"{path}: {len(wrong)} of {len(expected)} tensors do not fit {architectures}; "
            f"first {name!r}: expected {expected.get(name, 'none')}, found "
            f"{found.get(name, 'none')}. The file was written for another architecture."
        )
    return model


def _name(kind: torch.dtype) -> str:
    return str(kind).removeprefix("torch.")


def _checksum(text: str, state: Mapping[str, torch.Tensor]) -> str:
    """Return the SHA-256 of the header's JSON text and of the tensors.

    The text comes first. The tensors follow in the order of their names.
    """
    digest = sha256(text.encode())
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
