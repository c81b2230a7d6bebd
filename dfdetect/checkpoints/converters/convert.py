"""Turn a published checkpoint into one of this package."""

from pathlib import Path

import torch

from dfdetect.checkpoints.converters.reading import read_tensors
from dfdetect.checkpoints.converters.registry import AUTO, choose_format, require_format
from dfdetect.checkpoints.converters.tensors import Tensors
from dfdetect.checkpoints.io import save_checkpoint
from dfdetect.checkpoints.spec import ModelSpec
from dfdetect.checkpoints.weights import require_checkpoint_name
from dfdetect.models.registry import create_model


def convert(path: str | Path, out: str | Path, *, format: str = AUTO) -> ModelSpec:
    """Convert a published checkpoint, with the crop, size and aggregation that belong to it.

    Nothing in the file is run. Its weights keep their precision.

    Args:
        path: The published file: made by `torch.save`, a `.safetensors` file, or a `.h5` of Keras.
        out: The `.safetensors` file to write.
        format: One of `formats()`, or `auto` to recognise it by the tensors.

    Returns:
        The specification that the new checkpoint holds.

    Raises:
        FileNotFoundError: There is no such file.
        ArgumentError: `out` has another suffix, or there is no such format.
        CheckpointError: The file cannot be read, is in another format, or a tensor is missing or
            left over.

    Example:
        >>> convert("final_111_DeepFakeClassifier_tf_efficientnet_b7_ns_0_36", "b7.safetensors")
    """
    path, out = Path(path), Path(out)
    require_checkpoint_name(out)
    require_format(format)
    found = read_tensors(path)
    tensors = Tensors(path, found)
    chosen = choose_format(path, tensors.shapes, format)
    spec, state = chosen.read(tensors)
    model = create_model(spec.architecture, **spec.arguments)
    model.load_state_dict(state)
    real = [tensor.dtype for tensor in found.values() if tensor.is_floating_point()]
    save_checkpoint(out, model, spec, half=all(kind == torch.float16 for kind in real))
    return spec
