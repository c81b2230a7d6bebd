"""Convert a published checkpoint of another project to a checkpoint of dfdetect."""

from pathlib import Path

import torch

from dfdetect.checkpoints.converters.reading import read_tensors
from dfdetect.checkpoints.converters.registry import AUTO, choose_format, require_format
from dfdetect.checkpoints.converters.tensors import Tensors
from dfdetect.checkpoints.io import save_checkpoint
from dfdetect.checkpoints.spec import ModelSpec
from dfdetect.checkpoints.weights import require_checkpoint_name
from dfdetect.files import require_writable
from dfdetect.models.registry import create_model


def convert(path: str | Path, out: str | Path, *, format: str = AUTO) -> ModelSpec:
    """Convert another project's checkpoint to dfdetect's format, and return the specification.

    The new checkpoint has the crop rule, input size and aggregation of the published detector. No
    code in the file is run. The new weights are float16 if all weights in the file are, otherwise
    float32.

    Args:
        path: The published file: a file made by `torch.save`, a `.safetensors` file, or a Keras
            file (`.h5`).
        out: The `.safetensors` file to write.
        format: A name in `formats()`, or `auto` to recognise the format by the tensors.

    Raises:
        FileNotFoundError: The file does not exist.
        ArgumentError: The name of `out` does not end in `.safetensors`, `out` cannot be written, or
            `format` is neither `auto` nor a name in `formats()`.
        CheckpointError: The file cannot be read, its format is unknown or differs from `format`, or
            its tensors do not fit the network.
        DfdetectError: The file is a Keras file, and the package h5py is not installed.

    Example:
        >>> convert("final_111_DeepFakeClassifier_tf_efficientnet_b7_ns_0_36", "b7.safetensors")
    """
    path, out = Path(path), Path(out)
    require_checkpoint_name(out)
    require_writable(out)
    require_format(format)
    found = read_tensors(path)
    tensors = Tensors(path, found)
    chosen = choose_format(path, tensors.shapes, format)
    spec, state = chosen.read(tensors)
    with torch.device("meta"):  # draws no random weights, which would take longer than all the rest
        model = create_model(spec.architecture, **spec.arguments)
    model.to_empty(device="cpu").load_state_dict(state)
    real = [tensor.dtype for tensor in found.values() if tensor.is_floating_point()]
    save_checkpoint(out, model, spec, half=all(kind == torch.float16 for kind in real))
    return spec
